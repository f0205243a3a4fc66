//! Two nodes with a pod each, `c1` and `s1`, or one node with both, and a world around them.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use model::{
    ClientAddr, OriginalDst, Role, Settings, SharedSnapshot, Snapshot, Workload, WorkloadUid,
    address::HBONE_PORT,
    authorize::MtlsMode,
    names::{Addresses, HostNames, NameError},
    policy::Policy,
    service::Service,
    workload::Protocol,
};
use telemetry::Ledgers;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tunnel::{Deadlines, Tunnel, TunnelSettings};
use ztunnel_proxy::{Arrival, LocalWorkload, PodSockets, Proxy, ProxySettings, Stop};

use crate::identity::TestAuthority;

pub(crate) const C1: &str = "10.0.1.10";
pub(crate) const S1: &str = "10.0.2.10";
/// Nobody the mesh knows.
pub(crate) const OUTSIDE: &str = "10.0.9.9";
pub(crate) const WEB_VIP: &str = "10.96.0.10";

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

pub(crate) fn uid(name: &str) -> WorkloadUid {
    WorkloadUid::new(&format!("Kubernetes//Pod/default/{name}"))
}

pub(crate) fn identity(name: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/sa-{name}")
}

fn swap_first(address: SocketAddr, first: u8) -> SocketAddr {
    let IpAddr::V4(v4) = address.ip() else { panic!("only IPv4 is played") };
    let [_, b, c, d] = v4.octets();
    SocketAddr::new(Ipv4Addr::new(first, b, c, d).into(), address.port())
}

fn in_mesh(real: SocketAddr) -> SocketAddr {
    swap_first(real, 10)
}

/// The network: where mesh addresses really are.
#[derive(Default)]
pub(crate) struct Net {
    places: Mutex<HashMap<SocketAddr, SocketAddr>>,
    /// What a captured client asked for, by its own address.
    asked: Mutex<HashMap<SocketAddr, OriginalDst>>,
    /// Connecting there never ends.
    black_holes: Mutex<HashSet<SocketAddr>>,
}

impl Net {
    pub(crate) async fn listen(&self, address: SocketAddr) -> TcpListener {
        let real = SocketAddr::new(swap_first(address, 127).ip(), 0);
        let listener = TcpListener::bind(real).await.unwrap();
        self.places.lock().unwrap().insert(address, listener.local_addr().unwrap());
        listener
    }

    pub(crate) fn swallow(&self, address: SocketAddr) {
        self.black_holes.lock().unwrap().insert(address);
    }

    pub(crate) async fn connect(&self, from: IpAddr, target: SocketAddr) -> io::Result<TcpStream> {
        if self.black_holes.lock().unwrap().contains(&target) {
            std::future::pending::<()>().await;
        }
        let place = self.places.lock().unwrap().get(&target).copied();
        let place = place.ok_or(io::ErrorKind::ConnectionRefused)?;
        let socket = socket_of(from);
        self.ask(&socket, target);
        socket.connect(place).await
    }

    fn ask(&self, socket: &TcpSocket, destination: SocketAddr) {
        let client = socket.local_addr().unwrap();
        self.asked.lock().unwrap().insert(client, OriginalDst(destination));
    }

    fn asked(&self, client: SocketAddr) -> OriginalDst {
        self.asked.lock().unwrap()[&client]
    }
}

fn socket_of(owner: IpAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(swap_first(SocketAddr::new(owner, 0), 127)).unwrap();
    socket
}

/// Plays the steering of one pod.
pub(crate) struct PodOnLoopback {
    net: Arc<Net>,
    ip: IpAddr,
    listeners: HashMap<Role, TcpListener>,
    /// Arrivals are our own connections, which show the addresses that we see ourselves.
    looping: AtomicBool,
    /// New connections come to the proxy.
    pub(crate) enrolled: AtomicBool,
    /// The next accepts fail so.
    pub(crate) failing_accepts: Mutex<Vec<io::Error>>,
}

impl PodOnLoopback {
    async fn new(net: &Arc<Net>, ip: IpAddr) -> Self {
        let mut listeners = HashMap::new();
        for role in Role::ALL {
            let port = if role == Role::InboundHbone { HBONE_PORT } else { 0 };
            listeners.insert(role, net.listen(SocketAddr::new(ip, port)).await);
        }
        Self {
            net: Arc::clone(net),
            ip,
            listeners,
            looping: AtomicBool::new(false),
            enrolled: AtomicBool::new(true),
            failing_accepts: Mutex::default(),
        }
    }

    /// `owner`'s connection to `destination`, steered to this pod's listener for `role`.
    async fn captured(&self, role: Role, owner: IpAddr, destination: SocketAddr) -> io::Result<TcpStream> {
        let socket = socket_of(owner);
        self.net.ask(&socket, destination);
        socket.connect(self.listeners[&role].local_addr()?).await
    }

    /// `address` leads to this pod's own listener for plaintext, as if steering had failed.
    pub(crate) fn loop_back(&self, address: SocketAddr) {
        let listener = self.listeners[&Role::InboundPlaintext].local_addr().unwrap();
        self.net.places.lock().unwrap().insert(address, listener);
        self.looping.store(true, Relaxed);
    }

    pub(crate) async fn hbone(&self, owner: &str) -> TcpStream {
        socket_of(ip(owner)).connect(self.listeners[&Role::InboundHbone].local_addr().unwrap()).await.unwrap()
    }
}

impl PodSockets for PodOnLoopback {
    fn address(&self, like: IpAddr) -> Option<IpAddr> {
        (self.enrolled.load(Relaxed) && like.is_ipv4()).then_some(self.ip)
    }

    async fn accept(&self, role: Role) -> io::Result<Arrival> {
        if let Some(error) = self.failing_accepts.lock().unwrap().pop() {
            return Err(error);
        }
        let (stream, real) = self.listeners[&role].accept().await?;
        let destination = match role {
            Role::InboundHbone => OriginalDst(SocketAddr::new(self.ip, HBONE_PORT)),
            Role::Outbound | Role::InboundPlaintext => self.net.asked(real),
        };
        let client = if self.looping.load(Relaxed) { real } else { in_mesh(real) };
        Ok(Arrival { stream, client: ClientAddr(client), destination })
    }

    async fn connect(&self, target: SocketAddr) -> io::Result<TcpStream> {
        self.net.connect(self.ip, target).await
    }

    async fn connect_application(&self, source: Option<IpAddr>, target: SocketAddr) -> io::Result<TcpStream> {
        self.net.connect(source.unwrap_or(self.ip), target).await
    }
}

/// The names of the world: `outside.example` is [`OUTSIDE`], behind an address where nobody is.
struct Phonebook;

impl HostNames for Phonebook {
    fn addresses<'a>(&'a self, host: &'a str) -> Addresses<'a> {
        let found = match host {
            "outside.example" => Ok([ip("10.0.9.8"), ip(OUTSIDE)].into()),
            "own.example" => Ok([ip("127.0.0.1"), ip(C1)].into()),
            _ => Err(NameError::NotFound(host.into())),
        };
        Box::pin(std::future::ready(found))
    }
}

/// A pod, its node's proxy, and what that proxy says of itself.
pub(crate) struct Node {
    pub(crate) sockets: Arc<PodOnLoopback>,
    pub(crate) ledgers: Arc<Ledgers>,
    pub(crate) tunnel: Tunnel<TestAuthority>,
    pub(crate) stop: Stop,
    pub(crate) mtls: watch::Sender<Option<MtlsMode>>,
    pub(crate) serving: Option<JoinHandle<()>>,
}

pub(crate) struct Mesh {
    pub(crate) net: Arc<Net>,
    pub(crate) snapshot: Arc<SharedSnapshot>,
    pub(crate) authority: Arc<TestAuthority>,
    pub(crate) c1: Node,
    pub(crate) s1: Node,
}

pub(crate) struct Options {
    pub(crate) mtls: Option<MtlsMode>,
    pub(crate) settings: ProxySettings,
    pub(crate) tunnels: TunnelSettings,
    /// Both pods are of one daemon.
    pub(crate) one_node: bool,
}

impl Options {
    /// One node, whose pods reach each other past the network.
    pub(crate) fn direct() -> Self {
        let options = Self::default();
        let settings = ProxySettings { direct: true, ..options.settings };
        Self { settings, one_node: true, ..options }
    }
}

impl Default for Options {
    fn default() -> Self {
        let settings = ProxySettings {
            recheck_interval: Duration::from_millis(5),
            connect_deadline: Duration::from_secs(5),
            ..ProxySettings::default()
        };
        let step = Duration::from_secs(5);
        let deadlines = Deadlines { svid: step, connect: step, tls: step, preface: step, answer: step };
        let tunnels = TunnelSettings { deadlines, ..TunnelSettings::default() };
        Self { mtls: None, settings, tunnels, one_node: false }
    }
}

impl Mesh {
    pub(crate) async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let net = Arc::new(Net::default());
        let snapshot = Arc::new(SharedSnapshot::default());
        snapshot.publish(state());
        let authority = Arc::new(TestAuthority::new(&"cluster.local".parse().unwrap()));
        let daemon = || Daemon::new(&snapshot, &authority, &options);
        let first = daemon();
        let second = if options.one_node { first.clone() } else { daemon() };
        let c1 = Node::start("c1", C1, &net, first, &options).await;
        let s1 = Node::start("s1", S1, &net, second, &options).await;
        Self { net, snapshot, authority, c1, s1 }
    }

    /// The application in `c1` connects.
    pub(crate) async fn connect(&self, destination: SocketAddr) -> TcpStream {
        self.connect_as(C1, destination).await
    }

    /// The same, from an address that it has bound.
    pub(crate) async fn connect_as(&self, owner: &str, destination: SocketAddr) -> TcpStream {
        self.c1.sockets.captured(Role::Outbound, ip(owner), destination).await.unwrap()
    }

    /// Somebody outside connects to `s1` without a tunnel.
    pub(crate) async fn connect_in_clear(&self, destination: SocketAddr) -> TcpStream {
        self.connect_in_clear_as(OUTSIDE, destination).await
    }

    pub(crate) async fn connect_in_clear_as(&self, owner: &str, destination: SocketAddr) -> TcpStream {
        self.s1.sockets.captured(Role::InboundPlaintext, ip(owner), destination).await.unwrap()
    }

    /// A connection from `c1` to a server in `s1`, and the server's end.
    pub(crate) async fn pair(&self) -> (TcpStream, TcpStream) {
        let listener = self.net.listen(at(S1, 8080)).await;
        let client = self.connect(at(S1, 8080)).await;
        (client, listener.accept().await.unwrap().0)
    }

    pub(crate) fn enforce(&self, policy: Policy) {
        self.change(|snapshot| snapshot.insert_policy(policy));
    }

    pub(crate) fn set(&self, settings: Settings) {
        self.change(|snapshot| snapshot.set_settings(settings));
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = (*self.snapshot.load()).clone();
        change(&mut snapshot);
        self.snapshot.publish(snapshot);
    }
}

/// What the pods of one node share.
#[derive(Clone)]
struct Daemon {
    proxy: Arc<Proxy<TestAuthority>>,
    ledgers: Arc<Ledgers>,
    tunnel: Tunnel<TestAuthority>,
}

impl Daemon {
    fn new(snapshot: &Arc<SharedSnapshot>, authority: &Arc<TestAuthority>, options: &Options) -> Self {
        let tunnel = Tunnel::new(options.tunnels.clone(), Arc::clone(authority));
        let ledgers = Arc::new(Ledgers::default());
        let proxy = Proxy::new(
            options.settings.clone(),
            Arc::clone(snapshot),
            tunnel.clone(),
            Arc::clone(&ledgers),
            Arc::new(Phonebook),
        );
        Self { proxy, ledgers, tunnel }
    }
}

impl Node {
    async fn start(name: &str, address: &str, net: &Arc<Net>, daemon: Daemon, options: &Options) -> Self {
        let Daemon { proxy, ledgers, tunnel } = daemon;
        let sockets = Arc::new(PodOnLoopback::new(net, ip(address)).await);
        let stop = Stop::default();
        let (mtls, seen_mtls) = watch::channel(options.mtls);
        let local = LocalWorkload { uid: uid(name), service_account: None, mtls: seen_mtls };
        let serving = tokio::spawn(proxy.serve(local, Arc::clone(&sockets), stop.clone()));
        Self { sockets, ledgers, tunnel, stop, mtls, serving: Some(serving) }
    }
}

fn state() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (name, address) in [("c1", C1), ("s1", S1)] {
        let mut workload = Workload::new(uid(name), name, identity(name).parse().unwrap(), vec![ip(address)]);
        workload.protocol = Protocol::Hbone;
        workload.workload_name = name.into();
        for service in ["web", "own"] {
            if (service == "own") == (name == "c1") {
                let key = format!("default/{service}.default.svc.cluster.local").parse().unwrap();
                workload.services.insert(key, [].into());
            }
        }
        snapshot.insert_workload(workload);
    }
    snapshot.insert_service(service("web", WEB_VIP));
    snapshot.insert_service(service("own", "10.96.0.11"));
    snapshot
}

fn service(name: &str, vip: &str) -> Service {
    let mut service = Service::new("default", &format!("{name}.default.svc.cluster.local"));
    service.vips = vec![format!("/{vip}").parse().unwrap()];
    service.ports = [(80, 8080)].into();
    service
}
