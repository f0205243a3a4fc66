//! Host names of workloads that have no address in the state, and who looks them up.

use std::{net::IpAddr, pin::Pin, sync::Arc};

/// Why a host name gave no address.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    #[error("there is no host `{0}`")]
    NotFound(Arc<str>),
    #[error("looking up `{host}`: {cause}")]
    Failed { host: Arc<str>, cause: Arc<str> },
    #[error("looking up `{0}` took too long")]
    Deadline(Arc<str>),
    #[error("as many look-ups as may be are under way")]
    TooMany,
}

impl NameError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "host_name_not_found",
            Self::Failed { .. } => "host_name_failed",
            Self::Deadline(_) => "host_name_deadline",
            Self::TooMany => "host_name_limit",
        }
    }
}

pub type Addresses<'a> = Pin<Box<dyn Future<Output = Result<Arc<[IpAddr]>, NameError>> + Send + 'a>>;

/// Looks host names up, within a deadline and with a bounded memory of answers.
pub trait HostNames: Send + Sync + 'static {
    /// At least one address.
    fn addresses<'a>(&'a self, host: &'a str) -> Addresses<'a>;
}
