//! The mesh from a control plane, which changes its mind, dies and comes back.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::sleep,
    time::Duration,
};

use proto::{
    AUTHORIZATION_TYPE,
    security::{Action, Authorization, Clause, Match, Rule, Scope, StringMatch, string_match::MatchType},
};
use serde_json::{Value, json};
use testkit::{
    Mesh, MeshPlan, Place,
    client::Dial,
    control_plane::{ControlPlane, Known},
    eventually,
    server::{Behaviour, Server},
};

use crate::{
    held::Held,
    support::{FAMILIES, last_logged},
};

mod independent;
mod large;
mod restarts;

const TOKEN: &str = "the-token-of-this-test";

/// A mesh whose daemons know nothing but whom to ask.
struct Fed {
    mesh: Mesh,
    control_plane: ControlPlane,
}

impl Fed {
    /// No daemon runs yet.
    fn build(plan: MeshPlan, more: &Value) -> Self {
        let mut mesh = plan.build().unwrap();
        let topology = mesh.topology();
        let control_plane = ControlPlane::start(topology.outside_ips()[0], Some(&topology.outside)).unwrap();
        control_plane.accept_only(TOKEN);
        control_plane.tell_mesh(&mesh.state()).unwrap();
        let (address, root) = (control_plane.address(), control_plane.root_pem());
        ask_there(&mut mesh, address, root, more);
        Self { mesh, control_plane }
    }

    fn start(plan: MeshPlan, more: &Value) -> Self {
        let mut fed = Self::build(plan, more);
        for node in 1..=fed.mesh.topology().nodes.len() {
            fed.mesh.start_daemon(node).unwrap();
        }
        fed
    }
}

/// The daemons of `mesh` take what they know from there.
fn ask_there(mesh: &mut Mesh, address: SocketAddr, root_pem: &str, more: &Value) {
    let (root, token) = (mesh.directory().join("istiod.pem"), mesh.directory().join("token"));
    fs::write(&root, root_pem).unwrap();
    fs::write(&token, TOKEN).unwrap();
    let mut section = json!({ "address": address.to_string(), "rootCertificates": root, "tokenFile": token });
    let more = more.as_object().unwrap().clone();
    section.as_object_mut().unwrap().extend(more);
    mesh.change(|plan| _ = plan.settings.insert("controlPlane".to_owned(), section)).unwrap();
}

fn echo(from: &Place, target: SocketAddr) -> std::io::Result<()> {
    from.run(move || Dial::to(target).exchange(b"may I?")).map(drop)
}

fn denial() -> Authorization {
    let exact = MatchType::Exact("cluster.local/ns/default/sa/client".to_owned());
    let principals = vec![StringMatch { match_type: Some(exact) }];
    let matches = vec![Match { principals, ..Match::default() }];
    Authorization {
        name: "no-clients".to_owned(),
        namespace: "default".to_owned(),
        scope: Scope::Namespace.into(),
        action: Action::Deny.into(),
        rules: vec![Rule { clauses: vec![Clause { matches }] }],
        ..Authorization::default()
    }
}

/// Catches: a push that is not enforced, or only on who comes after it; a bad resource that passes unnoticed.
#[test]
fn a_control_plane_s_policy_denies_and_ends_what_it_denies() {
    let Fed { mesh, control_plane } = Fed::start(MeshPlan::new(&["client other", "server"]), &json!({}));
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let targets = FAMILIES.map(|family| mesh.address("server", family, 8080));
    let mut denied = targets.map(|target| Held::open(mesh.pod("client"), target));
    let mut allowed = targets.map(|target| Held::open(mesh.pod("other"), target));
    control_plane.put(Known::policy(&denial()));
    for (held, target) in denied.iter_mut().zip(targets) {
        assert_eq!(held.ended(), Some(std::io::ErrorKind::ConnectionReset), "it is still open");
        let line = last_logged(mesh.daemon(2), "inbound", target);
        assert_eq!(line["policy"], "default/no-clients");
        assert_eq!(line["src.identity"], Mesh::identity("client").as_str(), "it came through the mesh");
        assert!(echo(mesh.pod("client"), target).is_err(), "it was let in");
    }
    for (held, target) in allowed.iter_mut().zip(targets) {
        held.still_works(b"of whom nothing was said");
        echo(mesh.pod("other"), target).unwrap();
    }
    let junk =
        Known { value: vec![0xff], ..Known::address("Kubernetes//Pod/default/junk", Vec::new(), vec![]) };
    control_plane.put(junk);
    for daemon in mesh.daemons() {
        let labels = [("resource", "Kubernetes//Pod/default/junk"), ("type", "address")];
        eventually("the bad resource is named in a metric", || {
            (daemon.metric("ztunnel_xds_rejected_resource", &labels).unwrap() == 1.0).then_some(())
        });
        assert_eq!(daemon.metric("ztunnel_xds_connected", &[]).unwrap(), 1.0);
    }
    let refused = control_plane.requests().into_iter().filter_map(|request| request.error_detail);
    assert!(
        refused
            .map(|error| error.message)
            .all(|message| message.starts_with("Kubernetes//Pod/default/junk: "))
    );
    control_plane.remove(AUTHORIZATION_TYPE, "default/no-clients");
    for target in targets {
        eventually("it is let in again", || echo(mesh.pod("client"), target).ok());
    }
}

/// Catches: a control plane's end or return that any connection feels, or that nobody could know of.
#[test]
fn a_control_plane_that_dies_and_returns_costs_no_connection() {
    let Fed { mut mesh, mut control_plane } =
        Fed::start(MeshPlan::new(&["client", "server spare"]), &json!({}));
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let targets = FAMILIES.map(|family| mesh.address("server", family, 8080));
    let mut held = targets.map(|target| Held::open(mesh.pod("client"), target));
    let stop = Arc::new(AtomicBool::new(false));
    let knocking = {
        let (stop, client) = (Arc::clone(&stop), mesh.pod("client").place.clone());
        let inner = client.clone();
        client.spawn(move || {
            let mut done = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                for target in targets {
                    echo(&inner, target).expect("a new connection, whatever the control plane does");
                    done += 1;
                }
                sleep(Duration::from_millis(20));
            }
            done
        })
    };
    control_plane.stop();
    for daemon in mesh.daemons() {
        eventually("it is known that the control plane is gone", || {
            (daemon.metric("ztunnel_xds_connected", &[]).unwrap() == 0.0).then_some(())
        });
        let (status, detail) = daemon.readiness().unwrap();
        assert_eq!(status, 200, "what is known goes on");
        assert!(detail.contains("is gone"), "{detail}");
        eventually("the state's age is told", || {
            (daemon.metric("ztunnel_xds_state_age_seconds", &[]).unwrap() >= 1.0).then_some(())
        });
    }
    held.iter_mut().for_each(|held| held.still_works(b"without a control plane"));
    // It comes back with new versions of everything and one workload less.
    mesh.change(|plan| plan.pods.entry("spare".to_owned()).or_default().in_state = false).unwrap();
    control_plane.tell_mesh(&mesh.state()).unwrap();
    control_plane.resume().unwrap();
    for daemon in mesh.daemons() {
        eventually("what has vanished meanwhile is gone", || {
            let workloads = daemon.admin("/config_dump").unwrap()["workloads"].clone();
            (workloads.as_array().unwrap().len() == 2).then_some(())
        });
        assert_eq!(daemon.readiness().unwrap(), (200, "ready\n".to_owned()));
    }
    held.iter_mut().for_each(|held| held.still_works(b"with it again"));
    stop.store(true, Ordering::Relaxed);
    let made = knocking.join().unwrap();
    assert!(made >= 20, "{made} connections meanwhile");
}

/// Catches: a daemon that takes pods over before it knows whom they may talk to, or does not say what it waits for.
#[test]
fn without_a_control_plane_the_first_start_waits_and_says_for_what() {
    let Fed { mut mesh, mut control_plane } = Fed::build(MeshPlan::new(&["client server"]), &json!({}));
    let address = control_plane.address().to_string();
    control_plane.stop();
    let place = mesh.node(1).daemon.clone();
    let daemon = mesh.launch(1, &place).unwrap();
    let detail = eventually("it says what it waits for", || {
        let (status, detail) = daemon.readiness().ok()?;
        (status == 500 && detail.contains("refused")).then_some(detail)
    });
    assert!(detail.contains(&format!("control plane {address}")), "{detail}");
    assert!(!daemon.serves(&Mesh::uid("client")), "it was taken over by one that knows nothing");
    control_plane.resume().unwrap();
    daemon.wait_until_ready().unwrap();
    mesh.put_daemon(1, daemon);
    let _server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        echo(mesh.pod("client"), mesh.address("server", family, 8080)).unwrap();
    }
}

/// The pod's own DNS, asked for an IPv4 address.
fn asked_in(pod: &Place, name: &str) -> Vec<u8> {
    let labels =
        name.split('.').flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat());
    let header = [7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let query: Vec<u8> = header.into_iter().chain(labels).chain([0, 0, 1, 0, 1]).collect();
    pod.run(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.send_to(&query, "127.0.0.1:15053").unwrap();
        let mut answer = vec![0; 512];
        let length = socket.recv(&mut answer).unwrap();
        answer.truncate(length);
        answer
    })
}

/// Catches: a first connection that goes out in plaintext, or fails, since nobody had asked who that is; a daemon that
/// asks for everything all the same.
#[test]
fn on_demand_the_first_connection_waits_for_the_answer_and_is_tunnelled() {
    let service = |name: &str, ips: &[&str]| {
        json!({
            "name": name, "namespace": "default", "hostname": format!("{name}.default.svc.cluster.local"),
            "vips": ips, "ports": {"80": 8080},
        })
    };
    let plan = MeshPlan::new(&["client", "server endpoint idle"])
        .pod("endpoint", |pod| pod.says("services", json!({"default/web.default.svc.cluster.local": {}})))
        .service(service("web", &["/10.96.0.1", "/fd00:96::1"]))
        .service(service("named", &["/10.96.0.2"]))
        .setting("dns", json!({"enabled": true}));
    let Fed { mesh, control_plane } = Fed::start(plan, &json!({"mode": "onDemand"}));
    let _servers =
        ["server", "endpoint"].map(|pod| Server::start(mesh.pod(pod), 8080, Behaviour::Echo).unwrap());
    for family in FAMILIES {
        let target = mesh.address("server", family, 8080);
        echo(mesh.pod("client"), target).unwrap();
        let line = last_logged(mesh.daemon(2), "inbound", target);
        assert_eq!(line["src.identity"], Mesh::identity("client").as_str(), "it came through the mesh");
    }
    for vip in ["10.96.0.1:80", "[fd00:96::1]:80"] {
        echo(mesh.pod("client"), vip.parse().unwrap()).unwrap();
    }
    let answer = asked_in(mesh.pod("client"), "named.default.svc.cluster.local");
    assert!(answer.ends_with(&[10, 96, 0, 2]), "the name was not known to DNS: {answer:?}");
    let dump = mesh.daemon(1).admin("/config_dump").unwrap();
    let known: Vec<_> = dump["workloads"].as_array().unwrap().iter().map(|w| w["name"].clone()).collect();
    assert_eq!(known, ["client", "endpoint", "server"], "nobody needed the idle one");
    let asked = control_plane.requests();
    assert!(asked.iter().any(|r| r.resource_names_unsubscribe == ["*"]), "everything was asked for");
}
