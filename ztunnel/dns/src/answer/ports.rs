//! SRV: on which ports a service is served, and by whom (RFC 2782, and the DNS specification of Kubernetes).

use std::str::FromStr;

use hickory_proto::rr::{Name, RData, Record, rdata::SRV};
use model::{resolve::target_port, service::Service, workload::Workload};

use super::{Asking, LIFETIME, Records, address};
use crate::names::{Found, addresses, host};

/// The least that a record takes besides the service's name, which is never by reference in it: name, head, three
/// numbers, and the label of the endpoint.
const SERVED_BYTES: usize = 20;

/// Which ports of a service are asked for.
enum Ports {
    All,
    One(u16),
}

impl<'a> Asking<'a> {
    /// Of `_http._tcp.web.shop` the port of this name or number, of `web.shop` all.
    pub(super) fn ports(&self, name: &Name) -> Option<Records> {
        let (port, service) = split(host(name)?)?;
        let found = self.find(service).filter(|found| !found.is_endpoint())?;
        let ports = match port {
            None => Ports::All,
            Some(port) => Ports::One(port_called(found.service, &port)?),
        };
        let asked = |port: &u16| match ports {
            Ports::All => true,
            Ports::One(one) => *port == one,
        };
        let ports: Vec<u16> = found.service.ports.keys().copied().filter(asked).collect();
        if found.has_own_addresses() {
            self.own_ports(name, &found, &ports)
        } else {
            self.endpoints_ports(name, &found, &ports)
        }
    }

    fn own_ports(&self, name: &Name, found: &Found<'a>, ports: &[u16]) -> Option<Records> {
        let target = full_name(&found.host)?;
        let own = self.addresses_of(found, |_| true)?;
        let answers = ports.iter().map(|&port| served(name, port, &target)).collect();
        Some(Records { answers, additionals: own.into_iter().map(|ip| address(&target, ip)).collect() })
    }

    /// Each endpoint by its own name, on its own port.
    fn endpoints_ports(&self, name: &Name, found: &Found<'a>, ports: &[u16]) -> Option<Records> {
        let most = self.most(SERVED_BYTES + found.host.len());
        let mut well = found.endpoints(self.snapshot, self.client, most, |_| true)?;
        self.rotate(&mut well);
        let mut records = Records::default();
        for endpoint in well {
            let Some(target) = full_name(&format!("{}.{}", endpoint.name, found.host)) else { continue };
            for port in target_ports(found.service, endpoint, ports) {
                records.answers.push(served(name, port, &target));
            }
            let known = addresses(found.service, endpoint).map(|ip| address(&target, ip));
            records.additionals.extend(known);
        }
        records.answers.truncate(most);
        Some(records)
    }
}

/// The port's label, if there is one, and the service's name. State knows only of TCP.
fn split(host: String) -> Option<(Option<String>, String)> {
    if !host.starts_with('_') {
        return Some((None, host));
    }
    let (port, rest) = host.split_once('.')?;
    let service = rest.strip_prefix("_tcp.")?;
    Some((Some(port.trim_start_matches('_').to_owned()), service.to_owned()))
}

/// A port of this name, or of this number: state does not always know names.
fn port_called(service: &Service, label: &str) -> Option<u16> {
    let numbered = || label.parse().ok().filter(|port| service.ports.contains_key(port));
    service.port_names.get(label).copied().or_else(numbered)
}

fn target_ports<'s>(
    service: &'s Service,
    endpoint: &'s Workload,
    ports: &'s [u16],
) -> impl Iterator<Item = u16> + 's {
    let own = endpoint.services.get(&service.key()).into_iter();
    own.flat_map(move |own| ports.iter().filter_map(move |&port| target_port(service, own, port)))
}

fn served(name: &Name, port: u16, target: &Name) -> Record {
    Record::from_rdata(name.clone(), LIFETIME, RData::SRV(SRV::new(0, 100, port, target.clone())))
}

fn full_name(host: &str) -> Option<Name> {
    let mut name = Name::from_str(host).ok()?;
    name.set_fqdn(true);
    Some(name)
}
