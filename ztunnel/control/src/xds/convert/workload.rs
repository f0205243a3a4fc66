//! Workloads.

use std::num::NonZeroU16;

use model::{
    Network, Workload, WorkloadUid,
    policy::PolicyKey,
    service::ServiceKey,
    small_map::SmallMap,
    workload::{
        ApplicationProtocol, ApplicationTunnel, Health, Locality, NetworkMode, PortMap, Protocol,
        WorkloadType,
    },
};
use proto::workload as wire;

use super::{Converter, ip, known, port, waypoint::waypoint};
use crate::sound;

/// Of a workload that names none.
const DEFAULT_SERVICE_ACCOUNT: &str = "default";

impl Converter {
    pub(super) fn workload(&mut self, told: wire::Workload) -> Result<Workload, String> {
        // Of what we do not know we must not believe that it wants plaintext or is well.
        let status: wire::WorkloadStatus = known("status", told.status)?;
        let mode: wire::NetworkMode = known("network mode", told.network_mode)?;
        let protocol: wire::TunnelProtocol = known("tunnel protocol", told.tunnel_protocol)?;
        let workload_type = match told.workload_type() {
            wire::WorkloadType::Deployment => WorkloadType::Deployment,
            wire::WorkloadType::Cronjob => WorkloadType::Cronjob,
            wire::WorkloadType::Pod => WorkloadType::Pod,
            wire::WorkloadType::Job => WorkloadType::Job,
        };
        let trust_domain = if told.trust_domain.is_empty() {
            self.trust_domain.clone()
        } else {
            told.trust_domain.parse().map_err(|error| format!("{error}"))?
        };
        let account = Some(&*told.service_account).filter(|account| !account.is_empty());
        let account = account.unwrap_or(DEFAULT_SERVICE_ACCOUNT);
        let identity = self.texts.identity(&trust_domain, &told.namespace, account);
        let workload_ips: Result<Vec<_>, _> = told.addresses.iter().map(|bytes| ip(bytes)).collect();
        let texts = &mut self.texts;
        let locality = told.locality.unwrap_or_default();
        let locality = Locality {
            region: texts.share(&locality.region),
            zone: texts.share(&locality.zone),
            subzone: texts.share(&locality.subzone),
        };
        let locality = texts.locality(locality);
        let workload = Workload {
            uid: WorkloadUid::new(&told.uid),
            name: told.name.into(),
            namespace: texts.share(&told.namespace),
            identity: identity.map_err(|error| error.to_string())?,
            workload_ips: workload_ips?,
            network: Network::from(texts.share(&told.network)),
            network_mode: match mode {
                wire::NetworkMode::Standard => NetworkMode::Standard,
                wire::NetworkMode::HostNetwork => NetworkMode::HostNetwork,
            },
            protocol: match protocol {
                wire::TunnelProtocol::Hbone => Protocol::Hbone,
                wire::TunnelProtocol::None | wire::TunnelProtocol::LegacyIstioMtls => Protocol::Tcp,
            },
            status: match status {
                wire::WorkloadStatus::Healthy => Health::Healthy,
                wire::WorkloadStatus::Unhealthy => Health::Unhealthy,
            },
            node: texts.share(&told.node),
            hostname: texts.share(&told.hostname),
            cluster_id: texts.share(&told.cluster_id),
            canonical_name: texts.share(&told.canonical_name),
            canonical_revision: texts.share(&told.canonical_revision),
            workload_name: texts.share(&told.workload_name),
            workload_type,
            locality,
            capacity: told.capacity.unwrap_or(1),
            services: self.memberships(&told.services)?,
            authorization_policies: self.policy_keys(&told.authorization_policies)?,
            native_tunnel: told.native_tunnel,
            waypoint: told.waypoint.map(waypoint).transpose()?.map(Box::new),
            application_tunnel: told.application_tunnel.map(application_tunnel).transpose()?,
        };
        sound::workload(&workload)?;
        Ok(workload)
    }

    fn memberships(
        &mut self,
        told: &std::collections::BTreeMap<String, wire::PortList>,
    ) -> Result<SmallMap<ServiceKey, PortMap>, String> {
        let entries = told.iter().map(|(name, list)| {
            let key: ServiceKey = name.parse().map_err(|error| format!("{error}"))?;
            Ok((self.texts.service_key(&key.namespace, &key.hostname), ports(&list.ports)?))
        });
        entries.collect::<Result<Vec<_>, String>>().map(SmallMap::from_iter)
    }

    fn policy_keys(&mut self, told: &[String]) -> Result<Vec<PolicyKey>, String> {
        let keys = told.iter().map(|name| {
            let key: PolicyKey = name.parse().map_err(|error| format!("{error}"))?;
            let (namespace, name) = (self.texts.share(&key.namespace), self.texts.share(&key.name));
            Ok(PolicyKey { namespace, name })
        });
        keys.collect()
    }
}

/// Of a protocol that we do not know, the application would not learn what it must.
fn application_tunnel(told: wire::ApplicationTunnel) -> Result<ApplicationTunnel, String> {
    let protocol = match known("protocol of an application's tunnel", told.protocol)? {
        wire::application_tunnel::Protocol::None => ApplicationProtocol::None,
        wire::application_tunnel::Protocol::Proxy => ApplicationProtocol::Proxy,
    };
    Ok(ApplicationTunnel { protocol, port: NonZeroU16::new(port(told.port)?) })
}

pub(super) fn ports(told: &[wire::Port]) -> Result<PortMap, String> {
    let entries = told.iter().map(|told| Ok((port(told.service_port)?, port(told.target_port)?)));
    entries.collect::<Result<Vec<_>, String>>().map(PortMap::from_iter)
}
