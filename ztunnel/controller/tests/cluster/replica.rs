//! One controller, on a runtime of its own: it can vanish as if its node had.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use clap::Parser;
use control::{ChannelSettings, RequestHeaders, RootCertificates};
use tokio::runtime::Runtime;
use ztunnel_controller::Settings;

use super::{Cluster, OWN, within};

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    settings: Settings,
}

pub(crate) struct Replica {
    runtime: Option<Runtime>,
    address: SocketAddr,
    probes: SocketAddr,
}

impl Replica {
    /// Not ready yet.
    pub(crate) fn begin(cluster: &Cluster, name: &str, arguments: &[&str]) -> Self {
        // Free until somebody else is as quick.
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [address, probes] = listeners.map(|listener| listener.local_addr().unwrap());
        let kubeconfig = cluster.kubeconfig().display().to_string();
        let mut line =
            vec!["controller", "--pod-name", name, "--namespace", OWN, "--server-names", "127.0.0.1"];
        let (served, probed) = (address.to_string(), probes.to_string());
        line.extend(["--address", &served, "--probes", &probed, "--kubeconfig", &kubeconfig]);
        line.extend(arguments);
        let Line { settings } = Line::parse_from(line);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.spawn(async move {
            if let Err(error) = ztunnel_controller::run(settings).await {
                eprintln!("the controller ended: {error:#}");
            }
        });
        Self { runtime: Some(runtime), address, probes }
    }

    /// Ready.
    pub(crate) fn start(cluster: &Cluster, name: &str, arguments: &[&str]) -> Self {
        let replica = Self::begin(cluster, name, arguments);
        replica.until_ready(cluster);
        replica
    }

    /// It knows all and signs, and daemons can know whom to believe.
    pub(crate) fn until_ready(&self, cluster: &Cluster) {
        within(Duration::from_secs(30), "the replica is ready", || {
            self.page("/healthz/ready").filter(|page| page.starts_with("HTTP/1.1 200"))?;
            cluster.roots()
        });
    }

    /// At once: nothing is let go of, and nobody is told.
    pub(crate) fn vanish(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) fn metric(&self, name: &str) -> Option<u64> {
        let page = self.page("/metrics")?;
        let name = format!("ztunnel_controller_{name} ");
        page.lines().find_map(|line| line.strip_prefix(&name))?.trim().parse().ok()
    }

    pub(crate) fn leads(&self) -> bool {
        self.metric("leader") == Some(1)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How a daemon finds it.
    pub(crate) fn channel(&self, cluster: &Cluster) -> ChannelSettings {
        ChannelSettings {
            address: self.address.to_string().parse().unwrap(),
            roots: RootCertificates::Pem(cluster.roots().unwrap()),
            token_file: None,
            cluster_id: "Kubernetes".to_owned(),
            headers: RequestHeaders::default(),
            connect_deadline: Duration::from_secs(10),
        }
    }

    fn page(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.probes).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        Some(page)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.vanish();
    }
}
