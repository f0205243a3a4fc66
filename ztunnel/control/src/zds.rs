//! The pods of this node as a CNI's agent names them, over ZDS: one Unix socket, one packet per message, and with each
//! pod a descriptor of its network namespace.
//!
//! The agent asks and we answer each request once, in order. After every connection it names all its pods and says when
//! it has; those it did not name are gone. While it is away, its pods stay as they are. A request that makes no sense is
//! answered with what is wrong with it; packets keep the two sides in step, so nothing else is lost.

mod packet;
pub(crate) mod request;
mod session;

use std::{
    collections::HashSet,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rand::Rng;
use serde::Serialize;
use tokio::{sync::watch, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use self::session::Session;

/// Between attempts to reach the agent: the first, doubled each time, and at most the last, each a random part longer.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A pod, as the agent names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CniPod {
    /// Kubernetes' own; never used for another pod.
    pub uid: String,
    pub name: String,
    pub namespace: String,
    pub service_account: String,
}

/// What becomes of the agent's pods. An error's text goes back to the agent.
pub trait CniPods: Send + Sync + 'static {
    /// Has the pod served from now on, or its problem known and tried again.
    fn add(&self, pod: CniPod, netns: OwnedFd) -> impl Future<Output = Result<(), String>> + Send;

    /// Whether the pod is known. The agent asks for no more than that it stays.
    fn keeps(&self, uid: &str) -> bool;

    fn remove(&self, uid: &str) -> impl Future<Output = ()> + Send;

    /// These are all.
    fn retain(&self, named: &HashSet<String>) -> impl Future<Output = ()> + Send;
}

/// How the connection to the agent stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ZdsStatus {
    pub connected: bool,
    /// When the agent last had named all its pods.
    #[serde(serialize_with = "crate::instant::rfc3339_option")]
    pub complete: Option<SystemTime>,
    pub requests: u64,
    /// Requests that were answered with an error.
    pub refused: u64,
    /// Why the last attempt to connect failed, or the last connection ended.
    pub problem: Option<String>,
}

/// The connection to the agent, kept for as long as this lives.
pub struct Zds {
    status: watch::Receiver<ZdsStatus>,
    _following: AbortOnDropHandle<()>,
}

impl Zds {
    /// Connects to the agent's socket, now and whenever the connection is lost, and tells it by `sender`.
    pub fn start(path: &Path, pods: Arc<impl CniPods>, sender: watch::Sender<ZdsStatus>) -> Self {
        let status = sender.subscribe();
        let following = tokio::spawn(follow(path.to_owned(), pods, sender));
        Self { status, _following: AbortOnDropHandle::new(following) }
    }

    pub fn status(&self) -> watch::Receiver<ZdsStatus> {
        self.status.clone()
    }
}

async fn follow(path: PathBuf, pods: Arc<impl CniPods>, status: watch::Sender<ZdsStatus>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let ended = match Session::open(&path).await {
            Ok(session) => {
                pause = FIRST_PAUSE;
                tracing::info!(path = %path.display(), "connected to the CNI's agent");
                status.send_modify(|status| status.connected = true);
                session.serve(&*pods, &status).await
            }
            Err(error) => error,
        };
        tell(&path, &ended, &status);
        let longer = rand::rng().random_range(1.0..1.5);
        sleep(pause.mul_f64(longer)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Once for each change, not for each attempt.
fn tell(path: &Path, ended: &io::Error, status: &watch::Sender<ZdsStatus>) {
    let problem = ended.to_string();
    let before = status.borrow().clone();
    if before.connected || before.problem.as_ref() != Some(&problem) {
        let path = path.display();
        tracing::warn!(%path, problem, "no connection to the CNI's agent; its pods stay as they are; trying again");
    }
    status.send_modify(|status| {
        status.connected = false;
        status.problem = Some(problem);
    });
}

#[cfg(test)]
mod tests;
