//! The project's own control plane: a Kubernetes API, the controller, daemons that know nothing but whom to ask.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use testkit::{
    Mesh, MeshPlan, Process,
    api_server::{ApiServer, Reviewed},
    client::Dial,
    eventually,
    server::{Behaviour, Server},
};

use crate::{
    held::Held,
    support::{FAMILIES, last_logged},
};

mod rotation;

const OWN: &str = "ztunnel-system";

/// A cluster whose daemons are fed by the controller.
struct Cluster {
    controller: Option<Process>,
    api: ApiServer,
    mesh: Mesh,
    address: IpAddr,
    /// More of the controller's arguments.
    arguments: &'static [&'static str],
}

impl Cluster {
    fn start() -> Self {
        Self::with(&[])
    }

    fn with(arguments: &'static [&'static str]) -> Self {
        let mesh = MeshPlan::new(&["client other", "server"]).build().unwrap();
        let address = mesh.topology().outside_ips()[0];
        let api = ApiServer::start(address, Some(&mesh.topology().outside)).unwrap();
        api.put_all([namespace("default", None), namespace(OWN, None)]).unwrap();
        for node in &mesh.topology().nodes {
            let (node_name, daemon) = (format!("node{}", node.number), format!("ztunnel-{}", node.number));
            api.put(json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node_name } }))
                .unwrap();
            api.put(pod(OWN, &daemon, "ztunnel", &node_name, &[])).unwrap();
            for served in &node.pods {
                api.put(pod("default", served.name(), served.name(), &node_name, &served.ips())).unwrap();
            }
            let reviewed = Reviewed::pod(OWN, "ztunnel", &daemon, &node_name, "istio-ca");
            api.accept_token(&token(node.number), reviewed);
        }
        api.write_kubeconfig(&mesh.directory().join("kubeconfig"), "the-controller").unwrap();
        let mut cluster = Self { controller: None, api, mesh, address, arguments };
        cluster.start_controller();
        let root = cluster.mesh.directory().join("root-cert.pem");
        eventually("the roots are in a ConfigMap", || cluster.mount_roots());
        let directory = cluster.mesh.directory().to_owned();
        let plan = |plan: &mut MeshPlan| {
            plan.settings.insert("certificates".to_owned(), json!({ "source": "istio" }));
            for node in 1..=2_u8 {
                let file = directory.join(format!("token{node}"));
                fs::write(&file, token(node)).unwrap();
                let control_plane = json!({
                    "address": SocketAddr::new(address, 15012).to_string(),
                    "rootCertificates": root, "tokenFile": file,
                });
                plan.node_settings.entry(node).or_default().insert("controlPlane".to_owned(), control_plane);
            }
        };
        cluster.mesh.change(plan).unwrap();
        for node in 1..=2 {
            cluster.mesh.start_daemon(node).unwrap();
        }
        cluster
    }

    fn start_controller(&mut self) {
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let binary = std::env::var_os("ZTUNNEL_BIN").expect("ZTUNNEL_BIN names the daemon's binary");
        let mut command = Command::new(binary);
        command.args(["controller", "--namespace", OWN, "--log-format", "json", "--pod-name", "one"]);
        command.args(self.arguments);
        command.arg("--kubeconfig").arg(self.mesh.directory().join("kubeconfig"));
        command.args(["--server-names", &self.address.to_string()]);
        command.args(["--address", &SocketAddr::new(self.address, 15012).to_string()]);
        command.args(["--probes", &SocketAddr::new(self.address, 15021).to_string()]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.controller = Some(self.mesh.topology().outside.start(command).unwrap());
    }

    /// As the kubelet does: the ConfigMap becomes the file that daemons have.
    fn mount_roots(&self) -> Option<()> {
        let map = self.api.object("v1", "configmaps", OWN, "istio-ca-root-cert")?;
        fs::write(self.mesh.directory().join("root-cert.pem"), map["data"]["root-cert.pem"].as_str()?).ok()
    }

    fn log(&self) -> std::path::PathBuf {
        self.mesh.directory().join("controller.log")
    }

    /// A connection from one pod to the server, and who the server's daemon took the client for.
    fn seen_as(&self, client: &str, target: SocketAddr) -> std::io::Result<Value> {
        let from = self.mesh.pod(client).place.clone();
        from.run(move || Dial::to(target).exchange(b"who am I?"))?;
        Ok(last_logged(self.mesh.daemon(2), "inbound", target)["src.identity"].clone())
    }

    fn conditions(&self, name: &str) -> Value {
        let policy = self.api.object("security.istio.io/v1", "authorizationpolicies", "default", name);
        policy.map(|policy| policy["status"]["conditions"].clone()).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the controller:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

fn token(node: u8) -> String {
    format!("token-of-node-{node}")
}

fn namespace(name: &str, mode: Option<&str>) -> Value {
    let mut labels = json!({});
    if let Some(mode) = mode {
        labels["istio.io/dataplane-mode"] = json!(mode);
    }
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } })
}

fn pod(namespace: &str, name: &str, service_account: &str, node: &str, ips: &[IpAddr]) -> Value {
    let ips: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": namespace },
        "spec": { "nodeName": node, "serviceAccountName": service_account, "containers": [{ "name": "app" }] },
        "status": { "phase": "Running", "podIPs": ips, "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}

/// For whoever has this identity.
fn denial(name: &str, identity: &str) -> Value {
    let principals = [identity.trim_start_matches("spiffe://")];
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "action": "DENY", "rules": [{ "from": [{ "source": { "principals": principals } }] }] },
    })
}

/// Catches: labels that change nothing, or only after a restart; policies that are not enforced on what is open, or not
/// told of in their status; a controller whose restart is felt.
#[test]
fn a_label_brings_mutual_tls_a_policy_denies_and_a_restart_is_not_felt() {
    let mut cluster = Cluster::start();
    let _server = Server::start(cluster.mesh.pod("server"), 8080, Behaviour::Echo).unwrap();
    let targets = FAMILIES.map(|family| cluster.mesh.address("server", family, 8080));
    let client = Mesh::identity("client");
    for target in targets {
        assert_eq!(cluster.seen_as("client", target).unwrap(), Value::Null, "nobody asked for the mesh");
    }
    cluster.api.put(namespace("default", Some("ambient"))).unwrap();
    for target in targets {
        eventually("the label brings mutual TLS", || {
            (cluster.seen_as("client", target).ok()? == client.as_str()).then_some(())
        });
    }
    let mut held = targets.map(|target| Held::open(cluster.mesh.pod("client"), target));
    let mut others = targets.map(|target| Held::open(cluster.mesh.pod("other"), target));
    cluster.api.put(denial("no-clients", &client)).unwrap();
    for (held, target) in held.iter_mut().zip(targets) {
        assert_eq!(held.ended(), Some(std::io::ErrorKind::ConnectionReset), "it is still open");
        assert!(cluster.seen_as("client", target).is_err(), "it was let in");
    }
    eventually("the policy is told that it is enforced", || {
        (cluster.conditions("no-clients")[0]["reason"] == "Accepted").then_some(())
    });

    let mut controller = cluster.controller.take().unwrap();
    controller.kill().unwrap();
    for (held, target) in others.iter_mut().zip(targets) {
        held.still_works(b"without a controller");
        cluster.seen_as("other", target).unwrap();
        assert!(cluster.seen_as("client", target).is_err(), "without a controller the policy was gone");
    }
    cluster.start_controller();
    for daemon in cluster.mesh.daemons() {
        eventually("daemons come back", || {
            (daemon.metric("ztunnel_xds_connected", &[]).ok()? == 1.0).then_some(())
        });
    }
    for (held, target) in others.iter_mut().zip(targets) {
        held.still_works(b"after its restart");
        assert!(cluster.seen_as("client", target).is_err(), "its restart opened what the policy closes");
    }
    cluster.api.put(denial("no-others", &Mesh::identity("other"))).unwrap();
    for held in &mut others {
        assert_eq!(
            held.ended(),
            Some(std::io::ErrorKind::ConnectionReset),
            "what is new after its restart is lost"
        );
    }
    cluster.api.delete("security.istio.io/v1", "authorizationpolicies", "default", "no-clients");
    for target in targets {
        eventually("without the policy it may come in again", || cluster.seen_as("client", target).ok());
    }
    let log = fs::read_to_string(cluster.log()).unwrap();
    assert!(log.contains("a certificate was signed"), "signing is not audited");
    assert!(!log.contains("token-of-node"), "a token is in the log");
    assert!(!log.contains("PRIVATE KEY"), "a key is in the log");
}

/// Catches: an alert on the controller that can never fire, and a metric that nobody can know of.
#[test]
fn its_metrics_are_those_of_the_specification() {
    let cluster = Cluster::start();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--fail", &format!("http://{}:15021/metrics", cluster.address)]);
    let page = cluster.mesh.topology().outside.output(curl).unwrap();
    let page = String::from_utf8(page.stdout).unwrap();
    let served: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let text = include_str!("../../docs/SPECIFICATION.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let specified: BTreeSet<&str> = rows
        .flat_map(|cell| cell.split('`'))
        .filter(|word| word.starts_with("ztunnel_controller_"))
        .collect();
    assert_eq!(served, specified);
}
