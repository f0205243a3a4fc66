//! What the proxy asks of a pod's network namespace, and what it is told of the pod.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use model::{ClientAddr, OriginalDst, Role, WorkloadUid, authorize::MtlsMode};
use tokio::{net::TcpStream, sync::watch};
use tokio_util::sync::CancellationToken;

/// The only door to the kernel: sockets in one pod's network namespace.
pub trait PodSockets: Send + Sync + 'static {
    /// The address of `like`'s family under which the pod is enrolled; none while it is not, or no longer.
    fn address(&self, like: IpAddr) -> Option<IpAddr>;

    /// The next connection that was steered to `role`'s listener. Dropping the future loses no connection.
    fn accept(&self, role: Role) -> impl Future<Output = io::Result<Arrival>> + Send;

    /// From the pod's own address; never captured.
    fn connect(&self, target: SocketAddr) -> impl Future<Output = io::Result<TcpStream>> + Send;

    /// To the application in the pod, as if from `source`; `None` is the pod itself.
    fn connect_application(
        &self,
        source: Option<IpAddr>,
        target: SocketAddr,
    ) -> impl Future<Output = io::Result<TcpStream>> + Send;
}

/// A connection that was accepted in a pod.
#[derive(Debug)]
pub struct Arrival {
    pub stream: TcpStream,
    pub client: ClientAddr,
    pub destination: OriginalDst,
}

/// A pod of this node, as its operator configured it.
#[derive(Clone, Debug)]
pub struct LocalWorkload {
    pub uid: WorkloadUid,
    /// What it runs as, as far as the node knows.
    pub service_account: Option<String>,
    /// What the node asks for this pod, besides what the mesh's settings say. May change while the pod is served; what
    /// is open is judged by it too.
    pub mtls: watch::Receiver<Option<MtlsMode>>,
}

/// The two ways of stopping.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Ask peers to go elsewhere; nothing that is open ends.
    pub drain: CancellationToken,
    /// End everything now.
    pub cut: CancellationToken,
}
