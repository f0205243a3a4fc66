//! Whether connections to a workload carry mutual TLS. Both ends ask this, of the same state.

use serde::{Deserialize, Serialize};

use crate::{Snapshot, Workload, resolve::target_ports, service::ServiceKey, settings::Regime};

/// What a workload accepts. From the least strict to the strictest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MtlsMode {
    /// It is reached and accepts in plaintext only.
    Disable,
    /// Plaintext too.
    #[default]
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// A mode and who said it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mtls {
    pub mode: MtlsMode,
    #[serde(flatten)]
    pub level: MtlsLevel,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "level", content = "name")]
pub enum MtlsLevel {
    Port(u16),
    Workload,
    Service(ServiceKey),
    Namespace,
    Mesh,
}

/// The mode for connections to `port` of `workload`: that of the port, else of the workload, else of a service that
/// it serves there, else of the namespace, else of the mesh.
///
/// `pod` is what its own node says of the workload, where that is known; at the workload's level the stricter wins, as
/// it does between several services on one port.
pub fn mtls(snapshot: &Snapshot, workload: &Workload, port: u16, pod: Option<MtlsMode>) -> Mtls {
    mtls_under(Regime::Enforced, snapshot, workload, port, pod)
}

pub(crate) fn mtls_under(
    regime: Regime,
    snapshot: &Snapshot,
    workload: &Workload,
    port: u16,
    pod: Option<MtlsMode>,
) -> Mtls {
    let of_port = snapshot.settings().workload(workload).find_map(|own| own.ports.get(&port).copied());
    let of_port = of_port.map(|mode| (mode, MtlsLevel::Port(port)));
    of_port
        .or_else(|| of_workload(snapshot, workload, pod))
        .or_else(|| of_services(snapshot, workload, port))
        .map_or_else(|| of_everywhere(regime, snapshot, workload), |(mode, level)| Mtls { mode, level })
}

/// Whether `workload` is strict wherever nothing is said of a port or a service.
pub fn is_strict(snapshot: &Snapshot, workload: &Workload, pod: Option<MtlsMode>) -> bool {
    let own = of_workload(snapshot, workload, pod).map(|(mode, _)| mode);
    own.unwrap_or_else(|| of_everywhere(Regime::Enforced, snapshot, workload).mode) == MtlsMode::Strict
}

fn of_workload(
    snapshot: &Snapshot,
    workload: &Workload,
    pod: Option<MtlsMode>,
) -> Option<(MtlsMode, MtlsLevel)> {
    let own = snapshot.settings().workload(workload).find_map(|own| own.mtls);
    Some((own.max(pod)?, MtlsLevel::Workload))
}

fn of_services(snapshot: &Snapshot, workload: &Workload, port: u16) -> Option<(MtlsMode, MtlsLevel)> {
    let settings = snapshot.settings();
    let told = workload.services.iter().filter_map(|(key, own)| {
        let mode = settings.service(key)?.mtls;
        let service = snapshot.service(key)?;
        target_ports(service, own).any(|target| target == port).then_some((mode, key))
    });
    told.max_by_key(|(mode, _)| *mode).map(|(mode, key)| (mode, MtlsLevel::Service(key.clone())))
}

fn of_everywhere(regime: Regime, snapshot: &Snapshot, workload: &Workload) -> Mtls {
    let settings = snapshot.settings();
    let namespace = settings.namespaces.get(&*workload.namespace);
    if let Some(mode) = namespace.and_then(|own| regime.choose(own.audit.mtls, own.mtls)) {
        return Mtls { mode, level: MtlsLevel::Namespace };
    }
    let mode = regime.choose(settings.audit.mtls, Some(settings.mtls)).unwrap_or_default();
    Mtls { mode, level: MtlsLevel::Mesh }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{WorkloadUid, service::Service, settings::Settings};

    fn mesh(settings: &str) -> (Snapshot, Workload) {
        let mut workload = Workload::new(
            WorkloadUid::new("w"),
            "web-1",
            "spiffe://td/ns/a/sa/web".parse().unwrap(),
            vec!["10.0.0.1".parse().unwrap()],
        );
        workload.workload_name = "web".into();
        workload.services = [("a/s.example".parse().unwrap(), [(81, 9090)].into())].into();
        let mut service = Service::new("a", "s.example");
        service.ports = [(80, 8080), (81, 8081)].into();
        let mut snapshot = Snapshot::default();
        snapshot.insert_workload(workload.clone());
        snapshot.insert_service(service);
        let settings: Settings = serde_json::from_str(settings).unwrap();
        settings.check().unwrap();
        snapshot.set_settings(settings);
        (snapshot, workload)
    }

    /// Each row takes away the narrowest level of the row before it.
    #[test]
    fn the_narrowest_level_wins() {
        use MtlsMode::{Disable, Permissive, Strict};
        let namespace = |inner: &str| {
            format!(r#"{{"mtls": "strict", "namespaces": {{"a": {{{inner}}}, "b": {{"mtls": "disable"}}}}}}"#)
        };
        let port = r#""workloads": {"web": {"mtls": "strict", "ports": {"8080": "disable"}}}"#;
        let pod = r#""workloads": {"web": {"mtls": "disable"}, "web-1": {"mtls": "permissive"}}"#;
        // What is said of the pod takes nothing away that is said of its Deployment alone.
        let each_a_part =
            r#""workloads": {"web": {"mtls": "strict"}, "web-1": {"ports": {"8080": "permissive"}}}"#;
        let each_a_port = r#""workloads": {"web": {"ports": {"8080": "disable", "9999": "disable"}},
                                           "web-1": {"mtls": "strict", "ports": {"8080": "permissive"}}}"#;
        let workload = r#""workloads": {"web": {"mtls": "disable"}}"#;
        let service = r#""services": {"s.example": {"mtls": "permissive"}}"#;
        let own = r#""mtls": "disable""#;
        for (settings, at_8080, at_9999) in [
            (
                format!("{port}, {service}, {own}"),
                (Disable, MtlsLevel::Port(8080)),
                (Strict, MtlsLevel::Workload),
            ),
            (
                format!("{pod}, {service}"),
                (Permissive, MtlsLevel::Workload),
                (Permissive, MtlsLevel::Workload),
            ),
            (
                format!("{each_a_part}, {service}"),
                (Permissive, MtlsLevel::Port(8080)),
                (Strict, MtlsLevel::Workload),
            ),
            (
                format!("{each_a_port}, {service}"),
                (Permissive, MtlsLevel::Port(8080)),
                (Disable, MtlsLevel::Port(9999)),
            ),
            (
                format!("{workload}, {service}"),
                (Disable, MtlsLevel::Workload),
                (Disable, MtlsLevel::Workload),
            ),
            (
                format!("{service}, {own}"),
                (Permissive, MtlsLevel::Service("a/s.example".parse().unwrap())),
                (Disable, MtlsLevel::Namespace),
            ),
            (own.to_owned(), (Disable, MtlsLevel::Namespace), (Disable, MtlsLevel::Namespace)),
            (String::new(), (Strict, MtlsLevel::Mesh), (Strict, MtlsLevel::Mesh)),
        ] {
            let (snapshot, w) = mesh(&namespace(&settings));
            for (port, (mode, level)) in [(8080, at_8080), (9999, at_9999)] {
                assert_eq!(mtls(&snapshot, &w, port, None), Mtls { mode, level }, "{port} in {settings}");
            }
        }
    }

    #[test]
    fn a_service_speaks_of_the_ports_on_which_it_is_served() {
        let (snapshot, w) = mesh(r#"{"namespaces": {"a": {"services": {"s.example": {"mtls": "strict"}}}}}"#);
        let strict = |port| mtls(&snapshot, &w, port, None).mode == MtlsMode::Strict;
        assert!(strict(8080) && strict(9090), "its own port map goes before the service's");
        assert!(!strict(8081) && !strict(80));
    }

    #[test]
    fn the_node_and_the_mesh_speak_of_the_same_workload_and_the_stricter_wins() {
        use MtlsMode::{Disable, Permissive, Strict};
        let (snapshot, w) =
            mesh(r#"{"namespaces": {"a": {"mtls": "strict", "workloads": {"web": {"mtls": "disable"}}}}}"#);
        for (pod, mode) in [(None, Disable), (Some(Permissive), Permissive), (Some(Strict), Strict)] {
            assert_eq!(mtls(&snapshot, &w, 80, pod).mode, mode);
            assert_eq!(is_strict(&snapshot, &w, pod), mode == Strict);
        }
        let (snapshot, w) = mesh(r#"{"mtls": "strict"}"#);
        assert_eq!(mtls(&snapshot, &w, 80, Some(Permissive)).mode, Permissive, "narrower than the mesh");
        assert!(is_strict(&snapshot, &w, None));
    }
}
