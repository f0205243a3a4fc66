//! Services.

use model::service::{HealthPolicy, IpFamilies, LoadBalancer, Mode, Scope, Service, Visibility};
use proto::workload::{self as wire, load_balancing as balancing, service::Visibility as WireVisibility};

use super::{
    Converter, Object, known,
    waypoint::{heaviest, vip, waypoint},
    workload::ports,
};
use crate::sound;

impl Converter {
    /// One that cannot be used is not forgotten, or its addresses would be an outsider's, who gets plaintext: without any
    /// port, all that is asked of them is refused, to whom the service exists.
    pub(super) fn service_or_rest(&mut self, told: wire::Service) -> Result<Object, String> {
        let mut rest = Service::new(&told.namespace, &told.hostname);
        rest.visibility = visibility(told.visibility);
        rest.name = self.texts.share(&told.name);
        rest.vips = told.addresses.iter().filter_map(|address| vip(address).ok()).collect();
        match self.service(told) {
            Ok(service) => Ok(Object::Service(service, None)),
            Err(flaw) if sound::service(&rest).is_ok() => Ok(Object::Service(rest, Some(flaw))),
            Err(flaw) => Err(flaw),
        }
    }

    fn service(&mut self, told: wire::Service) -> Result<Service, String> {
        let vips: Result<Vec<_>, _> = told.addresses.iter().map(vip).collect();
        // Names of DNS are for clients of other protocols: nobody here proves one, so none can vouch for an endpoint.
        let names = told.subject_alt_names.iter().filter_map(|name| name.parse().ok()).collect();
        let ip_families = ip_families(known("IP families", told.ip_families)?);
        let through = match told.waypoint {
            None => heaviest(told.weighted_waypoints)?,
            only => only,
        };
        let service = Service {
            name: self.texts.share(&told.name),
            namespace: self.texts.share(&told.namespace),
            hostname: self.texts.share(&told.hostname),
            vips: vips?,
            ports: ports(&told.ports)?,
            // The control plane has no names for them.
            port_names: std::collections::BTreeMap::default(),
            subject_alt_names: names,
            waypoint: through.map(waypoint).transpose()?,
            load_balancer: told.load_balancing.as_ref().map(load_balancer).transpose()?,
            ip_families,
            visibility: visibility(told.visibility),
            canonical: told.canonical,
        };
        sound::service(&service)?;
        Ok(service)
    }
}

/// Of a sort that we do not know, the one that fewer see.
fn visibility(told: i32) -> Visibility {
    if told == i32::from(WireVisibility::Public) { Visibility::Public } else { Visibility::Namespace }
}

fn ip_families(told: wire::IpFamilies) -> Option<IpFamilies> {
    match told {
        wire::IpFamilies::Automatic => None,
        wire::IpFamilies::Ipv4Only => Some(IpFamilies::IPv4),
        wire::IpFamilies::Ipv6Only => Some(IpFamilies::IPv6),
        wire::IpFamilies::Dual => Some(IpFamilies::Dual),
    }
}

fn load_balancer(told: &wire::LoadBalancing) -> Result<LoadBalancer, String> {
    let mode = match known("load balancing mode", told.mode)? {
        balancing::Mode::UnspecifiedMode => Mode::Standard,
        balancing::Mode::Strict => Mode::Strict,
        balancing::Mode::Failover => Mode::Failover,
        balancing::Mode::Passthrough => Mode::Passthrough,
    };
    let scopes: Result<Vec<_>, String> =
        told.routing_preference.iter().map(|&scope| self::scope(scope)).collect();
    let mut balancer = LoadBalancer::new(mode, scopes?.into_iter().flatten());
    balancer.health_policy = match known("health policy", told.health_policy)? {
        balancing::HealthPolicy::OnlyHealthy => HealthPolicy::OnlyHealthy,
        balancing::HealthPolicy::AllowAll => HealthPolicy::AllowAll,
    };
    Ok(balancer)
}

fn scope(told: i32) -> Result<Option<Scope>, String> {
    Ok(match known("routing preference", told)? {
        balancing::Scope::UnspecifiedScope => None,
        balancing::Scope::Region => Some(Scope::Region),
        balancing::Scope::Zone => Some(Scope::Zone),
        balancing::Scope::Subzone => Some(Scope::Subzone),
        balancing::Scope::Node => Some(Scope::Node),
        balancing::Scope::Cluster => Some(Scope::Cluster),
        balancing::Scope::Network => Some(Scope::Network),
    })
}
