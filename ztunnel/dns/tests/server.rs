//! The server on loopback, with sockets that say for themselves whom they were meant for.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};
use model::{SharedSnapshot, Snapshot, Workload, WorkloadUid, service::Service};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use ztunnel_dns::{Listeners, PodSockets, Server, Settings};

const PATIENCE: Duration = Duration::from_secs(10);

/// A pod's namespace that is this one.
struct Here {
    /// Whom everything was meant for; nobody if it was not redirected.
    original: Option<SocketAddr>,
    listeners: Mutex<Vec<Listeners>>,
    opened: AtomicUsize,
}

impl PodSockets for Here {
    fn listen(&self) -> io::Result<Listeners> {
        self.listeners.lock().unwrap().pop().ok_or_else(|| io::ErrorKind::AddrInUse.into())
    }

    fn original_of_datagram(&self, _: SocketAddr, _: SocketAddr) -> io::Result<SocketAddr> {
        self.original.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn original_of_stream(&self, stream: &TcpStream) -> io::Result<SocketAddr> {
        self.original.map_or_else(|| stream.local_addr(), Ok)
    }

    fn datagrams_to(&self, target: SocketAddr) -> io::Result<UdpSocket> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(target)?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    }

    async fn connect(&self, target: SocketAddr) -> io::Result<TcpStream> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        TcpStream::connect(target).await
    }
}

/// One pod's DNS, served until it is dropped.
struct Pod {
    udp: SocketAddr,
    tcp: SocketAddr,
    sockets: Arc<Here>,
    stop: CancellationToken,
    service: tokio::task::JoinHandle<()>,
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn mesh() -> Arc<SharedSnapshot> {
    let mut snapshot = Snapshot::default();
    let identity = "spiffe://td/ns/shop/sa/x".parse().unwrap();
    snapshot.insert_workload(Workload::new(WorkloadUid::new("client"), "client", identity, Vec::new()));
    let mut service = Service::new("shop", "web.shop.svc.cluster.local");
    service.vips = vec!["/10.96.0.1".parse().unwrap()];
    snapshot.insert_service(service);
    let shared = SharedSnapshot::default();
    shared.publish(snapshot);
    Arc::new(shared)
}

fn settings() -> Settings {
    Settings { forward_deadline: Duration::from_millis(500), ..Settings::default() }
}

async fn listeners() -> (Listeners, SocketAddr, SocketAddr) {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    (Listeners { udp: vec![udp], tcp: vec![tcp] }, addresses.0, addresses.1)
}

async fn serve(server: &Arc<Server>, uid: &str, original: Option<SocketAddr>) -> Pod {
    let (listeners, udp, tcp) = listeners().await;
    let listeners = Mutex::new(vec![listeners]);
    let sockets = Arc::new(Here { original, listeners, opened: AtomicUsize::new(0) });
    let stop = CancellationToken::new();
    let serving = Arc::clone(server).serve(WorkloadUid::new(uid), Arc::clone(&sockets), stop.clone());
    Pod { udp, tcp, sockets, stop, service: tokio::spawn(serving) }
}

fn request(id: u16, name: &str) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_str(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

async fn client() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

async fn hear(socket: &UdpSocket) -> (Message, SocketAddr) {
    let mut bytes = vec![0; 4096];
    let (length, from) = timeout(PATIENCE, socket.recv_from(&mut bytes)).await.unwrap().unwrap();
    (Message::from_vec(&bytes[..length]).unwrap(), from)
}

/// What becomes of a request over UDP.
async fn ask(pod: &Pod, name: &str) -> Message {
    let client = client().await;
    client.send_to(&request(7, name), pod.udp).await.unwrap();
    let (told, from) = hear(&client).await;
    assert_eq!((told.metadata.id, from), (7, pod.udp));
    told
}

async fn converse(stream: &mut TcpStream, message: &[u8]) -> io::Result<Message> {
    stream.write_u16(u16::try_from(message.len()).unwrap()).await?;
    stream.write_all(message).await?;
    let mut told = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut told).await?;
    Ok(Message::from_vec(&told).unwrap())
}

/// Catches: an answer of a guesser that gets to the pod, before or instead of the true one.
#[tokio::test]
async fn only_the_answer_of_the_server_that_was_asked_is_believed() {
    let upstream = client().await;
    let server = Server::new(settings(), mesh(), Arc::default());
    let pod = serve(&server, "client", Some(upstream.local_addr().unwrap())).await;
    let asking = tokio::spawn({
        let udp = pod.udp;
        async move {
            let client = client().await;
            client.send_to(&request(7, "example.org."), udp).await.unwrap();
            hear(&client).await.0
        }
    });
    let (asked, from) = hear(&upstream).await;
    let mut good = asked.clone();
    good.metadata.message_type = MessageType::Response;
    let forged = |change: &dyn Fn(&mut Message)| {
        let mut forged = good.clone();
        forged.metadata.response_code = ResponseCode::Refused;
        change(&mut forged);
        forged.to_vec().unwrap()
    };
    // From elsewhere; of another id; to another question.
    client().await.send_to(&forged(&|_| ()), from).await.unwrap();
    upstream.send_to(&forged(&|message| message.metadata.id ^= 1), from).await.unwrap();
    let other = Name::from_str("other.example.").unwrap();
    let to_other = forged(&|message| message.queries[0].name = other.clone());
    upstream.send_to(&to_other, from).await.unwrap();
    upstream.send_to(&good.to_vec().unwrap(), from).await.unwrap();
    let told = asking.await.unwrap();
    assert_eq!((told.metadata.id, told.metadata.response_code), (7, ResponseCode::NoError));
}

/// Catches: a relay for whoever comes; a request that goes round and round to ourselves.
#[tokio::test]
async fn what_was_not_redirected_is_not_handed_on() {
    let server = Server::new(settings(), mesh(), Arc::default());
    let pod = serve(&server, "client", None).await;
    assert_eq!(ask(&pod, "example.org.").await.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(ask(&pod, "web.").await.answers.len(), 1, "what state knows needs nobody else");
    let mut stream = TcpStream::connect(pod.tcp).await.unwrap();
    let told = converse(&mut stream, &request(7, "example.org.")).await.unwrap();
    assert_eq!(told.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(pod.sockets.opened.load(Ordering::Relaxed), 0, "nobody was asked");
}

/// Catches: requests that wait without end for a server that is silent, in numbers without end; and one pod that leaves
/// no room for another.
#[tokio::test]
async fn only_so_many_requests_wait_and_only_so_long() {
    let silent = client().await;
    let forward_deadline = Duration::from_secs(3);
    let limits = Settings { forwards_per_pod: 4, forwards: 24, forward_deadline, ..settings() };
    let ledgers = Arc::<telemetry::Ledgers>::default();
    let server = Server::new(limits, mesh(), Arc::clone(&ledgers));
    let original = Some(silent.local_addr().unwrap());
    let pods = [serve(&server, "client", original).await, serve(&server, "client", original).await];
    let started = Instant::now();
    for (pod, waiting) in pods.iter().zip([4, 4]) {
        let client = client().await;
        for id in 0..10 {
            client.send_to(&request(id, "example.org."), pod.udp).await.unwrap();
        }
        for round in 0..10 - waiting {
            let (told, _) = hear(&client).await;
            assert_eq!(told.metadata.response_code, ResponseCode::ServFail, "{round}");
        }
        while pod.sockets.opened.load(Ordering::Relaxed) < waiting {
            assert!(started.elapsed() < PATIENCE, "{waiting} are under way");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert!(started.elapsed() < forward_deadline, "the limits are told at once");
    assert_eq!(ask(&pods[0], "web.").await.answers.len(), 1, "names of the mesh are answered meanwhile");
    tokio::time::sleep(forward_deadline).await;
    assert_eq!(ask(&pods[0], "example.org.").await.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(pods[0].sockets.opened.load(Ordering::Relaxed), 5, "those that waited have made room");
    let told = ledgers.refusals().list(std::time::SystemTime::now());
    let count = |reason: &str| told.iter().filter(|it| it.reason == reason).map(|it| it.count).sum::<u64>();
    assert_eq!(
        (count("dns_limit"), count("dns_deadline")),
        (12, 9),
        "the admin page tells them by the metric's words"
    );
}

/// Catches: connections that say nothing, or half of something, and stay; more of them than may be.
#[tokio::test]
async fn connections_are_few_and_end_when_they_say_nothing() {
    let limits = Settings {
        connections_per_pod: 2,
        idle_deadline: Duration::from_millis(300),
        message_deadline: Duration::from_millis(300),
        ..settings()
    };
    let server = Server::new(limits, mesh(), Arc::default());
    let pod = serve(&server, "client", None).await;
    let mut idle = TcpStream::connect(pod.tcp).await.unwrap();
    let mut half = TcpStream::connect(pod.tcp).await.unwrap();
    half.write_all(&[0, 40, 1, 2, 3]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut waiting = TcpStream::connect(pod.tcp).await.unwrap();
    let started = Instant::now();
    let told = timeout(PATIENCE, converse(&mut waiting, &request(7, "web."))).await.unwrap().unwrap();
    assert_eq!(told.answers.len(), 1);
    assert!(started.elapsed() > Duration::from_millis(100), "it was one too many");
    for stream in [&mut idle, &mut half] {
        let end = timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    let again = converse(&mut waiting, &request(8, "web.")).await.unwrap();
    assert_eq!(again.metadata.id, 8, "one connection carries many requests");
    let mut long = TcpStream::connect(pod.tcp).await.unwrap();
    long.write_all(&[0xff, 0xff]).await.unwrap();
    let end = timeout(PATIENCE, long.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "no request is that long: {end:?}");
}

/// Catches: a server that a pod has broken, and that stays so; one that leaves something behind.
#[tokio::test]
async fn sockets_that_are_not_there_are_opened_again_and_all_ends_with_the_pod() {
    let server = Server::new(settings(), mesh(), Arc::default());
    let mut pod = serve(&server, "client", None).await;
    assert_eq!(ask(&pod, "web.").await.answers.len(), 1);
    let late = serve_late(&server).await;
    assert_eq!(ask(&late, "web.").await.answers.len(), 1, "the second attempt found a socket");
    let connected = TcpStream::connect(pod.tcp).await.unwrap();
    pod.stop.cancel();
    timeout(PATIENCE, &mut pod.service).await.unwrap().unwrap();
    assert!(TcpStream::connect(pod.tcp).await.is_err());
    drop(connected);
}

/// Its sockets are there a little after they were wanted.
async fn serve_late(server: &Arc<Server>) -> Pod {
    let (listeners, udp, tcp) = listeners().await;
    let sockets = Arc::new(Here { original: None, listeners: Mutex::default(), opened: AtomicUsize::new(0) });
    let stop = CancellationToken::new();
    let serving = Arc::clone(server).serve(WorkloadUid::new("client"), Arc::clone(&sockets), stop.clone());
    let service = tokio::spawn(serving);
    tokio::time::sleep(Duration::from_millis(100)).await;
    sockets.listeners.lock().unwrap().push(listeners);
    Pod { udp, tcp, sockets, stop, service }
}

/// Catches: a pod that is answered by another's view of the mesh, or by none.
#[tokio::test]
async fn a_pod_that_state_does_not_know_is_not_answered_from_it() {
    let server = Server::new(settings(), mesh(), Arc::default());
    let pod = serve(&server, "stranger", None).await;
    assert_eq!(ask(&pod, "web.shop.svc.cluster.local.").await.metadata.response_code, ResponseCode::ServFail);
}
