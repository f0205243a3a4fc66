//! In the place of Istio's ztunnel: daemons that have nothing but its arguments, its environment and its mounted files.

use std::{collections::BTreeMap, fs, net::SocketAddr, time::Duration};

use serde_json::json;
use testkit::{
    Mesh, MeshPlan,
    ca::Ca,
    capture::{Capture, Keep},
    client::Dial,
    cni::{CniAgent, redirect},
    control_plane::ControlPlane,
    dns::Ask,
    server::{Behaviour, Server},
};

use crate::{
    services::{VIPS, service, with},
    support::{FAMILIES, assert_encrypted, last_logged},
};

const TOKEN: &str = "the-token-of-the-daemonset";
const WEB: &str = "web.default.svc.cluster.local";
const MARKER: &[u8] = b"the payload that nobody else may read";

/// The others end after the mesh.
struct Cluster {
    mesh: Mesh,
    ca: Option<Ca>,
    control_plane: ControlPlane,
    _agents: Vec<CniAgent>,
}

/// `fake_ca`: the CA inside the daemon instead of a second server.
fn cluster(more: &[(&str, &str)], fake_ca: bool) -> Cluster {
    let web = with(service("default", "web", &[]), "hostname", WEB);
    // A control plane tells a service's endpoints by the workloads.
    let plan = MeshPlan::new(&["client", "server"]).cni().service(web);
    let behind = json!({ format!("default/{WEB}"): {} });
    let mut mesh = plan.pod("server", |pod| pod.says("services", behind)).build().unwrap();
    let outside = mesh.topology().outside.clone();
    let ip = mesh.topology().outside_ips()[0];
    let control_plane = ControlPlane::start(ip, Some(&outside)).unwrap();
    control_plane.accept_only(TOKEN);
    control_plane.tell_mesh(&mesh.state()).unwrap();
    let mut variables: BTreeMap<String, String> = more.iter().map(owned).collect();
    let xds = ("XDS_ADDRESS", control_plane.address().to_string());
    variables.extend([xds, ("LOG_FORMAT", "json".to_owned())].map(|(name, value)| (name.to_owned(), value)));
    // Where Istio's manifests mount them.
    let secrets = mesh.directory().join("var/run/secrets");
    fs::create_dir_all(secrets.join("istio")).unwrap();
    fs::create_dir_all(secrets.join("tokens")).unwrap();
    fs::write(secrets.join("tokens/istio-token"), TOKEN).unwrap();
    let mut roots = control_plane.root_pem().to_owned();
    let ca = (!fake_ca).then(|| Ca::start(&outside, SocketAddr::new(ip, 15012), 1).unwrap());
    if let Some(ca) = &ca {
        ca.change(|mood| mood.token = Some(TOKEN.to_owned()));
        roots.push_str(ca.tls_root_pem());
        variables.insert("CA_ADDRESS".to_owned(), ca.address().to_string());
    } else {
        let at = |name: &str| mesh.directory().join(name).display().to_string();
        let own = [("FAKE_CA", "true".to_owned()), ("ZTUNNEL_CA_KEY", at("ca.key"))];
        let own = own.into_iter().chain([("ZTUNNEL_CA_CERTIFICATE", at("ca.pem"))]);
        variables.extend(own.map(|(name, value)| (name.to_owned(), value)));
    }
    fs::write(secrets.join("istio/root-cert.pem"), roots).unwrap();
    mesh.change(|plan| plan.istio = Some(variables)).unwrap();
    let mut agents = Vec::new();
    for node in [1, 2] {
        let pods = mesh.cni_pods(node);
        pods.iter().for_each(|pod| redirect(mesh.pod(&pod.name)).unwrap());
        agents.push(CniAgent::start(&mesh.zds_socket(mesh.node(node)), pods).unwrap());
        mesh.start_daemon(node).unwrap();
    }
    Cluster { mesh, ca, control_plane, _agents: agents }
}

fn owned((name, value): &(&str, &str)) -> (String, String) {
    ((*name).to_owned(), (*value).to_owned())
}

/// Through the mesh, encrypted, by name, under both identities.
fn assert_in_the_mesh(mesh: &Mesh) {
    let client = mesh.pod("client");
    let server = Server::start(mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        // The pod's rules take the question for port 53 to 15053, whoever was asked.
        let resolver = SocketAddr::new(mesh.topology().outside_ips()[family], 53);
        let told = Ask::name(WEB).of(client, resolver).unwrap();
        assert_eq!(told.ips, [VIPS[family].parse::<std::net::IpAddr>().unwrap()]);
        let (by_name, target) = (SocketAddr::new(told.ips[0], 80), mesh.address("server", family, 8080));
        let capture = Capture::start(mesh.topology().underlay(), "node1", Keep::Everything).unwrap();
        let dial = Dial::to(by_name).patience(Duration::from_secs(20));
        assert_eq!(client.run(move || dial.exchange(MARKER)).expect("an echo"), MARKER);
        assert_encrypted(&capture.stop().unwrap(), &client.ips(), MARKER);
        let seen = server.clients().last().map(|client| client.ip().to_canonical());
        assert_eq!(seen, Some(client.ips()[family]), "the application sees the client itself");
        let line = last_logged(mesh.daemon(2), "inbound", target);
        assert_eq!(line["path"], "hbone", "{line}");
        assert_eq!(line["src.identity"], Mesh::identity("client").as_str(), "{line}");
    }
}

/// Catches: a variable that is not heeded, a mount that is looked for elsewhere, DNS that nobody answers; and that any
/// of them needs a setting of ours.
#[test]
fn the_daemonset_s_environment_is_all_that_is_needed() {
    let more = [
        ("RUST_LOG", "info"),
        ("CLUSTER_ID", "Kubernetes"),
        ("ISTIO_META_DNS_CAPTURE", "true"),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "8"),
        ("ZTUNNEL_WORKER_THREADS", "50%"),
        ("SERVICE_ACCOUNT", "ztunnel"),
        ("POOL_UNUSED_RELEASE_TIMEOUT", "1m"),
    ];
    let Cluster { mesh, ca, control_plane, .. } = cluster(&more, false);
    assert_in_the_mesh(&mesh);
    let asked = ca.as_ref().unwrap().asked();
    assert!(asked.iter().any(|asked| asked.identity == Mesh::identity("client")), "{asked:?}");
    assert!(asked.iter().all(|asked| asked.cluster_id.as_deref() == Some("Kubernetes")));
    let node = control_plane.requests().into_iter().find_map(|request| request.node).unwrap();
    assert!(node.id.starts_with("ztunnel~10.0.0.") && node.id.contains(".istio-system~istio-system.svc"));
    let config = mesh.daemon(1).admin("/config_dump").unwrap()["config"].clone();
    assert_eq!(config["drainDeadline"], "7s", "{config}");
    let lines = mesh.daemon(1).log_lines().unwrap();
    let ignored = json!("POOL_UNUSED_RELEASE_TIMEOUT SERVICE_ACCOUNT");
    assert!(lines.iter().any(|line| line["fields"]["variables"] == ignored || line["variables"] == ignored));
}

/// Catches: FAKE_CA that believes anybody; on-demand state that DNS does not ask for.
#[test]
fn on_demand_with_dns_and_the_ca_inside_the_daemon() {
    let Cluster { mesh, control_plane, .. } = cluster(&[("XDS_ON_DEMAND", "true")], true);
    assert_in_the_mesh(&mesh);
    let asked = control_plane.requests();
    assert!(asked.iter().any(|r| r.resource_names_unsubscribe == ["*"]), "everything was asked for");
}
