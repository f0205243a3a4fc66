//! A Kubernetes API server in this process: real HTTP over TLS, lists and watches, with what it holds set by the test, and
//! able to misbehave.
//!
//! It knows no schema: objects are JSON, filed under the group, version and plural of their path. What clients rely on is
//! there: resource versions and conflicts, generations, pages, selectors, watches that resume, bookmarks, 410, the status
//! subresource, TokenReview. It may be stopped and started again with what it holds.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    thread::JoinHandle,
};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::{Place, control_plane::certificate::Certificate};

mod answer;
mod fault;
mod list;
mod path;
mod review;
mod selector;
mod serve;
mod store;
mod watch;
mod write;

pub use fault::Fault;
use path::Collection;
pub use review::Reviewed;
use store::Store;

pub struct ApiServer {
    address: SocketAddr,
    root_pem: String,
    tls: Arc<ServerConfig>,
    store: Arc<Mutex<Store>>,
    place: Option<Place>,
    running: Option<Running>,
}

struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// A request as it came: what roles have to allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// As in a role: get, list, watch, create, update, patch, delete.
    pub verb: &'static str,
    pub group: String,
    /// With its subresource: `pods/status`.
    pub resource: String,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub query: String,
}

impl ApiServer {
    /// Serves at a free port of `ip`, inside `place` if there is one.
    pub fn start(ip: IpAddr, place: Option<&Place>) -> Result<Self> {
        let Certificate { root_pem, tls, .. } = Certificate::of(ip, &[])?;
        let mut server = Self {
            address: SocketAddr::new(ip, 0),
            root_pem,
            tls,
            store: Arc::default(),
            place: place.cloned(),
            running: None,
        };
        server.resume()?;
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A kubeconfig that leads here, with this token.
    pub fn kubeconfig(&self, token: &str) -> Value {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let root = STANDARD.encode(&self.root_pem);
        let server = format!("https://{}", self.address);
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": server, "certificate-authority-data": root } }],
            "users": [{ "name": "test", "user": { "token": token } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        })
    }

    pub fn write_kubeconfig(&self, path: &Path, token: &str) -> Result<()> {
        std::fs::write(path, self.kubeconfig(token).to_string())
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Is gone: the listener and every connection.
    pub fn stop(&mut self) {
        if let Some(Running { stop, thread }) = self.running.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }

    /// Is there again, where it was, with what it held.
    pub fn resume(&mut self) -> Result<()> {
        let address = self.address;
        let bind = move || TcpListener::bind(address);
        let listener = match &self.place {
            Some(place) => place.run(bind),
            None => bind(),
        };
        let listener = listener.context("binding the API server")?;
        self.address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let (stop, stopped) = oneshot::channel();
        let (tls, store) = (Arc::clone(&self.tls), Arc::clone(&self.store));
        let serve = move || serve::serve(listener, tls, store, stopped);
        let thread = match &self.place {
            Some(place) => place.spawn(serve),
            None => std::thread::spawn(serve),
        };
        self.running = Some(Running { stop, thread });
        Ok(())
    }

    /// Holds this object from now on, in place of the one of its name; whoever watches is told. It needs `apiVersion`,
    /// `kind` and `metadata.name`.
    pub fn put(&self, object: Value) -> Result<()> {
        let collection = Collection::of(&object)?;
        self.store.lock().put(&collection, object);
        Ok(())
    }

    pub fn put_all(&self, objects: impl IntoIterator<Item = Value>) -> Result<()> {
        objects.into_iter().try_for_each(|object| self.put(object))
    }

    /// `api_version` and plural as in a path: `v1`, `pods`; an empty namespace for what has none.
    pub fn delete(&self, api_version: &str, plural: &str, namespace: &str, name: &str) -> bool {
        let collection = Collection::named(api_version, plural);
        self.store.lock().delete(&collection, namespace, name).is_some()
    }

    pub fn object(&self, api_version: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let collection = Collection::named(api_version, plural);
        self.store.lock().get(&collection, namespace, name).map(|object| object.as_ref().clone())
    }

    /// A TokenReview of this token says so; all others are refused.
    pub fn accept_token(&self, token: &str, reviewed: Reviewed) {
        self.store.lock().tokens.insert(token.to_owned(), reviewed);
    }

    /// Whoever asks what they may do is told: not this, by its plural.
    pub fn forbid(&self, plural: &str) {
        self.store.lock().forbidden.push(plural.to_owned());
    }

    pub fn revoke_token(&self, token: &str) {
        self.store.lock().tokens.remove(token);
    }

    /// From now on, and in this order, requests that fit go wrong.
    pub fn inject(&self, fault: Fault) {
        self.store.lock().faults.push(fault);
    }

    /// Breaks the connection of every open watch in the midst of it.
    pub fn cut_watches(&self) {
        self.store.lock().signal(|signals| signals.cut += 1);
    }

    /// Ends every open watch properly, as servers do after some minutes.
    pub fn end_watches(&self) {
        self.store.lock().signal(|signals| signals.ended += 1);
    }

    /// Sends a bookmark of the newest version on every watch that asked for them.
    pub fn bookmark(&self) {
        self.store.lock().signal(|signals| signals.bookmarked += 1);
    }

    /// Forgets what has happened so far: who resumes from before, or goes on with a list, is told 410.
    pub fn compact(&self) {
        self.store.lock().compact();
    }

    /// All that was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.store.lock().asked.clone()
    }

    /// Watches that stand.
    pub fn watches(&self) -> usize {
        self.store.lock().watches
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}
