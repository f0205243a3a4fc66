//! Services.

use model::service::{HealthPolicy, IpFamilies, LoadBalancer, Mode, Scope, Service, Visibility};
use proto::workload::{self as wire, load_balancing as balancing, service::Visibility as WireVisibility};

use super::{
    Converter,
    waypoint::{heaviest, vip, waypoint},
    workload::ports,
};
use crate::sound;

impl Converter {
    pub(super) fn service(&mut self, told: wire::Service) -> Result<Service, String> {
        // Of a sort that we do not know, the one that fewer see.
        let public = told.visibility == i32::from(WireVisibility::Public);
        let vips: Result<Vec<_>, _> = told.addresses.iter().map(vip).collect();
        let names: Result<Vec<_>, _> = told.subject_alt_names.iter().map(|name| name.parse()).collect();
        let ip_families = ip_families(told.ip_families());
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
            subject_alt_names: names.map_err(|error: model::identity::InvalidIdentity| error.to_string())?,
            waypoint: through.map(waypoint).transpose()?,
            load_balancer: told.load_balancing.as_ref().map(load_balancer),
            ip_families,
            visibility: if public { Visibility::Public } else { Visibility::Namespace },
            canonical: told.canonical,
        };
        sound::service(&service)?;
        Ok(service)
    }
}

fn ip_families(told: wire::IpFamilies) -> Option<IpFamilies> {
    match told {
        wire::IpFamilies::Automatic => None,
        wire::IpFamilies::Ipv4Only => Some(IpFamilies::IPv4),
        wire::IpFamilies::Ipv6Only => Some(IpFamilies::IPv6),
        wire::IpFamilies::Dual => Some(IpFamilies::Dual),
    }
}

fn load_balancer(told: &wire::LoadBalancing) -> LoadBalancer {
    let mode = match told.mode() {
        balancing::Mode::UnspecifiedMode => Mode::Standard,
        balancing::Mode::Strict => Mode::Strict,
        balancing::Mode::Failover => Mode::Failover,
        balancing::Mode::Passthrough => Mode::Passthrough,
    };
    let scopes = told.routing_preference().filter_map(|scope| match scope {
        balancing::Scope::UnspecifiedScope => None,
        balancing::Scope::Region => Some(Scope::Region),
        balancing::Scope::Zone => Some(Scope::Zone),
        balancing::Scope::Subzone => Some(Scope::Subzone),
        balancing::Scope::Node => Some(Scope::Node),
        balancing::Scope::Cluster => Some(Scope::Cluster),
        balancing::Scope::Network => Some(Scope::Network),
    });
    let mut balancer = LoadBalancer::new(mode, scopes);
    balancer.health_policy = match told.health_policy() {
        balancing::HealthPolicy::OnlyHealthy => HealthPolicy::OnlyHealthy,
        balancing::HealthPolicy::AllowAll => HealthPolicy::AllowAll,
    };
    balancer
}
