//! The services of a snapshot, by name and by address, and who stands behind each.

use std::{net::IpAddr, sync::Arc};

use imbl::{HashMap, OrdMap, OrdSet};
use ipnet::IpNet;

use super::{claims::Claims, filed::ByUid};
use crate::{
    NetworkAddress, Workload, WorkloadUid,
    balance::Balance,
    service::{Service, ServiceKey, Vip},
};

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Services {
    all: OrdMap<ServiceKey, KnownService>,
    by_vip: Claims<Vip>,
    by_hostname: Claims<Arc<str>>,
    /// How many addresses and blocks there are of each length, by `is_ipv6`: what a look-up has to try.
    lengths: OrdMap<(bool, u8), usize>,
    /// Also of services that are not known yet.
    endpoints: HashMap<ServiceKey, OrdSet<ByUid>>,
}

/// A service with all that choosing an endpoint of it takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KnownService {
    pub(crate) key: ServiceKey,
    pub(crate) service: Arc<Service>,
    pub(crate) balance: Balance,
    /// Its endpoints by their own names, where they are reached by them: if it has no address of its own.
    named: OrdSet<(Arc<str>, WorkloadUid)>,
}

impl Services {
    pub(super) fn insert(&mut self, service: Service) {
        let key = service.key();
        self.remove(&key);
        for vip in &service.vips {
            self.by_vip.insert(vip.clone(), &service, &key);
            *self.lengths.entry(length(vip)).or_insert(0) += 1;
        }
        self.by_hostname.insert(Arc::clone(&key.hostname), &service, &key);
        let balance = Balance::new(&service, self.endpoints(&key));
        let by_name = self.endpoints(&key).filter(|_| service.vips.is_empty());
        let named = by_name.map(|endpoint| by_own_name(endpoint)).collect();
        let known = KnownService { key: key.clone(), service: Arc::new(service), balance, named };
        self.all.insert(key, known);
    }

    pub(super) fn remove(&mut self, key: &ServiceKey) {
        let Some(old) = self.all.remove(key) else { return };
        for vip in &old.service.vips {
            self.by_vip.remove(vip.clone(), &old.service, key);
            self.forget_length(length(vip));
        }
        self.by_hostname.remove(Arc::clone(&key.hostname), &old.service, key);
    }

    pub(super) fn insert_endpoint(&mut self, endpoint: &Arc<Workload>) {
        for key in endpoint.services.keys() {
            let endpoints = self.endpoints.entry(key.clone()).or_default();
            endpoints.insert(ByUid(Arc::clone(endpoint)));
            if let Some(known) = self.all.get_mut(key) {
                known.balance.insert(&known.service, endpoint);
                if known.service.vips.is_empty() {
                    known.named.insert(by_own_name(endpoint));
                }
            }
        }
    }

    pub(super) fn remove_endpoint(&mut self, endpoint: &Arc<Workload>) {
        for key in endpoint.services.keys() {
            if let Some(endpoints) = self.endpoints.get_mut(key) {
                endpoints.remove(&endpoint.uid);
                if endpoints.is_empty() {
                    self.endpoints.remove(key);
                }
            }
            if let Some(known) = self.all.get_mut(key) {
                known.balance.remove(&known.service, endpoint);
                known.named.remove(&by_own_name(endpoint));
            }
        }
    }

    pub(super) fn get(&self, key: &ServiceKey) -> Option<&KnownService> {
        self.all.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.all.values().map(|known| &known.service)
    }

    pub(super) fn endpoints(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<Workload>> + use<'_> {
        self.endpoints.get(key).into_iter().flatten().map(|ByUid(endpoint)| endpoint)
    }

    /// The service that has this very address.
    pub(super) fn at(&self, address: &NetworkAddress, namespace: &str) -> Option<&KnownService> {
        self.in_block(address, address.ip.into(), namespace)
    }

    /// The service that has the narrowest block around this address.
    pub(super) fn around(&self, address: &NetworkAddress, namespace: &str) -> Option<&KnownService> {
        let NetworkAddress { ip, .. } = *address;
        let is_ipv6 = ip.is_ipv6();
        let shorter = self.lengths.range((is_ipv6, 0)..(is_ipv6, exact_length(ip))).rev();
        shorter
            .filter_map(|((_, length), _)| IpNet::new(ip, *length).ok())
            .find_map(|block| self.in_block(address, block, namespace))
    }

    pub(super) fn named(&self, hostname: &str, namespace: &str) -> Option<&KnownService> {
        self.all.get(&self.by_hostname.holder(&hostname.into(), namespace)?)
    }

    /// The endpoints of this own name of a service without addresses. More than one only while a pod's successor of the
    /// same name is known already.
    pub(super) fn endpoints_named(
        &self,
        service: &ServiceKey,
        name: &str,
    ) -> impl Iterator<Item = &Arc<Workload>> + use<'_> {
        let least = (Arc::<str>::from(name), WorkloadUid::new(""));
        let known = self.all.get(service);
        let all = self.endpoints.get(service);
        let from = known.into_iter().flat_map(move |known| {
            let name = Arc::clone(&least.0);
            known.named.range(least.clone()..).take_while(move |(found, _)| *found == name)
        });
        from.filter_map(move |(_, uid)| all.and_then(|all| all.get(uid))).map(|ByUid(endpoint)| endpoint)
    }

    fn in_block(&self, address: &NetworkAddress, block: IpNet, namespace: &str) -> Option<&KnownService> {
        let vip = Vip::new(address.network.clone(), block);
        self.all.get(&self.by_vip.holder(&vip, namespace)?)
    }

    fn forget_length(&mut self, length: (bool, u8)) {
        let left = self.lengths.get(&length).copied().unwrap_or_default();
        if left > 1 {
            self.lengths.insert(length, left - 1);
        } else {
            self.lengths.remove(&length);
        }
    }
}

fn by_own_name(endpoint: &Workload) -> (Arc<str>, WorkloadUid) {
    (Arc::clone(&endpoint.name), endpoint.uid.clone())
}

fn length(vip: &Vip) -> (bool, u8) {
    let block = vip.block();
    (block.addr().is_ipv6(), block.prefix_len())
}

fn exact_length(ip: IpAddr) -> u8 {
    IpNet::from(ip).max_prefix_len()
}
