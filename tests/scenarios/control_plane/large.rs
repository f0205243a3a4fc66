//! A mesh of ten thousand workloads and of a hundred thousand: what of it is resident in the daemon, and who notices when
//! it comes.

use std::time::Instant;

use testkit::{Daemon, control_plane::large, rate::Rate};

use super::*;

/// A third of what Istio's proxy takes, and what machines differ by.
const EACH: u64 = 1100;
const SETTLED: Duration = Duration::from_secs(120);
/// Two looks of the daemon after the last response.
const GIVEN_BACK: Duration = Duration::from_secs(12);
const PER_SECOND: u32 = 50;

fn workloads(daemon: &Daemon) -> f64 {
    daemon.metric("ztunnel_xds_objects", &[("kind", "workloads")]).unwrap()
}

/// How long it took until the daemon has them all, as its metrics say, which are up to a second old.
#[track_caller]
fn until_all_are_there(daemon: &Daemon, expected: f64) -> Duration {
    let began = Instant::now();
    while workloads(daemon) != expected {
        assert!(began.elapsed() < SETTLED, "{} of {expected} workloads", workloads(daemon));
        sleep(Duration::from_millis(50));
    }
    began.elapsed()
}

/// Resident memory of each, without the program's own pages, once what was needed to receive them has been given back.
fn settled(mesh: &Mesh) -> Vec<u64> {
    sleep(GIVEN_BACK);
    mesh.daemons().map(|daemon| daemon.own_memory().unwrap()).collect()
}

/// Catches: state that grows beyond a third of Istio's; what a push takes and is not given back; connections that wait
/// for a push, of the whole mesh in one response.
#[test]
fn a_large_mesh_takes_a_kilobyte_for_each_workload_and_disturbs_nobody() {
    let Fed { mesh, control_plane } = Fed::start(MeshPlan::new(&["client", "server"]), &json!({}));
    let _echo = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let target = mesh.address("server", 0, 8080);
    echo(mesh.pod("client"), target).unwrap();
    let own = workloads(mesh.daemon(1));
    let (before, mut most) = (settled(&mesh), 0);
    for count in [10_000_u32, 100_000] {
        let rate = Rate::start(&mesh.pod("client").place, target, PER_SECOND);
        control_plane.put_all(large::known(count));
        let took: Vec<_> =
            mesh.daemons().map(|daemon| until_all_are_there(daemon, own + f64::from(count))).collect();
        let outcomes = rate.stop().unwrap();
        assert_eq!(outcomes.failed(), 0, "{outcomes:?}");
        assert!(outcomes.total() > 0);
        for ((daemon, before), now) in mesh.daemons().zip(&before).zip(settled(&mesh)) {
            let each = now.saturating_sub(*before) / u64::from(count);
            println!(
                "{count}: {each} bytes each, at most {} MiB, in {took:?}",
                daemon.peak_memory().unwrap() >> 20
            );
            most = most.max(each);
        }
    }
    assert!(most <= EACH, "{most} bytes each");
}
