//! What a name means to the pod that asks for it.

use std::{net::IpAddr, sync::Arc};

use hickory_proto::rr::Name;
use model::{Snapshot, Workload, service::Service};

/// Endpoints that are looked at for one answer, so that none keeps others waiting for long.
const MAX_ENDPOINTS: usize = 1024;

/// A name that state knows.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) service: &'a Arc<Service>,
    /// The name in full.
    pub(crate) host: String,
    /// The service's endpoint of this name was asked for, not the service.
    endpoint: Option<String>,
}

/// The labels as a host name in lower case. Labels can hold any byte, a dot among them; such are names of nothing here.
pub(crate) fn host(name: &Name) -> Option<String> {
    let mut host = String::with_capacity(name.len());
    for label in name.iter() {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !label.iter().all(is_plain) {
            return None;
        }
        if !host.is_empty() {
            host.push('.');
        }
        host.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
    (!host.is_empty()).then_some(host)
}

/// The name as it is goes first, then as part of a wildcard, then with each of the domains that Kubernetes has a pod's
/// resolver search: `web`, `web.shop` and `web.shop.svc` are names of `web.shop.svc.cluster.local`.
pub(crate) fn find<'a>(
    snapshot: &'a Snapshot,
    client: &Workload,
    asked: String,
    cluster_domain: &str,
) -> Option<Found<'a>> {
    let namespace = &client.namespace;
    if let Some(found) = find_whole(snapshot, namespace, &asked) {
        return Some(found);
    }
    if let Some(service) = snapshot.service_around(&asked, namespace) {
        return Some(Found { service, host: asked, endpoint: None });
    }
    let searched = [
        format!("{asked}.{namespace}.svc.{cluster_domain}"),
        format!("{asked}.svc.{cluster_domain}"),
        format!("{asked}.{cluster_domain}"),
    ];
    searched.iter().find_map(|host| find_whole(snapshot, namespace, host))
}

/// A service, or an endpoint of one by its own name.
fn find_whole<'a>(snapshot: &'a Snapshot, namespace: &str, host: &str) -> Option<Found<'a>> {
    if let Some(service) = snapshot.service_named(host, namespace) {
        return Some(Found { service, host: host.to_owned(), endpoint: None });
    }
    let (own, of) = host.split_once('.')?;
    let service = snapshot.service_named(of, namespace)?;
    snapshot.endpoints_named(&service.key(), own).next()?;
    Some(Found { service, host: host.to_owned(), endpoint: Some(own.to_owned()) })
}

impl<'a> Found<'a> {
    /// The service itself has addresses, wherever.
    pub(crate) fn has_own_addresses(&self) -> bool {
        !self.service.vips.is_empty()
    }

    pub(crate) fn is_endpoint(&self) -> bool {
        self.endpoint.is_some()
    }

    /// Its own addresses in the client's network.
    pub(crate) fn own_addresses(&self, client: &Workload) -> impl Iterator<Item = IpAddr> + use<'a> {
        let network = client.network.clone();
        let vips = self.service.vips.iter().filter(move |vip| vip.is_exact() && vip.network == network);
        vips.map(|vip| vip.block().addr())
    }

    /// The first `most` of those that stand behind it in the client's network, are to be sent to, and are `wanted`. `None`
    /// if nobody there has an address, well or not.
    pub(crate) fn endpoints(
        &self,
        snapshot: &'a Snapshot,
        client: &Workload,
        most: usize,
        wanted: impl Fn(&Workload) -> bool,
    ) -> Option<Vec<&'a Arc<Workload>>> {
        let key = self.service.key();
        let named = self.endpoint.as_deref().map(|own| snapshot.endpoints_named(&key, own));
        let all = self.endpoint.is_none().then(|| snapshot.endpoints(&key));
        let considered = named.into_iter().flatten().chain(all.into_iter().flatten()).take(MAX_ENDPOINTS);
        let is_near = |endpoint: &&Arc<Workload>| {
            endpoint.network == client.network && addresses(self.service, endpoint).next().is_some()
        };
        let mut is_known = false;
        let near = considered.filter(is_near).inspect(|_| is_known = true);
        let well =
            near.filter(|endpoint| self.service.wants(endpoint) && wanted(endpoint)).take(most).collect();
        is_known.then_some(well)
    }
}

/// Where an endpoint is reached for this service.
pub(crate) fn addresses(service: &Service, endpoint: &Workload) -> impl Iterator<Item = IpAddr> {
    endpoint.workload_ips.iter().copied().filter(|ip| service.admits(*ip))
}
