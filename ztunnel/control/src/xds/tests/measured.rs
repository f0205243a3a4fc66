//! What a large mesh costs: memory, loading, and one change of it. Like Istio's own figures, one in twenty is a service.

use std::{fs, time::Instant};

use allocation_counter::{AllocationInfo, measure};
use model::{SharedSnapshot, Snapshot, WorkloadUid};
use proto::workload::{Locality, Port, PortList};

use super::resources::{addresses, of_service, of_workload, protocol, service, uid, workload};
use crate::xds::protocol::Protocol;

const WORKLOADS_PER_SERVICE: usize = 20;
/// As many come at once, so that what is only needed to receive them does not count.
const CHUNK: usize = 1000;

struct Held {
    protocol: Protocol,
    snapshot: Snapshot,
}

/// A pod as a control plane tells of it: all that is usually there.
fn pod(number: usize) -> proto::workload::Workload {
    let app = format!("app-{}", number / WORKLOADS_PER_SERVICE);
    let name = format!("{app}-5d8f7c9b6-{number:05x}");
    let [_, b, c, d] = u32::try_from(number).unwrap().to_be_bytes();
    let service = format!("default/{app}.default.svc.cluster.local");
    let ports = vec![Port { service_port: 80, target_port: 8080, ..Port::default() }];
    proto::workload::Workload {
        service_account: app.clone(),
        node: format!("ip-10-0-{}-1.eu-west-1.compute.internal", number / 30),
        canonical_name: app.clone(),
        canonical_revision: "latest".to_owned(),
        workload_name: app,
        cluster_id: "Kubernetes".to_owned(),
        network: "network1".to_owned(),
        locality: Some(Locality {
            region: "eu-west-1".to_owned(),
            zone: format!("eu-west-1{}", ['a', 'b', 'c'][number % 3]),
            subzone: String::new(),
        }),
        services: [(service, PortList { ports })].into(),
        ..workload(&name, &format!("10.{b}.{c}.{d}"))
    }
}

fn load(count: usize) -> Held {
    let mut held = Held { protocol: protocol(), snapshot: Snapshot::default() };
    let numbers: Vec<usize> = (0..count).collect();
    for chunk in numbers.chunks(CHUNK) {
        let services = chunk.iter().filter(|number| *number % WORKLOADS_PER_SERVICE == 0).map(|number| {
            let number = number / WORKLOADS_PER_SERVICE;
            let [_, b, c, d] = u32::try_from(number).unwrap().to_be_bytes();
            of_service(
                service(&format!("app-{number}"), &format!("172.{b}.{c}.{d}")),
                "2026-08-20T10:00:00Z/1",
            )
        });
        let pods = chunk.iter().map(|&number| of_workload(pod(number), "2026-08-20T10:00:00Z/1"));
        let response = addresses("n", services.chain(pods).collect());
        let reaction = held.protocol.receive(&response, &mut held.snapshot);
        assert!(reaction.effect.rejected.is_empty());
    }
    assert_eq!(held.snapshot.workloads().count(), count);
    held
}

/// Moves one pod to another address and back, as the client does it: a clone of the state in force, changed, published.
fn change(held: &mut Held, shared: &SharedSnapshot, other: bool) {
    let mut moved = pod(7);
    if other {
        moved.addresses = vec![vec![10, 200, 0, 7].into()];
    }
    let response = addresses("n", vec![of_workload(moved, "2")]);
    let mut snapshot = (*shared.load()).clone();
    let reaction = held.protocol.receive(&response, &mut snapshot);
    assert_eq!(reaction.effect.changed, 1);
    shared.publish(snapshot);
}

/// The allocator's own share comes on top of what was asked for.
const OVERHEAD: u64 = 16;

/// Would break if workloads stopped sharing what they say alike, or their maps grew.
#[test]
fn a_workload_takes_at_most_a_kilobyte_and_a_quarter() {
    const COUNT: u64 = 10_000;
    let mut held = None;
    let AllocationInfo { bytes_current, count_current, .. } =
        measure(|| held = Some(load(usize::try_from(COUNT).unwrap())));
    let bytes = u64::try_from(bytes_current).unwrap() + OVERHEAD * u64::try_from(count_current).unwrap();
    println!(
        "{} bytes and {} allocations each",
        bytes / COUNT,
        u64::try_from(count_current).unwrap() / COUNT
    );
    assert!(bytes / COUNT <= 1280, "{} bytes each", bytes / COUNT);
}

/// Would break if a change cost the mesh and not the change. Counted, not timed: machines that test are busy.
#[test]
fn one_change_costs_the_same_in_a_small_mesh_and_in_a_large_one() {
    let cost = |count| {
        let mut held = load(count);
        let shared = SharedSnapshot::default();
        shared.publish(held.snapshot.clone());
        change(&mut held, &shared, true);
        measure(|| change(&mut held, &shared, false))
    };
    let (small, large) = (cost(1_000), cost(100_000));
    assert!(large.count_total <= 2 * small.count_total, "{small:?} {large:?}");
    assert!(large.bytes_total <= 2 * small.bytes_total, "{small:?} {large:?}");
}

/// `cargo test --release -p ztunnel-control --lib figures -- --ignored --nocapture --test-threads 1`
#[test]
#[ignore = "prints figures for people"]
fn figures_of_meshes() {
    let mut times = Vec::new();
    for count in [1_000, 10_000, 100_000] {
        let (before, began) = (resident(), Instant::now());
        let mut held = load(count);
        let (took, memory) = (began.elapsed(), resident().saturating_sub(before));
        println!("{count}: loaded in {took:?}, {memory} bytes resident, {} each", memory / count);
        let shared = SharedSnapshot::default();
        shared.publish(held.snapshot.clone());
        let mut each: Vec<_> = (0..201)
            .map(|turn| {
                let began = Instant::now();
                change(&mut held, &shared, turn % 2 == 0);
                began.elapsed()
            })
            .collect();
        each.sort();
        println!("{count}: one change in {:?} (median)", each[each.len() / 2]);
        times.push(each[each.len() / 2].as_secs_f64());
        assert!(held.snapshot.workload(&WorkloadUid::new(&uid("nobody"))).is_none());
    }
    println!("one change among 100,000 takes {:.2} times one among 1,000", times[2] / times[0]);
}

fn resident() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
