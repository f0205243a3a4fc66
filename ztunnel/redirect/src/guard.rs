//! Watching over what a pod with CAP_NET_ADMIN could undo in its own namespace.

use crate::{EnrolledPod, RedirectError, Redirector, routing, routing::Repair, sysctl};

/// Something that was not as enrolment left it. All but the first are repaired by the time they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The namespace's name is gone: the pod was deleted.
    NamespaceGone,
    SysctlChanged(&'static str),
    RuleMissing,
    RouteMissing,
    /// A rule as early as ours would have led steered packets elsewhere.
    ForeignRule,
    /// A route in our table that is not ours.
    ForeignRoute,
    /// A listener of the daemon: without it the pod is on its own, closed or open as it chose.
    ListenerClosed,
}

impl Finding {
    pub fn reason(self) -> &'static str {
        match self {
            Self::NamespaceGone => "namespace_gone",
            Self::SysctlChanged(_) => "sysctl_changed",
            Self::RuleMissing => "rule_missing",
            Self::RouteMissing => "route_missing",
            Self::ForeignRule => "foreign_rule",
            Self::ForeignRoute => "foreign_route",
            Self::ListenerClosed => "listener_closed",
        }
    }
}

impl Redirector {
    /// Looks at the pod's namespace and repairs what steering needs.
    pub async fn inspect(&self, pod: &EnrolledPod) -> Result<Vec<Finding>, RedirectError> {
        if !pod.namespace.is_named() {
            return Ok(vec![Finding::NamespaceGone]);
        }
        let reopened = std::iter::repeat_n(Finding::ListenerClosed, self.reopen(pod)?);
        self.keep_attached(pod)?;
        let sysctls = sysctl::ensure(&pod.namespace)?.into_iter().map(Finding::SysctlChanged);
        let routing = routing::ensure(&pod.namespace, &pod.spec).await?.into_iter().map(Finding::from);
        Ok(reopened.chain(sysctls).chain(routing).collect())
    }
}

impl From<Repair> for Finding {
    fn from(repair: Repair) -> Self {
        match repair {
            Repair::RuleAdded => Self::RuleMissing,
            Repair::RouteAdded => Self::RouteMissing,
            Repair::ForeignRuleRemoved => Self::ForeignRule,
            Repair::ForeignRouteRemoved => Self::ForeignRoute,
        }
    }
}
