//! What a large mesh costs: memory, loading, and one change of it. Like Istio's own figures, one in twenty is a service.

use std::{fs, time::Instant};

use allocation_counter::{AllocationInfo, measure};
use model::{SharedSnapshot, Snapshot, WorkloadUid};
use testkit::control_plane::large::{WORKLOADS_PER_SERVICE, pod, service};

use super::resources::{addresses, of_service, of_workload, protocol, uid};
use crate::xds::protocol::Protocol;

/// As many come at once, so that what is only needed to receive them does not count.
const CHUNK: usize = 1000;
const VERSION: &str = "2026-08-20T10:00:00Z/1";

struct Held {
    protocol: Protocol,
    snapshot: Snapshot,
}

fn load(count: u32) -> Held {
    let mut held = Held { protocol: protocol(), snapshot: Snapshot::default() };
    let numbers: Vec<u32> = (0..count).collect();
    for chunk in numbers.chunks(CHUNK) {
        let first_of_service = chunk.iter().filter(|number| *number % WORKLOADS_PER_SERVICE == 0);
        let services =
            first_of_service.map(|number| of_service(service(number / WORKLOADS_PER_SERVICE), VERSION));
        let pods = chunk.iter().map(|&number| of_workload(pod(number), VERSION));
        let response = addresses("n", services.chain(pods).collect());
        let reaction = held.protocol.receive(&response, &mut held.snapshot);
        assert!(reaction.effect.rejected.is_empty());
    }
    assert_eq!(held.snapshot.workloads().count(), count as usize);
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
fn a_workload_takes_at_most_a_third_of_istio_s_three_kilobytes() {
    for count in [10_000_u32, 100_000] {
        let mut held = None;
        let AllocationInfo { bytes_current, count_current, .. } = measure(|| held = Some(load(count)));
        let allocations = u64::try_from(count_current).unwrap();
        let bytes = (u64::try_from(bytes_current).unwrap() + OVERHEAD * allocations) / u64::from(count);
        println!("{count}: {bytes} bytes and {} allocations each", allocations / u64::from(count));
        assert!(bytes <= 1000, "{count}: {bytes} bytes each");
    }
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
        println!("{count}: loaded in {took:?}, {memory} bytes resident, {} each", memory / count as usize);
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
