//! What the controller costs: fifty daemons and ten thousand pods. Measures, so it is run by itself:
//! `ZTUNNEL_BIN=target/release/ztunnel cargo test --release -p ztunnel-controller --test fleet -- --ignored --nocapture`
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use control::{ChannelSettings, RootCertificates};
use proto::{
    ADDRESS_TYPE, AUTHORIZATION_TYPE,
    discovery::{
        DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use serde_json::{Value, json};
use testkit::{
    api_server::{ApiServer, Reviewed},
    eventually,
};
use tokio::{sync::mpsc, time::timeout};

const DAEMONS: usize = 50;
const PODS: usize = 10_000;
const NODES: usize = 50;
const CHANGES: usize = 20;
const DEADLINE: Duration = Duration::from_secs(120);

/// Ends with us.
struct Controller(Child);

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pod(number: usize, version: usize) -> Value {
    let node = number % NODES;
    let ip = format!("10.{}.{}.{}", 1 + number / 62_500, (number / 250) % 250, 1 + number % 250);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("pod-{number}"), "namespace": format!("ns-{}", number % 200),
            "labels": { "app": format!("app-{}", number % 20), "version": format!("v{version}") },
        },
        "spec": {
            "nodeName": format!("node-{node}"), "serviceAccountName": format!("sa-{}", number % 20),
            "containers": [{ "name": "app", "image": "registry.example/app:1", "ports": [{ "containerPort": 8080 }] }],
        },
        "status": {
            "phase": "Running", "podIPs": [{ "ip": ip }], "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}

fn cluster(api: &ApiServer) {
    let namespace = |name: String| {
        let labels = json!({ "istio.io/dataplane-mode": "ambient" });
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } })
    };
    let service = |number: usize| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": format!("app-{}", number / 200), "namespace": format!("ns-{}", number % 200) },
            "spec": {
                "clusterIPs": [format!("10.200.{}.{}", number / 250, 1 + number % 250)],
                "selector": { "app": format!("app-{}", number / 200) }, "ports": [{ "port": 80, "targetPort": 8080 }],
            },
        })
    };
    api.put_all((0..200).map(|number| namespace(format!("ns-{number}")))).unwrap();
    api.put_all((0..1_000).map(service)).unwrap();
    api.put_all((0..PODS).map(|number| pod(number, 0))).unwrap();
    for number in 0..DAEMONS {
        let (name, node) = (format!("z-{number}"), format!("node-{}", number % NODES));
        let reviewed = Reviewed::pod("ztunnel-system", "ztunnel", &name, &node, "istio-ca");
        api.accept_token(&name, reviewed);
        let metadata = json!({ "name": name, "namespace": "ztunnel-system" });
        let spec = json!({ "nodeName": node, "serviceAccountName": "ztunnel", "containers": [] });
        api.put(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })).unwrap();
    }
}

fn memory(process: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() >> 10
}

fn processor(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

fn start(directory: &Path) -> Controller {
    let binary =
        std::env::var_os("ZTUNNEL_BIN").unwrap_or_else(|| panic!("ZTUNNEL_BIN names the daemon's binary"));
    let log = fs::File::create(directory.join("log")).unwrap();
    let mut command = Command::new(binary);
    command.arg("controller").arg("--kubeconfig").arg(directory.join("kubeconfig"));
    command.args([
        "--server-names",
        "127.0.0.1",
        "--address",
        "127.0.0.1:25012",
        "--probes",
        "127.0.0.1:25021",
    ]);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Controller(command.spawn().unwrap())
}

/// Tells of each answer: how many addresses there were in all, and the pods' versions in it.
async fn daemon(channel: ChannelSettings, told: mpsc::UnboundedSender<(usize, Vec<String>)>) {
    let connection = channel.connect().await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(connection).max_decoding_message_size(usize::MAX);
    let (requests, outgoing) = mpsc::unbounded_channel();
    for kind in [ADDRESS_TYPE, AUTHORIZATION_TYPE] {
        let request = DeltaDiscoveryRequest { type_url: kind.to_owned(), ..DeltaDiscoveryRequest::default() };
        requests.send(request).unwrap();
    }
    let outgoing = futures::stream::unfold(outgoing, |mut outgoing: mpsc::UnboundedReceiver<_>| async move {
        outgoing.recv().await.map(|request| (request, outgoing))
    });
    let mut responses = client.delta_aggregated_resources(outgoing).await.unwrap().into_inner();
    // Until the controller is gone.
    while let Ok(Some(response)) = responses.message().await {
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        let _ = requests.send(answer);
        if response.type_url == ADDRESS_TYPE {
            let names = response.resources.iter().take(10).map(|resource| resource.name.clone()).collect();
            let _ = told.send((response.resources.len(), names));
        }
    }
}

/// How long one pod's change takes until every daemon has it, and what the controller needs for all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn fifty_daemons_and_ten_thousand_pods() {
    let directory = tempfile::tempdir().unwrap();
    let api = ApiServer::start(IpAddr::V4(Ipv4Addr::LOCALHOST), None).unwrap();
    cluster(&api);
    api.write_kubeconfig(&directory.path().join("kubeconfig"), "controller").unwrap();
    let controller = start(directory.path());
    let process = controller.0.id();
    let root = eventually("the roots", || {
        let map = api.object("v1", "configmaps", "ztunnel-system", "istio-ca-root-cert")?;
        Some(map["data"]["root-cert.pem"].as_str()?.to_owned())
    });
    let channel = ChannelSettings {
        address: "127.0.0.1:25012".parse().unwrap(),
        roots: RootCertificates::Pem(root),
        token_file: None,
        cluster_id: "Kubernetes".to_owned(),
        connect_deadline: Duration::from_secs(10),
        headers: control::RequestHeaders::default(),
    };
    let (told, mut telling) = mpsc::unbounded_channel();
    let began = Instant::now();
    for number in 0..DAEMONS {
        let token_file = directory.path().join(format!("token-{number}"));
        fs::write(&token_file, format!("z-{number}")).unwrap();
        let channel = ChannelSettings { token_file: Some(token_file), ..channel.clone() };
        tokio::spawn(daemon(channel, told.clone()));
    }
    let mut complete = 0;
    while complete < DAEMONS {
        let (count, _) = timeout(DEADLINE, telling.recv()).await.unwrap().unwrap();
        assert!(count >= PODS, "an answer with only {count}");
        complete += 1;
    }
    println!("all of it to {DAEMONS} daemons: {:?}", began.elapsed());
    let (resident, peak) = (memory(process, "VmRSS:"), memory(process, "VmHWM:"));
    println!(
        "controller: {resident} MiB resident, {peak} MiB at most, {:?} of processor",
        processor(process)
    );
    let before = processor(process);
    let mut times = Vec::new();
    for change in 1..=CHANGES {
        let number = change * 97;
        let name = format!("Kubernetes//Pod/ns-{}/pod-{number}", number % 200);
        let began = Instant::now();
        api.put(pod(number, change)).unwrap();
        let mut have = 0;
        while have < DAEMONS {
            let (_, names) = timeout(DEADLINE, telling.recv()).await.unwrap().unwrap();
            have += usize::from(names.contains(&name));
        }
        times.push(began.elapsed());
    }
    times.sort();
    let worst = times[CHANGES - 1];
    println!(
        "one pod's change, until all {DAEMONS} have it: median {:?}, worst {worst:?}",
        times[CHANGES / 2]
    );
    println!("processor for {CHANGES} changes: {:?}", processor(process) - before);
    println!("at the end: {} MiB at most", memory(process, "VmHWM:"));
    assert!(worst < Duration::from_secs(1), "{worst:?}");
}
