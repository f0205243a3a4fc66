//! A captured connection and the daemon's own towards the same destination stand in one namespace: the kernel must always
//! know which of the two a packet is for.

use std::time::{Duration, Instant};

use testkit::{
    Mesh,
    client::Dial,
    server::{Behaviour, Server},
};

const AT_ONCE: usize = 8;
const EACH: usize = 800;
/// Below the first repetition of a SYN, with room for a busy machine.
const LONG: Duration = Duration::from_millis(900);

/// Catches: an application's connection and one of ours with the same four addresses and ports, which the kernel gives
/// away where it chooses for two sockets at once that do not see each other. What comes for one goes to the other then,
/// and both stand still until something is sent again.
#[test]
fn many_at_once_to_the_outside_do_not_get_in_each_other_s_way() {
    let mesh = Mesh::start(&["client"]).unwrap();
    let _there = Server::start(&mesh.topology().outside, 8080, Behaviour::Echo).unwrap();
    for target in mesh.topology().outside_ips().map(|ip| (ip, 8080).into()) {
        let connecting: Vec<_> =
            (0..AT_ONCE).map(|_| mesh.pod("client").spawn(move || in_a_row(&Dial::to(target)))).collect();
        let slow: Vec<_> = connecting.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert!(slow.is_empty(), "{} of {} to {target}: {slow:?}", slow.len(), AT_ONCE * EACH);
    }
}

/// How long those took that took long, and what became of those that failed.
fn in_a_row(dial: &Dial) -> Vec<String> {
    let one = |_| {
        let started = Instant::now();
        let problem = dial.exchange(b"x").err().map(|error| format!("{error:#}"));
        problem.or_else(|| (started.elapsed() > LONG).then(|| format!("{:?}", started.elapsed())))
    };
    (0..EACH).filter_map(one).collect()
}
