//! Workloads in ordered sets, each filed under what it says itself: the sets are maps, at the price of a pointer each.

use std::{borrow::Borrow, cmp::Ordering, net::IpAddr, sync::Arc};

use equivalent::{Comparable, Equivalent};

use crate::{NetworkAddress, Workload, WorkloadUid, service::ServiceKey};

/// By uid: in order, nothing else counts, and sets of them are equal if the uids are. Entries are if all of it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ByUid(pub(super) Arc<Workload>);

/// By one of its addresses, then by uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ByAddress {
    pub(super) ip: IpAddr,
    pub(super) workload: Arc<Workload>,
}

/// By its own host name, with its namespace, then by uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ByHostname(pub(super) Arc<Workload>);

/// Just before all that are filed under the host name.
pub(super) struct BeforeName<'a>(pub(super) &'a ServiceKey);

/// Just before all that are filed under the address.
pub(super) struct Before<'a>(pub(super) &'a NetworkAddress);

impl Ord for ByUid {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.uid.cmp(&other.0.uid)
    }
}

impl PartialOrd for ByUid {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Borrow<WorkloadUid> for ByUid {
    fn borrow(&self) -> &WorkloadUid {
        &self.0.uid
    }
}

impl ByAddress {
    pub(super) fn is_at(&self, address: &NetworkAddress) -> bool {
        self.ip == address.ip && self.workload.network == address.network
    }
}

impl Ord for ByAddress {
    fn cmp(&self, other: &Self) -> Ordering {
        let (own, others) = (&self.workload, &other.workload);
        (self.ip, &own.network, &own.uid).cmp(&(other.ip, &others.network, &others.uid))
    }
}

impl PartialOrd for ByAddress {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl ByHostname {
    pub(super) fn is_called(&self, name: &ServiceKey) -> bool {
        self.0.namespace == name.namespace && self.0.hostname == name.hostname
    }
}

impl Ord for ByHostname {
    fn cmp(&self, other: &Self) -> Ordering {
        let (Self(own), Self(others)) = (self, other);
        (&own.namespace, &own.hostname, &own.uid).cmp(&(&others.namespace, &others.hostname, &others.uid))
    }
}

impl PartialOrd for ByHostname {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Equivalent<ByHostname> for BeforeName<'_> {
    fn equivalent(&self, _: &ByHostname) -> bool {
        false
    }
}

impl Comparable<ByHostname> for BeforeName<'_> {
    fn compare(&self, ByHostname(filed): &ByHostname) -> Ordering {
        let Self(ServiceKey { namespace, hostname }) = self;
        (namespace, hostname).cmp(&(&filed.namespace, &filed.hostname)).then(Ordering::Less)
    }
}

impl Equivalent<ByAddress> for Before<'_> {
    fn equivalent(&self, _: &ByAddress) -> bool {
        false
    }
}

impl Comparable<ByAddress> for Before<'_> {
    fn compare(&self, filed: &ByAddress) -> Ordering {
        let Self(address) = self;
        (address.ip, &address.network).cmp(&(filed.ip, &filed.workload.network)).then(Ordering::Less)
    }
}
