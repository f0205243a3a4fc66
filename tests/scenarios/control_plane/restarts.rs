//! A control plane that restarts and sends all anew, while connections are made and certificates renewed all the time.

use std::time::Instant;

use testkit::{ca::Ca, rate::Rate};

use super::*;
use crate::certificates::{LIFETIME, PATIENCE, PER_SECOND, ca_setting, lasting, until_renewed};

/// Catches: a moment between the old state and the new in which a workload, its policies or its certificate are missing.
#[test]
fn restarts_and_full_pushes_across_renewals_fail_no_connection() {
    let plan = MeshPlan::new(&["client", "server spare"]).setting("connectDeadline", "30s");
    let Fed { mut mesh, mut control_plane } = Fed::build(plan, &json!({}));
    let outside = mesh.topology().outside.clone();
    let ca = Ca::start(&outside, SocketAddr::new(mesh.topology().outside_ips()[0], 15012), 1).unwrap();
    ca.change(|mood| mood.lifetime = LIFETIME);
    let root = mesh.directory().join("ca-tls.pem");
    fs::write(&root, ca.tls_root_pem()).unwrap();
    mesh.change(|plan| _ = plan.settings.insert("certificates".to_owned(), ca_setting(&root))).unwrap();
    (1..=2).for_each(|node| mesh.start_daemon(node).unwrap());
    control_plane.put(Known::policy(&denial_of_others()));
    let _echo = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    until_renewed(&mesh, &ca);
    let (started, lasting, asked_before) = (Instant::now(), lasting(), ca.asked().len());
    let rates = FAMILIES.map(|family| {
        let target = mesh.address("server", family, 8080);
        Rate::start(&mesh.pod("client").place, target, PER_SECOND / 2)
    });
    let mut rounds = 0;
    while started.elapsed() < lasting {
        restart(&mut mesh, &mut control_plane, rounds % 2 == 0);
        control_plane.tell_mesh(&mesh.state()).unwrap();
        until_renewed(&mesh, &ca);
        control_plane.end_streams();
        rounds += 1;
    }
    let took = started.elapsed();
    let outcomes = rates.map(|rate| rate.stop().unwrap());
    let total: u64 = outcomes.iter().map(testkit::rate::Outcomes::total).sum();
    let renewals = ca.asked().len() - asked_before;
    println!("{total} connections in {took:?}, {rounds} restarts, {renewals} renewals");
    for outcome in &outcomes {
        assert_eq!(outcome.failed(), 0, "{outcome:?}");
    }
    assert!(total >= u64::from(PER_SECOND) * took.as_secs() * 9 / 10, "{outcomes:?} in {took:?}");
    assert!(renewals >= 2 * rounds, "{renewals} renewals of two pods in {rounds} rounds");
}

/// Down until both daemons know it, then back with new versions of everything, with or without one workload.
fn restart(mesh: &mut Mesh, control_plane: &mut ControlPlane, with_spare: bool) {
    control_plane.stop();
    connected(mesh, 0.0);
    mesh.change(|plan| plan.pods.entry("spare".to_owned()).or_default().in_state = with_spare).unwrap();
    control_plane.tell_mesh(&mesh.state()).unwrap();
    control_plane.put(Known::policy(&denial_of_others()));
    control_plane.resume().unwrap();
    connected(mesh, 1.0);
    let expected = if with_spare { 3 } else { 2 };
    for daemon in mesh.daemons() {
        eventually("all that was sent again is in force", || {
            let workloads = daemon.admin("/config_dump").unwrap()["workloads"].clone();
            (workloads.as_array().unwrap().len() == expected).then_some(())
        });
    }
}

/// Streams that are short again and again are opened again after up to 15 seconds.
fn connected(mesh: &Mesh, value: f64) {
    let give_up = Instant::now() + PATIENCE;
    let is_so =
        |daemon: &testkit::Daemon| daemon.metric("ztunnel_xds_connected", &[]).is_ok_and(|now| now == value);
    while !mesh.daemons().all(is_so) {
        assert!(Instant::now() < give_up, "the stream is not {value} within {PATIENCE:?}");
        sleep(Duration::from_millis(20));
    }
}

/// Somebody else is denied: a policy that is looked at for each connection.
fn denial_of_others() -> Authorization {
    let mut policy = denial();
    let principals = &mut policy.rules[0].clauses[0].matches[0].principals;
    principals[0].match_type = Some(MatchType::Exact("cluster.local/ns/default/sa/nobody".to_owned()));
    policy
}
