//! A control plane in this process: delta ADS over real TLS, with what it knows set by the test, and able to misbehave.
//!
//! It serves on a thread of its own, inside a [`Place`] if it is given one. It may be stopped and started again, as one
//! that dies and comes back: same address, same certificate, same state.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
    thread::JoinHandle,
};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use proto::{
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    tonic::Code,
};
use rustls::ServerConfig;
use tokio::sync::oneshot;

use crate::Place;

mod book;
pub(crate) mod certificate;
mod independent;
pub mod large;
mod mesh;
mod service;

use book::Book;
pub use book::Known;
use certificate::Certificate;
pub use independent::Independent;

/// How it treats whoever opens a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conduct {
    #[default]
    Proper,
    /// Ends each stream with this status.
    Refuse(Code),
    /// Takes requests and never answers.
    Silent,
    /// Breaks off in the midst of the first response.
    HalfMessage,
    /// Says all that it should, a few bytes at a time.
    Slow,
}

pub struct ControlPlane {
    address: SocketAddr,
    root_pem: String,
    tls: Arc<ServerConfig>,
    book: Arc<Mutex<Book>>,
    place: Option<Place>,
    running: Option<Running>,
}

struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl ControlPlane {
    /// Serves at a free port of `ip`, inside `place` if there is one.
    pub fn start(ip: IpAddr, place: Option<&Place>) -> Result<Self> {
        let Certificate { root_pem, tls, .. } = Certificate::of(ip, &[b"h2"])?;
        let mut control_plane = Self {
            address: SocketAddr::new(ip, 0),
            root_pem,
            tls,
            book: Arc::default(),
            place: place.cloned(),
            running: None,
        };
        control_plane.resume()?;
        Ok(control_plane)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who vouches for it.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// Is gone: the listener and every connection.
    pub fn stop(&mut self) {
        if let Some(Running { stop, thread }) = self.running.take() {
            let _ = stop.send(());
            let _ = thread.join();
            self.book.lock().forget_streams();
        }
    }

    /// Is there again, where it was.
    pub fn resume(&mut self) -> Result<()> {
        let address = self.address;
        let listener =
            self.inside(move || TcpListener::bind(address)).context("binding the control plane")?;
        self.address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let (stop, stopped) = oneshot::channel();
        let (tls, book) = (Arc::clone(&self.tls), Arc::clone(&self.book));
        let serve = move || service::serve(listener, tls, book, stopped);
        let thread = match &self.place {
            Some(place) => place.spawn(serve),
            None => std::thread::spawn(serve),
        };
        self.running = Some(Running { stop, thread });
        Ok(())
    }

    fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match &self.place {
            Some(place) => place.run(work),
            None => work(),
        }
    }

    pub fn behave(&self, conduct: Conduct) {
        self.book.lock().conduct = conduct;
    }

    /// From now on only this token opens a stream.
    pub fn accept_only(&self, token: &str) {
        self.book.lock().token = Some(token.to_owned());
    }

    /// Ends all streams, without an error, as control planes do now and then.
    pub fn end_streams(&self) {
        self.book.lock().forget_streams();
    }

    /// Knows this from now on, and tells whoever subscribes to it.
    pub fn put(&self, known: Known) {
        self.put_all(vec![known]);
    }

    /// All in one response.
    pub fn put_all(&self, known: Vec<Known>) {
        self.book.lock().put(known);
    }

    pub fn remove(&self, type_url: &str, name: &str) {
        self.book.lock().remove(type_url, name);
    }

    /// Knows the workloads and services of a state file; what else it knew of them is gone.
    pub fn tell_mesh(&self, state: &serde_json::Value) -> Result<()> {
        let known = mesh::known(state)?;
        self.book.lock().replace(known);
        Ok(())
    }

    /// Sends this on every stream, as it is.
    pub fn send(&self, response: &DeltaDiscoveryResponse) {
        self.book.lock().send(response);
    }

    /// All that was asked and answered so far.
    pub fn requests(&self) -> Vec<DeltaDiscoveryRequest> {
        self.book.lock().requests.clone()
    }

    /// Streams that stand.
    pub fn streams(&self) -> usize {
        self.book.lock().open_streams()
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.stop();
    }
}
