//! The agent: listens on the socket, and tells whoever connects last which pods there are.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{IoSlice, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, accept_with, bind, listen, sendmsg, shutdown, socket_with,
};

const PATIENCE: Duration = Duration::from_secs(10);
const HELLO: [u8; 2] = [0x08, 0x01];
const SNAPSHOT_SENT: [u8; 2] = [0x1a, 0x00];

/// A pod, as Kubernetes knows it.
#[derive(Clone, Debug)]
pub struct CniPod {
    pub uid: String,
    pub name: String,
    pub namespace: String,
    pub service_account: String,
    pub netns: PathBuf,
}

/// Dropping it closes its connection and takes its socket away.
#[derive(Debug)]
pub struct CniAgent {
    path: PathBuf,
    listener: Arc<OwnedFd>,
    state: Arc<Mutex<State>>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    pods: BTreeMap<String, CniPod>,
    /// The last is the one that is told of pods; the others stay open, as older proxies drain. A stream in name only: they
    /// carry packets.
    open: Vec<UnixStream>,
    connections: usize,
    /// What was refused, oldest first.
    refusals: Vec<String>,
}

impl CniAgent {
    /// Listens at `path`, with these pods.
    pub fn start(path: &Path, pods: Vec<CniPod>) -> Result<Self> {
        let listener =
            Arc::new(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?);
        // Of one that was killed.
        let _ = fs::remove_file(path);
        bind(&listener, &SocketAddrUnix::new(path)?)
            .with_context(|| format!("binding {}", path.display()))?;
        listen(&listener, 4)?;
        let pods = pods.into_iter().map(|pod| (pod.uid.clone(), pod)).collect();
        let state = Arc::new(Mutex::new(State { pods, ..State::default() }));
        let (socket, shared) = (Arc::clone(&listener), Arc::clone(&state));
        let accepting = thread::spawn(move || accept_all(&socket, &shared));
        Ok(Self { path: path.to_owned(), listener, state, accepting: Some(accepting) })
    }

    /// Adds a pod and answers with the proxy's error, if any.
    pub fn add(&self, pod: &CniPod) -> Result<Option<String>> {
        let mut state = self.state();
        state.pods.insert(pod.uid.clone(), pod.clone());
        state.add(pod)
    }

    pub fn remove(&self, uid: &str) -> Result<()> {
        let mut state = self.state();
        state.pods.remove(uid).with_context(|| format!("no pod {uid}"))?;
        ensure!(state.ask(&message(0x12, &field(2, uid)), None)?.is_none(), "a deletion was refused");
        Ok(())
    }

    /// How often a proxy has connected and was told all pods.
    pub fn connections(&self) -> usize {
        self.state().connections
    }

    /// What proxies refused while they were told all pods.
    pub fn refusals(&self) -> Vec<String> {
        self.state().refusals.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CniAgent {
    fn drop(&mut self) {
        // Ends the thread's accept(2).
        let _ = shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        let _ = fs::remove_file(&self.path);
    }
}

fn accept_all(listener: &OwnedFd, state: &Mutex<State>) {
    while let Ok(connection) = accept_with(listener, SocketFlags::CLOEXEC) {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.open.push(connection.into());
        // A proxy that goes away meanwhile comes again.
        if let Err(error) = state.greet() {
            state.refusals.push(format!("{error:#}"));
        }
    }
}

impl State {
    fn greet(&mut self) -> Result<()> {
        ensure!(self.read()? == HELLO, "no hello");
        for pod in self.pods.values().cloned().collect::<Vec<_>>() {
            if let Some(refusal) = self.add(&pod)? {
                self.refusals.push(refusal);
            }
        }
        if let Some(refusal) = self.ask(&SNAPSHOT_SENT, None)? {
            bail!("the snapshot's end was refused: {refusal}");
        }
        self.connections += 1;
        Ok(())
    }

    fn add(&mut self, pod: &CniPod) -> Result<Option<String>> {
        let netns = File::open(&pod.netns).with_context(|| format!("opening {}", pod.netns.display()))?;
        let info = [field(1, &pod.name), field(2, &pod.namespace), field(3, &pod.service_account)].concat();
        self.ask(&message(0x0a, &[field(1, &pod.uid), message(0x12, &info)].concat()), Some(&netns))
    }

    /// Answers with the error of the proxy's ack.
    fn ask(&mut self, request: &[u8], netns: Option<&File>) -> Result<Option<String>> {
        let connection = self.open.last().context("no proxy is connected")?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = netns.map(|netns| [netns.as_fd()]);
        if let Some(descriptors) = &descriptors {
            ensure!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)), "no room for a descriptor");
        }
        sendmsg(connection, &[IoSlice::new(request)], &mut ancillary, SendFlags::NOSIGNAL)?;
        let answer = self.read()?;
        match answer.as_slice() {
            [0x0a, 0x00] => Ok(None),
            // A short text, or one whose length takes two bytes.
            [0x0a, _, 0x0a, rest @ ..] | [0x0a, _, _, 0x0a, _, rest @ ..] => {
                Ok(Some(String::from_utf8_lossy(rest).into_owned()))
            }
            other => bail!("the proxy answered {other:02x?}"),
        }
    }

    fn read(&self) -> Result<Vec<u8>> {
        let mut connection = self.open.last().context("no proxy is connected")?;
        connection.set_read_timeout(Some(PATIENCE))?;
        let mut packet = vec![0; 2048];
        let length = connection.read(&mut packet).context("waiting for the proxy's packet")?;
        ensure!(length > 0, "the proxy closed the connection");
        packet.truncate(length);
        Ok(packet)
    }
}

/// A field of text, or of a message.
fn field(number: u8, text: &str) -> Vec<u8> {
    message(number << 3 | 2, text.as_bytes())
}

#[expect(clippy::cast_possible_truncation, reason = "nothing here is longer")]
fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() < 128, "a length of more than one byte");
    [&[tag, body.len() as u8], body].concat()
}
