//! The test kit's own promises. They need root and say so.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::MetadataExt,
    process::Command,
    time::Duration,
};

use testkit::{Place, Topology, cgroup};

/// Everything with the topology's name that could stay behind.
fn traces(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let cgroups = cgroup::mount_point().unwrap().join(format!("zt{}", std::process::id())).join(name);
    found.extend(cgroups.exists().then(|| cgroups.display().to_string()));
    let namespaces =
        fs::read_dir("/run/netns").unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
    found.extend(namespaces.filter(|namespace| namespace.starts_with(&format!("{name}-"))));
    found
}

fn netns_inode_here() -> u64 {
    fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
}

fn reaches(from: &Place, to: &Place, address: IpAddr) {
    let listener = to.run(move || TcpListener::bind(SocketAddr::new(address, 0)).unwrap());
    let target = listener.local_addr().unwrap();
    let server = to.spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(peer.ip().to_string().as_bytes()).unwrap();
    });
    let seen = from.run(move || {
        let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(3)).expect("connecting");
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    server.join().unwrap();
    assert_ne!(seen, address.to_string());
}

/// Fails if work inside a pod is not in that pod's cgroup or namespace: kernel hooks would then look elsewhere.
#[test]
fn threads_and_programs_are_inside_their_place() {
    let topology = Topology::build(&["client"]).unwrap();
    let pod = topology.pod("client");
    let expected = pod.cgroup().strip_prefix(cgroup::mount_point().unwrap()).unwrap().to_owned();
    let own = cgroup::of_current_thread().unwrap();
    assert_eq!(pod.run(|| cgroup::of_current_thread().unwrap()), expected);
    assert_ne!(own, expected);
    let inode = fs::metadata(pod.netns()).unwrap().ino();
    assert_eq!(pod.run(netns_inode_here), inode);
    assert_ne!(netns_inode_here(), inode);

    let mut command = Command::new("cat");
    command.arg("/proc/self/cgroup");
    let seen = String::from_utf8(pod.output(command).unwrap().stdout).unwrap();
    assert!(seen.contains(&format!("0::/{}\n", expected.display())), "{seen}");
    let mut command = Command::new("ip");
    command.args(["-oneline", "address", "show", "dev", "eth0"]);
    let seen = String::from_utf8(pod.output(command).unwrap().stdout).unwrap();
    assert!(seen.contains("10.1.1.10/24") && seen.contains("fd01:0:0:1::a/64"), "{seen}");
}

/// Fails if a route or an address is missing: then the scenarios would prove nothing.
#[test]
fn everybody_reaches_everybody_over_both_families() {
    let topology = Topology::build(&["client neighbour", "server"]).unwrap();
    let [client, neighbour, server] = ["client", "neighbour", "server"].map(|name| topology.pod(name));
    for family in 0..2 {
        reaches(client, neighbour, neighbour.ips()[family]);
        reaches(client, server, server.ips()[family]);
        reaches(client, &topology.outside, topology.outside_ips()[family]);
        reaches(&topology.outside, server, server.ips()[family]);
        reaches(&topology.nodes[0].kubelet, client, client.ips()[family]);
        reaches(&topology.nodes[0].daemon, server, server.ips()[family]);
    }
}

/// Fails if a test that panics leaves namespaces, cgroups or programs behind.
#[test]
fn nothing_stays_after_a_panic() {
    let (name, program) = std::thread::spawn(|| {
        let topology = Topology::build(&["client"]).unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        // Not in a guard: only the cgroup knows of it.
        let program = topology.pod("client").run(move || command.spawn().unwrap().id());
        let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let name = topology.name().to_owned();
            let _topology = topology;
            std::panic::resume_unwind(Box::new(name));
        }));
        (*held.unwrap_err().downcast::<String>().unwrap(), program)
    })
    .join()
    .unwrap();
    assert_eq!(traces(&name), Vec::<String>::new());
    let state = fs::read_to_string(format!("/proc/{program}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "the program still runs: {state}");
}

/// Fails if two topologies of one process share a name.
#[test]
fn topologies_of_one_process_live_side_by_side() {
    let topologies: Vec<Topology> = (0..2).map(|_| Topology::build(&["client"]).unwrap()).collect();
    let names: BTreeSet<&str> = topologies.iter().map(Topology::name).collect();
    assert_eq!(names.len(), 2);
    let inodes: BTreeSet<u64> = topologies.iter().map(|t| t.pod("client").run(netns_inode_here)).collect();
    assert_eq!(inodes.len(), 2);
}
