//! State that is fetched when somebody first needs it, and who fetches it.

use std::{fmt::Debug, net::IpAddr, pin::Pin, sync::Arc};

use crate::{Workload, WorkloadUid};

/// Why it is not known who somebody is. Whoever that is must not be taken for an outsider.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unlearned {
    #[error("the control plane has not said who `{0}` is")]
    Unanswered(Arc<str>),
    #[error("as much is asked of the control plane as may be")]
    TooMany,
}

impl Unlearned {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unanswered(_) => "control_plane_silent",
            Self::TooMany => "control_plane_limit",
        }
    }
}

pub type Learning<'a> = Pin<Box<dyn Future<Output = Result<(), Unlearned>> + Send + 'a>>;

/// Brings into the snapshot what can be known of somebody, within a deadline of its own. Whom nobody knows is learned
/// too: the snapshot has nothing then, and that is the answer.
pub trait Demand: Debug + Send + Sync + 'static {
    /// A pod of this node.
    fn local<'a>(&'a self, uid: &'a WorkloadUid) -> Learning<'a>;

    /// Who has `ip` for `source`, and what its traffic must pass.
    fn destination<'a>(&'a self, source: &'a Workload, ip: IpAddr) -> Learning<'a>;

    /// The service of this host name, for a client of `namespace`.
    fn host<'a>(&'a self, host: &'a str, namespace: &'a str) -> Learning<'a>;
}
