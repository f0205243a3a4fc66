//! A certificate authority that speaks Istio's protocol over real TLS, has several roots, and misbehaves at will.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use proto::tonic::Code;
use tokio::sync::oneshot;

use crate::Place;

mod pki;
mod service;

pub use pki::Root;

/// Serves until dropped.
pub struct Ca {
    shared: Arc<Shared>,
    address: SocketAddr,
    tls_root_pem: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What a server says that is not there.
pub const UNAVAILABLE: Code = Code::Unavailable;

/// What it does with the next request.
#[derive(Clone, Debug)]
pub struct Mood {
    pub behaviour: Behaviour,
    /// Before anything else.
    pub delay: Duration,
    /// Of certificates, whatever is asked for.
    pub lifetime: Duration,
    /// Which of the roots signs.
    pub signing: usize,
    /// Which are handed out.
    pub announced: Vec<usize>,
    /// Other tokens are refused.
    pub token: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Behaviour {
    Good,
    Refuse(Code),
    /// Takes the request and never answers.
    Silent,
    AnotherIdentity(String),
    AnotherKey,
    Expired,
    NotValidYet,
    /// Signed by a root that is not among those handed out.
    WrongRoot,
    /// A certificate that may sign others.
    Signing,
    EmptyChain,
    NoRoot,
    Garbage,
    /// Megabytes of certificates.
    Flood,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub identity: String,
    pub authorization: Option<String>,
    pub cluster_id: Option<String>,
    pub csr: String,
    pub seconds: i64,
    pub at: Instant,
    /// Of the TLS connection that it came by.
    pub connection: usize,
}

pub(crate) struct Shared {
    mood: Mutex<Mood>,
    roots: Vec<Root>,
    stranger: Root,
    asked: Mutex<Vec<Asked>>,
}

impl Ca {
    /// Listens inside `place`, with a certificate for that address. It has `roots` roots; the first signs and is handed out.
    pub fn start(place: &Place, address: SocketAddr, roots: usize) -> Result<Self> {
        let listener = place.run(move || TcpListener::bind(address));
        Self::serve(listener.with_context(|| format!("a CA in {}", place.name()))?, roots)
    }

    /// On loopback of where the caller is.
    pub fn start_here(roots: usize) -> Result<Self> {
        Self::serve(TcpListener::bind("127.0.0.1:0")?, roots)
    }

    fn serve(listener: TcpListener, roots: usize) -> Result<Self> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(roots));
        let (tls, tls_root_pem) = pki::tls(address.ip())?;
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("ca".to_owned()).spawn(move || {
            if let Err(error) = service::run(listener, tls, &serving, stopped) {
                eprintln!("the CA ended: {error:#}");
            }
        })?;
        Ok(Self { shared, address, tls_root_pem, stop: Some(stop), thread: Some(thread) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    /// Whom to trust for its TLS.
    pub fn tls_root_pem(&self) -> &str {
        &self.tls_root_pem
    }

    pub fn root(&self, number: usize) -> &Root {
        &self.shared.roots[number]
    }

    pub fn change(&self, change: impl FnOnce(&mut Mood)) {
        change(&mut self.shared.mood());
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }
}

impl Shared {
    fn new(roots: usize) -> Self {
        let mood = Mood {
            behaviour: Behaviour::Good,
            delay: Duration::ZERO,
            lifetime: Duration::from_secs(24 * 3600),
            signing: 0,
            announced: vec![0],
            token: None,
        };
        let roots = (0..roots).map(|number| Root::new(&format!("root {number}"))).collect();
        Self { mood: Mutex::new(mood), roots, stranger: Root::new("a stranger"), asked: Mutex::default() }
    }

    fn mood(&self) -> MutexGuard<'_, Mood> {
        lock(&self.mood)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Ca {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
