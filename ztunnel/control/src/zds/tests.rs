//! Against an agent at the other end of a real socket pair.

use std::{
    fs::File,
    io::IoSlice,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd},
};

use parking_lot::Mutex;
use proto::{
    prost::Message,
    workload::zds::{
        AddWorkload, DelWorkload, KeepWorkload, SnapshotSent, WorkloadInfo, WorkloadRequest,
        WorkloadResponse, workload_request::Payload, workload_response,
    },
};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, bind, sendmsg, socket_with, socketpair,
};
use tokio::task::JoinHandle;

use super::{packet::PacketSocket, session::Session, *};

mod recorded;

#[derive(Default)]
struct Pods {
    known: Mutex<HashSet<String>>,
    never_ready: bool,
}

impl CniPods for Pods {
    async fn add(&self, pod: CniPod, netns: OwnedFd) -> Result<(), String> {
        if self.never_ready {
            std::future::pending::<()>().await;
        }
        let is_directory = File::from(netns).metadata().is_ok_and(|metadata| metadata.is_dir());
        assert!(is_directory, "another descriptor than the one that was sent");
        if pod.name == "bad" {
            return Err("no such luck".to_owned());
        }
        self.known.lock().insert(pod.uid);
        Ok(())
    }

    fn keeps(&self, uid: &str) -> bool {
        self.known.lock().contains(uid)
    }

    async fn remove(&self, uid: &str) {
        self.known.lock().remove(uid);
    }

    async fn retain(&self, named: &HashSet<String>) {
        self.known.lock().retain(|uid| named.contains(uid));
    }
}

/// What istio-cni is to us.
struct Agent {
    socket: PacketSocket,
    pods: Arc<Pods>,
    status: watch::Receiver<ZdsStatus>,
    session: JoinHandle<io::Error>,
}

impl Agent {
    fn start(pods: Arc<Pods>) -> Self {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let (sender, status) = watch::channel(ZdsStatus::default());
        let served = Arc::clone(&pods);
        let session = tokio::spawn(async move {
            let session = Session::begin(PacketSocket::of(theirs).unwrap()).await.unwrap();
            session.serve(&*served, &sender).await
        });
        Self { socket: PacketSocket::of(ours).unwrap(), pods, status, session }
    }

    fn known(&self) -> Vec<String> {
        let mut known: Vec<_> = self.pods.known.lock().iter().cloned().collect();
        known.sort();
        known
    }

    async fn read(&self) -> Vec<u8> {
        self.socket.receive().await.unwrap().expect("an answer").bytes
    }

    /// Sends a packet and answers with the error that comes back, empty for none.
    async fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> String {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        sendmsg(self.socket.descriptor(), &[IoSlice::new(bytes)], &mut ancillary, SendFlags::empty())
            .unwrap();
        let answer = self.read().await;
        assert!(answer.len() <= 1024, "the agent would not read all of it");
        match WorkloadResponse::decode(answer.as_slice()).unwrap().payload.unwrap() {
            workload_response::Payload::Ack(ack) => ack.error,
        }
    }

    async fn ask(&self, payload: Payload) -> String {
        self.send(&request(payload), &[]).await
    }

    async fn add(&self, uid: &str, name: &str) -> String {
        let directory = File::open("/").unwrap();
        self.send(&request(add(uid, name)), &[directory.as_fd()]).await
    }
}

fn request(payload: Payload) -> Vec<u8> {
    WorkloadRequest { payload: Some(payload) }.encode_to_vec()
}

fn add(uid: &str, name: &str) -> Payload {
    let (namespace, service_account) = ("default".to_owned(), format!("sa-{name}"));
    let info = WorkloadInfo { name: name.to_owned(), namespace, service_account };
    Payload::Add(AddWorkload { uid: uid.to_owned(), workload_info: Some(info) })
}

fn keep(uid: &str) -> Payload {
    Payload::Keep(KeepWorkload { uid: uid.to_owned() })
}

/// Recorded from Istio's agent and ztunnel: if a byte of ours differed, the agent would not understand it.
#[tokio::test]
async fn packets_are_those_of_istio() {
    let agent = Agent::start(Arc::default());
    assert_eq!(agent.read().await, [0x08, 0x01], "hello");
    let recorded = b"\x0a\x1e\x0a\x06uid-c1\x12\x14\x0a\x02c1\x12\x07default\x1a\x05sa-c1";
    assert_eq!(request(add("uid-c1", "c1")), recorded);
    let directory = File::open("/").unwrap();
    assert_eq!(agent.send(recorded, &[directory.as_fd()]).await, "");
    assert_eq!(agent.send(b"\x1a\x00", &[]).await, "", "the end of the snapshot");
    assert_eq!(agent.known(), ["uid-c1"]);
    assert!(agent.status.borrow().complete.is_some());
    assert_eq!(agent.send(b"\x2a\x08\x0a\x06uid-c1", &[]).await, "", "keep");
    assert_eq!(agent.send(b"\x12\x08\x12\x06uid-c1", &[]).await, "", "delete");
    assert!(agent.known().is_empty());
    agent.socket.send(b"\x12\x08\x12\x06uid-c1").await.unwrap();
    assert_eq!(agent.read().await, [0x0a, 0x00], "an ack, also for a pod that is gone already");
}

/// If what a snapshot does not name stayed, pods deleted while we were away would be served for ever; if what it names
/// went, their connections would be cut at every restart of the agent.
#[tokio::test]
async fn after_a_snapshot_only_what_it_names_is_left() {
    let pods = Arc::<Pods>::default();
    pods.known.lock().extend(["kept", "forgotten", "deleted"].map(str::to_owned));
    let agent = Agent::start(pods);
    agent.read().await;
    assert_eq!(agent.ask(keep("kept")).await, "");
    assert_eq!(agent.ask(keep("deleted")).await, "");
    assert_eq!(agent.add("new", "new").await, "");
    assert_eq!(agent.ask(Payload::Del(DelWorkload { uid: "deleted".to_owned() })).await, "");
    assert_eq!(
        agent.known(),
        ["forgotten", "kept", "new"],
        "nothing is dropped before the snapshot is complete"
    );
    assert_eq!(agent.ask(Payload::SnapshotSent(SnapshotSent {})).await, "");
    assert_eq!(agent.known(), ["kept", "new"]);
    assert_eq!(agent.add("late", "late").await, "");
    assert_eq!(
        agent.ask(Payload::SnapshotSent(SnapshotSent {})).await,
        "",
        "a second one names nothing anew"
    );
    assert_eq!(agent.known(), ["kept", "late", "new"]);
}

/// Istio's proxy ends its connection or itself at most of these. One bad request must not cost the good ones.
#[tokio::test]
async fn a_bad_request_is_answered_and_costs_nothing_else() {
    let agent = Agent::start(Arc::default());
    agent.read().await;
    let root = File::open("/").unwrap();
    let fd = root.as_fd();
    let no_info = Payload::Add(AddWorkload { uid: "x".to_owned(), workload_info: None });
    let long = request(add(&"u".repeat(1050), "x"));
    let cases: [(&str, Vec<u8>, Vec<BorrowedFd<'_>>); 9] = [
        ("no request", b"\xff\xff\xff".to_vec(), vec![]),
        ("no known kind", b"\x4a\x00".to_vec(), vec![]),
        ("without workload_info", request(no_info), vec![fd]),
        ("without a descriptor", request(add("x", "x")), vec![]),
        ("2 descriptors", request(add("x", "x")), vec![fd, fd]),
        ("too many descriptors", request(add("x", "x")), vec![fd; 8]),
        ("belongs to nothing", request(keep("x")), vec![fd]),
        ("more than 1024 bytes", long, vec![fd]),
        ("without a uid", request(add("", "x")), vec![fd]),
    ];
    for (expected, bytes, descriptors) in cases {
        let error = agent.send(&bytes, &descriptors).await;
        assert!(error.contains(expected), "{expected}: {error}");
    }
    assert!(agent.ask(keep("stranger")).await.contains("not known"));
    assert_eq!(agent.add("bad", "bad").await, "no such luck");
    assert_eq!(agent.add("good", "good").await, "");
    assert_eq!(agent.known(), ["good"]);
    assert_eq!(agent.status.borrow().refused, 11);
    assert!(!agent.session.is_finished());
}

/// A pod that is served must not be let go because what is said of it anew cannot be used.
#[tokio::test]
async fn a_bad_request_for_a_pod_that_is_served_does_not_take_it_away() {
    let pods = Arc::<Pods>::default();
    let served = ["undescribed", "without", "two", "eight", "failing"];
    pods.known.lock().extend(served.map(str::to_owned));
    let agent = Agent::start(pods);
    agent.read().await;
    let root = File::open("/").unwrap();
    let undescribed = Payload::Add(AddWorkload { uid: "undescribed".to_owned(), workload_info: None });
    for (bytes, descriptors) in [
        (request(undescribed), 1),
        (request(add("without", "x")), 0),
        (request(add("two", "x")), 2),
        (request(add("eight", "x")), 8),
        (request(add("failing", "bad")), 1),
    ] {
        assert_ne!(agent.send(&bytes, &vec![root.as_fd(); descriptors]).await, "");
    }
    assert_eq!(agent.ask(Payload::SnapshotSent(SnapshotSent {})).await, "");
    assert_eq!(agent.known().len(), served.len(), "{:?}", agent.known());
}

/// An error that does not fit would be cut by the agent and not understood.
#[tokio::test]
async fn a_long_error_fits_into_its_packet() {
    let agent = Agent::start(Arc::default());
    agent.read().await;
    let error = agent.ask(keep(&"ü".repeat(500))).await;
    assert!(error.starts_with("pod ü"), "{error}");
}

/// The agent gives up a connection that does not answer within 5 s, and with it all pods that come after.
#[tokio::test(start_paused = true)]
async fn a_pod_that_takes_too_long_does_not_hold_up_the_others() {
    let agent = Agent::start(Arc::new(Pods { never_ready: true, ..Pods::default() }));
    agent.read().await;
    let began = tokio::time::Instant::now();
    assert!(agent.add("slow", "slow").await.contains("not done within"));
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(agent.ask(Payload::SnapshotSent(SnapshotSent {})).await, "");
}

/// A listener only so that somebody waits until it is ready.
fn listen(path: &Path) -> tokio::net::UnixListener {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    tokio::net::UnixListener::from_std(listener.into()).unwrap()
}

/// The agent is restarted now and then; whoever does not come back serves no new pod.
#[tokio::test]
async fn the_connection_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ztunnel.sock");
    let zds = Zds::start(&path, Arc::<Pods>::default(), watch::Sender::default());
    let mut status = zds.status();
    status.wait_for(|status| status.problem.is_some()).await.unwrap();
    for _ in 0..2 {
        let listener = listen(&path);
        let (accepted, _) = listener.accept().await.unwrap();
        let accepted = PacketSocket::of(accepted.into_std().unwrap().into()).unwrap();
        assert_eq!(accepted.receive().await.unwrap().expect("hello").bytes, [0x08, 0x01]);
        status.wait_for(|status| status.connected).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        drop(accepted);
        status.wait_for(|status| !status.connected).await.unwrap();
    }
}
