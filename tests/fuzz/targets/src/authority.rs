//! The authority of a CONNECT.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use control::state_of;
use model::{
    NetworkAddress, Snapshot, Workload, WorkloadUid,
    resolve::{Asked, resolve_authority},
};

/// A workload of two families behind a service.
const MESH: &str = "
workloads:
- {uid: w, namespace: a, workloadIps: [10.1.1.10, 'fd01::10'], services: {a/web.a.svc: {81: 8081}, 'a/[::1]': {}}}
- {uid: other, namespace: a, workloadIps: [10.1.1.11]}
- {uid: told, namespace: a, workloadIps: [10.1.1.12], services: {a/web.a.svc: {}}, applicationTunnel: {protocol: PROXY, port: 15088}}
services:
- {name: web, namespace: a, hostname: web.a.svc, ports: {80: 8080, 81: 1}}
- {name: odd, namespace: a, hostname: '[::1]', ports: {80: 15008}}
";

/// Whatever is asked for, the tunnel leads to the workload that it came to, and not to a port of ours.
pub fn authority(data: &[u8]) {
    let Some(text) = crate::text(data) else { return };
    let (snapshot, workload) = mesh("w");
    for arrived_at in ["10.1.1.10", "fd01::10", "::ffff:10.1.1.10", "10.9.9.9"] {
        let arrived_at: IpAddr = arrived_at.parse().expect("an address");
        let Ok(Asked { target, named }) = resolve_authority(&snapshot, &workload, arrived_at, text) else {
            continue;
        };
        assert_eq!(target.ip(), arrived_at.to_canonical(), "{text} leads to another address");
        assert!(workload.has_ip(target.ip()), "{text} leads to another workload");
        assert!(![0, 15001, 15006, 15008].contains(&target.port()), "{text} leads to {target}");
        assert_eq!(named, target, "{text}: the application would be told of another's");
        let again = resolve_authority(&snapshot, &workload, arrived_at, &target.to_string());
        assert_eq!(
            again.ok().map(|asked| asked.target),
            Some(target),
            "{text}: what it stands for is something else"
        );
    }
    told(text);
    if let Ok(address) = text.parse::<NetworkAddress>() {
        assert_eq!(address.to_string().parse().ok(), Some(address), "{text}");
    }
}

/// An application that ends tunnels itself learns what was named, and is reached at its own address all the same.
fn told(text: &str) {
    let (snapshot, workload) = mesh("told");
    let own: IpAddr = "10.1.1.12".parse().expect("an address");
    let Ok(Asked { target, named }) = resolve_authority(&snapshot, &workload, own, text) else { return };
    assert_eq!(target.ip(), own, "{text} leads to another address");
    if let Ok(address) = text.parse::<SocketAddr>() {
        assert_eq!((named, target.port()), (address, address.port()), "{text}");
    }
}

fn mesh(uid: &str) -> (Arc<Snapshot>, Arc<Workload>) {
    let trust_domain = "cluster.local".parse().expect("a trust domain");
    let (snapshot, _) = state_of("mesh".as_ref(), MESH, &trust_domain).expect("the mesh");
    let workload = Arc::clone(snapshot.workload(&WorkloadUid::new(uid)).expect("the workload"));
    (snapshot, workload)
}
