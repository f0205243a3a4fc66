//! Endpoints that fail, and endpoints of unusual kinds.

use std::{
    fs,
    io::{ErrorKind, Read},
    net::{IpAddr, SocketAddr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use serde_json::{Value, json};
use testkit::{
    Mesh, MeshPlan,
    dns::NameServer,
    server::{Behaviour, Server},
};

use crate::{
    services::{PORT, reason, report, service, vip, who_answers, with},
    support::{FAMILIES, last_logged},
};

const RETRIES: &str = "ztunnel_connect_retries_total";

fn retries(mesh: &Mesh, reason: &str) -> f64 {
    mesh.daemon(1).metric(RETRIES, &[("reason", reason)]).unwrap()
}

/// Catches: an application that hears of an endpoint whose server is gone while another is there.
#[test]
fn an_endpoint_whose_server_is_gone_is_replaced_unnoticed() {
    let web = service("default", "web", &["well", "broken"]);
    let mesh = MeshPlan::new(&["client", "well broken"]).service(web).start().unwrap();
    let servers = report(&mesh, &["well"]);
    for round in 0..40 {
        let family = round % 2;
        let expected = Ok(mesh.pod("well").ips()[family]);
        assert_eq!(who_answers(mesh.pod("client"), vip(family)), expected, "round {round}");
    }
    assert_eq!(servers[0].accepted(), 40, "each connection was made once");
    testkit::eventually("the endpoint is set aside", || {
        let aside = mesh.daemon(1).metric("ztunnel_endpoints_set_aside_total", &[]).unwrap();
        (aside == 1.0).then_some(())
    });
    assert_eq!(retries(&mesh, "refused_by_peer"), 3.0, "three failures set the endpoint aside");
}

/// Catches: a node that died, whose pods' addresses answer nothing at all: the attempt that hangs must leave time for
/// another.
#[test]
fn an_endpoint_that_answers_nothing_is_given_up_in_time() {
    let silent = json!({
        "uid": Mesh::uid("silent"), "name": "silent", "namespace": "default", "protocol": "HBONE",
        "workloadIps": ["10.1.2.200", "fd01:0:0:2::c8"],
    });
    let mesh = MeshPlan::new(&["client", "well"])
        .workload(silent)
        .service(service("default", "web", &["well", "silent"]))
        .setting("connectDeadline", "3s")
        .start()
        .unwrap();
    let servers = report(&mesh, &["well"]);
    for round in 0..24 {
        let family = round % 2;
        let expected = Ok(mesh.pod("well").ips()[family]);
        assert_eq!(who_answers(mesh.pod("client"), vip(family)), expected, "round {round}");
    }
    assert_eq!(servers[0].accepted(), 24, "each connection was made once");
    let failed = retries(&mesh, "connect") + retries(&mesh, "connect_deadline");
    assert_eq!(failed, 3.0, "three failures set the endpoint aside");
}

/// Catches: a workload without an address whose host name nobody looks up, or looks up for each connection; and a name
/// that leads into the client's own pod.
#[test]
fn an_endpoint_with_a_host_name_is_found_by_dns() {
    let servers = ResolvConf::new("10.0.0.200");
    let external = |name: &str| {
        json!({
            "uid": Mesh::uid(name), "name": name, "namespace": "default", "workloadIps": [], "protocol": "TCP",
            "hostname": format!("{name}.example.org"),
        })
    };
    let trap = service("default", "trap", &["trap"]);
    let mesh = MeshPlan::new(&["client"])
        .workload(external("ext"))
        .workload(external("trap"))
        .service(service("default", "web", &["ext"]))
        .service(with(trap, "vips", json!(["/10.96.8.1", "/fd96:8::1"])))
        .setting("resolvConf", servers.path.to_str().unwrap())
        .start()
        .unwrap();
    let outside = &mesh.topology().outside;
    let names = NameServer::start(outside).unwrap();
    let _server = Server::start(outside, PORT, Behaviour::Report).unwrap();
    let _own = Server::start(mesh.pod("client"), PORT, Behaviour::Report).unwrap();
    names.set("ext.example.org", &mesh.topology().outside_ips());
    names.set("trap.example.org", &["127.0.0.1", "::1"].map(|ip| ip.parse().unwrap()));
    for round in 0..20 {
        let family = round % 2;
        let expected = Ok(mesh.topology().outside_ips()[family]);
        assert_eq!(who_answers(mesh.pod("client"), vip(family)), expected, "round {round}");
    }
    // The answers live for a second, and twenty connections take less than ten.
    assert!((2..=20).contains(&names.asked()), "{} questions for 20 connections", names.asked());
    let line =
        last_logged(mesh.daemon(1), "outbound", SocketAddr::new(mesh.topology().outside_ips()[0], PORT));
    assert_eq!((&line["dst.workload"], &line["path"]), (&json!("ext"), &json!("passthrough")));
    for trapped in ["10.96.8.1:80", "[fd96:8::1]:80"] {
        let target = trapped.parse().unwrap();
        assert_eq!(who_answers(mesh.pod("client"), target), Err(ErrorKind::ConnectionReset));
        assert_eq!(reason(&mesh, target), "unusable_host_name");
    }
}

/// Whom a daemon asks for names.
struct ResolvConf {
    path: PathBuf,
}

impl ResolvConf {
    fn new(server: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ztunnel-resolv-{}.conf", std::process::id()));
        fs::write(&path, format!("nameserver {server}\noptions timeout:2\n")).unwrap();
        Self { path }
    }
}

impl Drop for ResolvConf {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Catches: an address of another network taken for one of this; a refusal that does not say why.
#[test]
fn another_network_is_refused_and_the_reason_says_why() {
    let far = json!({
        "uid": Mesh::uid("far"), "name": "far", "namespace": "default", "protocol": "HBONE", "network": "far",
        "workloadIps": ["10.1.1.10", "fd01:0:0:1::a"], "services": { "default/web.default.example": {} },
    });
    let plan = MeshPlan::new(&["client"]).workload(far).service(service("default", "web", &[]));
    let mesh = plan.start().unwrap();
    for family in FAMILIES {
        assert_eq!(who_answers(mesh.pod("client"), vip(family)), Err(ErrorKind::ConnectionReset));
        let line = last_logged(mesh.daemon(1), "outbound", vip(family));
        assert_eq!(line["reason"], "other_network_unsupported");
        let error = line["error"].as_str().unwrap_or_default();
        assert!(error.contains("east-west gateways are not supported yet"), "{error}");
    }
}

/// Catches: traffic around a waypoint, of a service or of a workload; and a service that is refused for its workload's
/// waypoint, which is not for it.
#[test]
fn what_has_a_waypoint_goes_there_first() {
    let via = json!({ "destination": "default/way.default.example", "hboneMtlsPort": 15008 });
    let way = with(service("default", "way", &["way"]), "vips", json!([]));
    let behind = with(service("default", "web", &["server"]), "waypoint", via.clone());
    let open = with(service("default", "open", &["own"]), "vips", json!(["/10.96.8.1", "/fd96:8::1"]));
    let mesh = MeshPlan::new(&["client", "way server own"])
        .pod("way", |pod| (pod.enrolled, pod.foreign) = (false, true))
        .pod("own", |pod| pod.says("waypoint", via))
        .service(way)
        .service(behind)
        .service(open)
        .start()
        .unwrap();
    let _servers = report(&mesh, &["server", "own"]);
    let waypoint = mesh.pod("way").place.run(|| TcpListener::bind("[::]:15008").unwrap());
    for family in FAMILIES {
        let to_workload = mesh.address("own", family, PORT);
        for target in [vip(family), to_workload] {
            let client = mesh.pod("client").place.clone();
            let asking = std::thread::spawn(move || who_answers(&client, target));
            let (mut stream, from) = waypoint.accept().unwrap();
            assert_eq!(from.ip().to_canonical(), mesh.pod("client").ips()[family]);
            let mut hello = [0; 2];
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            stream.read_exact(&mut hello).unwrap();
            assert_eq!(hello, [22, 3], "a TLS handshake");
            drop(stream);
            assert_eq!(asking.join().unwrap(), Err(ErrorKind::ConnectionReset));
            let line = last_logged(mesh.daemon(1), "outbound", target);
            let gateway = SocketAddr::new(mesh.pod("way").ips()[family], 15008);
            assert_eq!(line["dst.addr"], gateway.to_string().as_str(), "{line}");
        }
        let through_a_service = ["10.96.8.1:80", "[fd96:8::1]:80"][family].parse().unwrap();
        let answered = who_answers(mesh.pod("client"), through_a_service);
        assert_eq!(answered, Ok(mesh.pod("own").ips()[family]), "a workload's waypoint is not a service's");
    }
}

/// Catches: a tunnel to a pod of the host network, where nobody can end it.
#[test]
fn an_endpoint_of_the_host_network_is_reached_in_plaintext() {
    let plan = MeshPlan::new(&["client", "other"]);
    let mut mesh = plan.start().unwrap();
    let node = mesh.node(2).ips();
    let _server = Server::start(&mesh.node(2).host, PORT, Behaviour::Report).unwrap();
    mesh.change(|plan| {
        plan.workloads.push(host_network(&node));
        plan.services.push(service("default", "web", &["host"]));
    })
    .unwrap();
    for family in FAMILIES {
        testkit::eventually("the service is known", || {
            (who_answers(mesh.pod("client"), vip(family)) == Ok(node[family])).then_some(())
        });
        let line = last_logged(mesh.daemon(1), "outbound", SocketAddr::new(node[family], PORT));
        assert_eq!((&line["dst.workload"], &line["path"]), (&json!("host"), &json!("passthrough")));
    }
}

fn host_network(ips: &[IpAddr]) -> Value {
    json!({
        "uid": Mesh::uid("host"), "name": "host", "namespace": "default", "protocol": "TCP", "workloadIps": ips,
        "networkMode": "HostNetwork",
    })
}
