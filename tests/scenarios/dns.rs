//! DNS in the pod, redirected to the daemon by rules such as a CNI installs.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::json;
use testkit::{
    Mesh, MeshPlan, Place,
    dns::{Ask, NameServer, Told, redirect},
    eventually,
};

use crate::{
    services::{VIPS, service, with},
    support::FAMILIES,
};

const WEB: &str = "web.default.svc.cluster.local";
const SERVER: &str = "server";
const NO_SUCH_NAME: u8 = 3;
const SERVER_FAILED: u8 = 2;

/// The pods of one node, with `web` for a service, and their DNS redirected, but for one that serves DNS itself: the
/// rules leave alone what carries the mark of a CNI's proxy, not what our own redirection brings to an application.
fn mesh(pods: &'static str) -> Mesh {
    let first = pods.split(' ').next().unwrap();
    let web = with(service("default", "web", &[first]), "hostname", WEB);
    let mut plan = MeshPlan::new(&[pods]).setting("dns", json!({ "enabled": true })).service(web);
    for pod in pods.split(' ') {
        // Else our own redirection would take port 53 over TCP before the rules see it.
        plan = plan.pod(pod, |pod| pod.exclude_outbound_ports = vec![53]);
    }
    let mesh = plan.start().unwrap();
    for pod in pods.split(' ').filter(|&pod| pod != SERVER) {
        redirect(mesh.pod(pod)).unwrap();
        eventually("the pod is served", || Ask::name(WEB).of(mesh.pod(pod), lo(0)).ok());
    }
    mesh
}

fn lo(family: usize) -> SocketAddr {
    ["127.0.0.1:15053", "[::1]:15053"][family].parse().unwrap()
}

fn outside(mesh: &Mesh, family: usize) -> SocketAddr {
    SocketAddr::new(mesh.topology().outside_ips()[family], 53)
}

fn told(ips: &[IpAddr]) -> Told {
    Told { code: 0, truncated: false, ips: ips.to_vec() }
}

fn vip(family: usize) -> IpAddr {
    VIPS[family].parse().unwrap()
}

/// Catches: a service that the pod's own server is asked for; an answer that seems to come from somebody else than was
/// asked; a family or a transport that is forgotten.
#[test]
fn names_of_services_are_answered_in_the_pod() {
    let mesh = mesh("client");
    let names = NameServer::start(&mesh.topology().outside).unwrap();
    for family in FAMILIES {
        let server = outside(&mesh, family);
        for ask in [Ask::name(WEB), Ask::name("web"), Ask::name(WEB).over_tcp()] {
            assert_eq!(ask.of(mesh.pod("client"), server).unwrap(), told(&[vip(family)]), "{ask:?}");
        }
    }
    assert_eq!(names.asked(), 0, "the network was asked");
    let metric = |name, labels: &[_]| mesh.daemon(1).metric(name, labels).unwrap();
    let v6_over_tcp = [("request_query_type", "AAAA"), ("request_protocol", "tcp"), ("outcome", "answered")];
    assert_eq!(metric("istio_dns_requests_total", &v6_over_tcp), 1.0);
    assert_eq!(metric("istio_dns_upstream_requests_total", &[]), 0.0);
}

/// Catches: what only a real resolver does: search domains, both families at once from one socket.
#[test]
fn an_ordinary_program_finds_a_service_by_its_short_name() {
    let mesh = mesh("client");
    let names = NameServer::start(&mesh.topology().outside).unwrap();
    names.set("example.org", &["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()]);
    for server in mesh.topology().outside_ips() {
        let resolver = Resolver::new(&mesh, server);
        for (name, ips) in
            [("web", VIPS), ("web.default.svc", VIPS), ("example.org", ["192.0.2.7", "2001:db8::7"])]
        {
            let found = resolver.look_up(mesh.pod("client"), name);
            for ip in ips {
                assert!(found.contains(ip), "{name} by {server}: {found}");
            }
        }
        assert_eq!(resolver.look_up(mesh.pod("client"), "nobody.example.org"), "");
    }
}

/// The C library's, told of a server by a resolv.conf that only its own programs see.
struct Resolver(std::path::PathBuf);

impl Resolver {
    fn new(mesh: &Mesh, server: IpAddr) -> Self {
        let path = std::env::temp_dir().join(format!("{}-resolv.conf", mesh.topology().name()));
        let search = "default.svc.cluster.local svc.cluster.local cluster.local";
        fs::write(&path, format!("nameserver {server}\nsearch {search}\noptions ndots:5\n")).unwrap();
        Self(path)
    }

    fn look_up(&self, place: &Place, name: &str) -> String {
        let mut command = Command::new("unshare");
        let script = r#"mount --bind "$1" /etc/resolv.conf && exec getent -s hosts:dns ahosts "$2""#;
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(&self.0).arg(name);
        let output = place.output(command).unwrap();
        assert!(matches!(output.status.code(), Some(0 | 2)), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Catches: a request that goes to some server and not to the one that was asked, or not as the pod's own; a name that
/// is said not to exist although somebody knows it; ports that can be foreseen.
#[test]
fn other_names_go_to_the_server_that_was_asked() {
    let mesh = mesh("client server");
    let far = NameServer::start(&mesh.topology().outside).unwrap();
    let near = NameServer::start(mesh.pod(SERVER)).unwrap();
    let ips: [IpAddr; 2] = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
    far.set("far.example.org", &ips);
    near.set("near.example.org", &ips);
    // In one of the mesh's own zones, and unknown to the mesh.
    far.set("old.default.svc.cluster.local", &ips);
    let client = mesh.pod("client");
    for family in FAMILIES {
        let (far, near) = (outside(&mesh, family), mesh.address(SERVER, family, 53));
        for over_tcp in [false, true] {
            let ask = |name| {
                let ask = Ask::name(name);
                if over_tcp { ask.over_tcp() } else { ask }
            };
            let none = Told { code: NO_SUCH_NAME, ..told(&[]) };
            let found = told(&[ips[family]]);
            for (name, server, expected) in [
                ("far.example.org", far, &found),
                ("near.example.org", near, &found),
                ("old.default.svc.cluster.local", far, &found),
                ("far.example.org", near, &none),
                ("near.example.org", far, &none),
            ] {
                let answer = ask(name).of(client, server).unwrap();
                assert_eq!(answer, *expected, "{name} of {server}, over TCP: {over_tcp}");
            }
        }
    }
    let sources = far.clients();
    assert!(sources.iter().all(|source| client.ips().contains(&source.ip())), "{sources:?}");
    let mut ports: Vec<u16> = (0..20)
        .map(|_| Ask::name("far.example.org").of(client, outside(&mesh, 0)).map(|_| ()))
        .zip(0..)
        .map(|(answered, round)| {
            answered.unwrap();
            far.clients()[sources.len() + round].port()
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    assert!(ports.len() > 15, "{ports:?}");
}

/// Catches: a long answer that is cut off without a word, whoever gave it.
#[test]
fn a_truncated_answer_is_whole_over_tcp() {
    let mut mesh = mesh("client");
    let names = NameServer::start(&mesh.topology().outside).unwrap();
    let many: Vec<IpAddr> = (1..=100).map(|n| IpAddr::from([192, 0, 2, n])).collect();
    names.set("many.example.org", &many);
    mesh.change(|plan| {
        let mut endpoints = serde_json::Map::new();
        for (number, ip) in many.iter().enumerate() {
            let uid = format!("endpoint-{number}");
            endpoints.insert(uid.clone(), json!({ "workloadUid": uid }));
            plan.workloads.push(json!({
                "uid": uid, "name": uid, "namespace": "default", "protocol": "TCP", "workloadIps": [ip],
            }));
        }
        let headless = with(service("default", "all", &[]), "vips", json!([]));
        plan.services.push(with(headless, "endpoints", serde_json::Value::Object(endpoints)));
    })
    .unwrap();
    let (client, server) = (mesh.pod("client"), outside(&mesh, 0));
    eventually("the service is known", || {
        let answer = Ask::name("endpoint-7.all.default.example").of(client, server).ok()?;
        (answer == told(&[many[7]])).then_some(())
    });
    for name in ["many.example.org", "all.default.example"] {
        let short = Ask::name(name).of(client, server).unwrap();
        assert!(short.truncated && short.ips.len() < 100, "{short:?}");
        assert_eq!(Ask::name(name).over_tcp().of(client, server).unwrap(), told(&many), "{name}");
    }
}

/// Catches: a relay for whoever comes, of requests that nobody redirected; a port that the network reaches.
#[test]
fn nobody_is_asked_for_what_was_not_redirected() {
    let mesh = mesh("client other");
    let names = NameServer::start(&mesh.topology().outside).unwrap();
    names.set("example.org", &["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]);
    for family in FAMILIES {
        for ask in [Ask::name("example.org"), Ask::name("example.org").over_tcp()] {
            let answer = ask.of(mesh.pod("client"), lo(family)).unwrap();
            assert_eq!(answer, Told { code: SERVER_FAILED, ..told(&[]) });
        }
        let of_another = mesh.address("client", family, 15053);
        assert!(Ask::name(WEB).of(mesh.pod("other"), of_another).is_err(), "served to another pod");
    }
    assert_eq!(names.asked(), 0);
}

/// Catches: one pod that takes away another's DNS, by requests that wait for a server that never answers, and by
/// connections that say nothing.
#[test]
fn a_flood_from_one_pod_does_not_stop_another() {
    let mesh = mesh("flood quiet server");
    let dead = NameServer::start(mesh.pod(SERVER)).unwrap();
    dead.fall_silent();
    let names = NameServer::start(&mesh.topology().outside).unwrap();
    names.set("example.org", &["192.0.2.1".parse().unwrap()]);
    let (flood, quiet) = (mesh.pod("flood"), mesh.pod("quiet"));
    let server = mesh.address(SERVER, 0, 53);
    let held = flood.place.run(move || {
        // As many as find a place in the kernel's queue.
        let connect = |_| TcpStream::connect_timeout(&server, Duration::from_millis(200)).ok();
        (0..300).map_while(connect).collect::<Vec<_>>()
    });
    assert!(held.len() > 16, "{}", held.len());
    let until = Instant::now() + Duration::from_secs(6);
    let flooding = flood.place.spawn(move || send_until(server, until));
    let mut rounds = 0;
    while Instant::now() < until {
        let started = Instant::now();
        let far = outside(&mesh, 0);
        let of_service = Ask::name(WEB).of(quiet, far).unwrap();
        let of_other = Ask::name("example.org").of(quiet, far).unwrap();
        let over_tcp = Ask::name("example.org").over_tcp().of(quiet, far).unwrap();
        assert_eq!((of_service.ips.len(), of_other.ips.len(), over_tcp.ips.len()), (1, 1, 1));
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        rounds += 1;
    }
    let sent = flooding.join().unwrap();
    assert!(sent > 1000 && rounds > 3, "{sent} requests, {rounds} rounds");
    eventually("more than 100 were too many", || {
        let limited = mesh.daemon(1).metric("istio_dns_upstream_failures_total", &[("reason", "dns_limit")]);
        (limited.unwrap() > 100.0).then_some(())
    });
    let own = Ask::name(WEB).of(flood, server).unwrap();
    assert_eq!(own.ips.len(), 1, "what needs nobody else is answered even to the flooding pod");
}

/// Requests for names that only the server knows, without waiting for anything.
fn send_until(server: SocketAddr, until: Instant) -> u64 {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let mut sent = 0;
    while Instant::now() < until {
        let name = format!("n{sent}.example.net");
        let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend(label.as_bytes());
        }
        message.extend([0, 0, 1, 0, 1]);
        // The kernel may be out of room; that is a flood too.
        let _ = socket.send_to(&message, server);
        sent += 1;
        if sent % 50 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    sent
}

/// Catches: a pod whose DNS ends with the daemon that is replaced.
#[test]
fn a_second_daemon_takes_the_names_over() {
    let mut mesh = mesh("client");
    let newer = mesh.launch_beside(1).unwrap();
    newer.wait_until_ready().unwrap();
    let mut older = mesh.take_daemon(1).unwrap();
    let client = mesh.pod("client").place.clone();
    let server = outside(&mesh, 0);
    let asking = std::thread::spawn(move || {
        let until = Instant::now() + Duration::from_secs(3);
        let mut failed = 0;
        while Instant::now() < until {
            let answer = client.run(move || Ask::name(WEB).over_tcp().here(server));
            failed += u32::from(answer.is_err());
            // Well below the pace that a pod is held to.
            std::thread::sleep(Duration::from_millis(5));
        }
        failed
    });
    older.terminate().unwrap();
    older.wait(Duration::from_secs(40)).unwrap();
    let failed = asking.join().unwrap();
    assert!(failed <= 1, "{failed} failed");
    for _ in 0..10 {
        assert_eq!(Ask::name(WEB).of(mesh.pod("client"), server).unwrap(), told(&[vip(0)]));
    }
    mesh.put_daemon(1, newer);
}

/// Catches: a port opened in every pod that nobody asked for.
#[test]
fn without_the_setting_nobody_listens() {
    let mesh = Mesh::start(&["client"]).unwrap();
    for family in FAMILIES {
        assert!(mesh.pod("client").place.run(move || TcpStream::connect(lo(family))).is_err());
    }
}
