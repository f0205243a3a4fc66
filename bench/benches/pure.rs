//! What the pure parts take, by the size of the mesh: each connection passes most of them once.
#![expect(clippy::expect_used, reason = "a benchmark cannot go on without its mesh")]

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use divan::{Bencher, counter::ItemsCount};
use model::{
    ClientAddr, OriginalDst, Snapshot, SpiffeId, Workload, WorkloadUid,
    authorize::{InboundFacts, authorize_inbound},
    resolve::{Choice, resolve, resolve_authority},
};
use serde_json::{Value, json};

/// Workloads, or endpoints, or policies.
const SIZES: [u32; 3] = [100, 1_000, 10_000];

fn main() {
    divan::main();
}

/// A mesh of so many workloads, all of them behind one service.
fn mesh(workloads: u32) -> Snapshot {
    let identity: SpiffeId = "spiffe://cluster.local/ns/default/sa/one".parse().expect("an identity");
    let mut snapshot = Snapshot::default();
    for number in 0..workloads {
        let ip = IpAddr::V4(Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + number));
        let mut workload = Workload::new(uid(number), "one", identity.clone(), vec![ip]);
        workload.namespace = "default".into();
        workload.protocol = model::workload::Protocol::Hbone;
        snapshot.insert_workload(workload);
    }
    snapshot
}

fn uid(number: u32) -> WorkloadUid {
    WorkloadUid::new(&format!("Kubernetes//Pod/default/one-{number}"))
}

fn source(snapshot: &Snapshot) -> Arc<Workload> {
    Arc::clone(snapshot.workload(&uid(1)).expect("the first workload"))
}

#[divan::bench(args = SIZES)]
fn resolve_a_workload(bencher: Bencher<'_, '_>, size: u32) {
    let snapshot = mesh(size);
    let source = source(&snapshot);
    let destination = OriginalDst("10.0.0.77:80".parse().expect("an address"));
    bencher.bench(|| resolve(black_box(&snapshot), &source, destination, &Choice::of(1)));
}

#[divan::bench(args = SIZES)]
fn resolve_the_outside(bencher: Bencher<'_, '_>, size: u32) {
    let snapshot = mesh(size);
    let source = source(&snapshot);
    let destination = OriginalDst("198.51.100.1:80".parse().expect("an address"));
    bencher.bench(|| resolve(black_box(&snapshot), &source, destination, &Choice::of(1)));
}

/// Load balancing: one of so many endpoints is chosen.
#[divan::bench(args = SIZES)]
fn choose_an_endpoint(bencher: Bencher<'_, '_>, size: u32) {
    let snapshot = with_service(size);
    let source = Arc::clone(snapshot.workload(&WorkloadUid::new("w1")).expect("the first workload"));
    let destination = OriginalDst("10.96.0.1:80".parse().expect("an address"));
    let mut dice = 0_u64;
    bencher.bench_local(|| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        resolve(black_box(&snapshot), &source, destination, &Choice::of(dice))
    });
}

fn with_service(endpoints: u32) -> Arc<Snapshot> {
    let workload = |number: u32| {
        let ip = format!("10.0.{}.{}", number >> 8 & 0xff, number & 0xff);
        json!({
            "uid": format!("w{number}"), "name": format!("w{number}"), "namespace": "default", "protocol": "HBONE",
            "workloadIps": [ip], "services": { "default/web.default.svc": { "80": 8080 } }
        })
    };
    let service = json!({
        "name": "web", "namespace": "default", "hostname": "web.default.svc", "vips": ["/10.96.0.1"], "ports": { "80": 8080 }
    });
    state(&json!({ "workloads": (0..endpoints).map(workload).collect::<Vec<_>>(), "services": [service] }))
}

fn state(state: &Value) -> Arc<Snapshot> {
    let trust_domain = "cluster.local".parse().expect("a trust domain");
    control::state_of("mesh".as_ref(), &state.to_string(), &trust_domain).expect("a sound state").0
}

/// Policies of the whole mesh, of which none concerns this client.
#[divan::bench(args = SIZES)]
fn authorize(bencher: Bencher<'_, '_>, size: u32) {
    let mut snapshot = mesh(100);
    for number in 0..size {
        let policy = json!({
            "name": format!("p{number}"), "namespace": "default", "scope": "Global", "action": "Deny",
            "rules": [[[{ "principals": [{ "Exact": format!("cluster.local/ns/other/sa/s{number}") }] }]]]
        });
        snapshot.insert_policy(serde_json::from_value(policy).expect("a policy"));
    }
    let destination = source(&snapshot);
    let peer: SpiffeId = "spiffe://cluster.local/ns/default/sa/one".parse().expect("an identity");
    let facts = InboundFacts {
        client: ClientAddr("10.0.0.9:40000".parse().expect("an address")),
        peer: Some(&peer),
        target: "10.0.0.1:80".parse().expect("an address"),
        mtls: None,
    };
    bencher.bench(|| authorize_inbound(black_box(&snapshot), &destination, &facts));
}

/// One workload of so many changes: the readers' snapshot stays as it is, the next one is another.
#[divan::bench(args = SIZES)]
fn change_a_workload(bencher: Bencher<'_, '_>, size: u32) {
    let snapshot = mesh(size);
    let mut changed = Workload::clone(&source(&snapshot));
    changed.canonical_revision = "v2".into();
    bencher.counter(ItemsCount::new(1_u32)).bench(|| {
        let mut next = snapshot.clone();
        next.insert_workload(changed.clone());
        next
    });
}

#[divan::bench]
fn read_an_authority(bencher: Bencher<'_, '_>) {
    let snapshot = mesh(100);
    let workload = source(&snapshot);
    let ip: IpAddr = "10.0.0.1".parse().expect("an address");
    bencher.bench(|| resolve_authority(&snapshot, &workload, ip, black_box("10.0.0.1:8080")));
}

#[divan::bench]
fn read_an_identity() -> Option<SpiffeId> {
    black_box("spiffe://cluster.local/ns/default/sa/application").parse().ok()
}

#[divan::bench]
fn write_headers(bencher: Bencher<'_, '_>) {
    let snapshot = mesh(2);
    let workload = source(&snapshot);
    let client = ClientAddr("10.0.0.9:40000".parse().expect("an address"));
    bencher.bench(|| proxy::connect_headers(&workload, client, None, proxy::new_trace()));
}
