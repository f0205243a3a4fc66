//! Where a rule is filed: under conditions without which it cannot hold, and which a connection looks up instead
//! of trying. Of a rule's clauses the most telling one is taken.

use std::sync::Arc;

use ipnet::IpNet;

use super::{Match, StringMatch, compiled::Rule};

/// A necessary condition on the two ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    Principal(Arc<str>),
    Account { namespace: Arc<str>, service_account: Arc<str> },
    Source(IpNet),
    Destination(IpNet),
    Namespace(Arc<str>),
    PrincipalLike(Affix),
    NamespaceLike(Affix),
    Any,
}

/// How a text begins or ends; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Affix {
    Prefix(Arc<str>),
    Suffix(Arc<str>),
}

/// More ports than this are not worth an entry for each.
const MAX_PORTS: usize = 32;

impl Rule {
    /// If the rule holds for a connection, one of these does.
    pub(super) fn ends(&self) -> Vec<Ends> {
        let told = self.clauses.iter().filter_map(|clause| {
            clause.iter().map(Match::ends).collect::<Option<Vec<_>>>().map(|ends| ends.concat())
        });
        told.min_by_key(|ends| ends.iter().map(Ends::vagueness).max()).unwrap_or_else(|| vec![Ends::Any])
    }

    /// If the rule holds for a connection, it is to one of these ports; to any if there are none.
    pub(super) fn ports(&self) -> Vec<u16> {
        let told =
            self.clauses.iter().filter(|clause| clause.iter().all(|m| !m.destination_ports.is_empty()));
        let ports = told.map(|clause| {
            let mut ports: Vec<u16> =
                clause.iter().flat_map(|m| m.destination_ports.iter().copied()).collect();
            ports.sort_unstable();
            ports.dedup();
            ports
        });
        ports.min_by_key(Vec::len).filter(|ports| ports.len() <= MAX_PORTS).unwrap_or_default()
    }
}

impl Ends {
    /// The lower, the fewer connections are likely to fulfil it.
    fn vagueness(&self) -> u8 {
        match self {
            Self::Principal(_) | Self::Account { .. } => 0,
            Self::Source(_) => 1,
            Self::Destination(_) => 2,
            Self::Namespace(_) => 3,
            Self::PrincipalLike(_) => 4,
            Self::NamespaceLike(_) => 5,
            Self::Any => 6,
        }
    }
}

impl Match {
    /// The most telling field that is a list of values which can be looked up.
    fn ends(&self) -> Option<Vec<Ends>> {
        let accounts = self.service_accounts.iter().map(|account| Ends::Account {
            namespace: account.namespace.as_str().into(),
            service_account: account.service_account.as_str().into(),
        });
        let telling = |nets: &[IpNet], ends: fn(IpNet) -> Ends| {
            let all = nets.iter().map(|net| (net.prefix_len() > 0).then(|| ends(net.trunc()))).collect();
            some(all)
        };
        some(Some(accounts.collect()))
            .or_else(|| some(texts(&self.principals, Ends::Principal, Ends::PrincipalLike)))
            .or_else(|| telling(&self.source_ips, Ends::Source))
            .or_else(|| telling(&self.destination_ips, Ends::Destination))
            .or_else(|| some(texts(&self.namespaces, Ends::Namespace, Ends::NamespaceLike)))
    }
}

fn texts(texts: &[StringMatch], exact: fn(Arc<str>) -> Ends, like: fn(Affix) -> Ends) -> Option<Vec<Ends>> {
    let all = texts.iter().map(|text| match text {
        StringMatch::Exact(text) => Some(exact(text.as_str().into())),
        StringMatch::Prefix(text) if !text.is_empty() => Some(like(Affix::Prefix(text.as_str().into()))),
        StringMatch::Suffix(text) if !text.is_empty() => Some(like(Affix::Suffix(text.as_str().into()))),
        StringMatch::Prefix(_) | StringMatch::Suffix(_) | StringMatch::Presence => None,
    });
    all.collect()
}

fn some(ends: Option<Vec<Ends>>) -> Option<Vec<Ends>> {
    ends.filter(|ends| !ends.is_empty())
}
