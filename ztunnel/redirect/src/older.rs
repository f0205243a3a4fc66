//! The connections that a pod had when it was enrolled. They go on as they are, in plaintext and past the daemon, so
//! the least that is owed to an operator is a list of them.
//!
//! The kernel tells of a namespace's sockets by sock_diag(7), marks included. What is steered, and what the daemon
//! itself opened or accepted (this one, or one before it that still serves), carries a mark of ours; what would never
//! have been captured is left out. What remains is the application's own.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    time::Duration,
};

use abi::{HBONE_PORT, STEER_MARK};
use futures::StreamExt;
use model::{ClientAddr, OriginalDst, Role};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_LISTEN},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use rtnetlink::{
    packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload},
    proto::{self, sys::SocketAddr as NetlinkAddress, sys::protocols::NETLINK_SOCK_DIAG},
};
use tokio::time::timeout;

use crate::{EnrolledPod, NetworkNamespace, PodSpec, RedirectError, address::words, socket::DAEMON_MARK};

/// For a whole listing; a million sockets take about a second.
const DEADLINE: Duration = Duration::from_secs(3);
const WHAT: &str = "listing its connections";

/// A connection that is older than its pod's enrolment. Seventy bytes, for what costs the kernel some thousand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OlderConnection {
    /// Which listener would have got it: outbound, or inbound in plaintext.
    pub role: Role,
    pub client: ClientAddr,
    pub destination: OriginalDst,
}

/// The pod's end and the far end.
type Ends = (SocketAddr, SocketAddr);

impl EnrolledPod {
    /// Those of the connections found at enrolment that were still there when last looked.
    pub fn older_connections(&self) -> Vec<OlderConnection> {
        self.older.lock().iter().map(|(ends, role)| OlderConnection::new(*ends, *role)).collect()
    }

    /// To be called once the pod is enrolled: from then on nothing new passes by the daemon.
    pub(crate) async fn find_older(&self) -> Result<(), RedirectError> {
        let found = list(&self.namespace, &self.spec).await?;
        *self.older.lock() = found;
        Ok(())
    }

    /// Looks again, if there is anything left to look for.
    pub async fn forget_ended(&self) -> Result<(), RedirectError> {
        if self.older.lock().is_empty() {
            return Ok(());
        }
        let now = list(&self.namespace, &self.spec).await?;
        self.older.lock().retain(|ends, _| now.contains_key(ends));
        Ok(())
    }
}

impl OlderConnection {
    fn new((local, remote): Ends, role: Role) -> Self {
        let (client, destination) = if role == Role::Outbound { (local, remote) } else { (remote, local) };
        Self { role, client: ClientAddr(client), destination: OriginalDst(destination) }
    }
}

async fn list(namespace: &NetworkNamespace, pod: &PodSpec) -> Result<HashMap<Ends, Role>, RedirectError> {
    let failed = |source| RedirectError::InNamespace { what: WHAT, source };
    let sockets =
        timeout(DEADLINE, dump(namespace)).await.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?;
    Ok(select(&sockets.map_err(failed)?, pod))
}

/// What is neither ours nor beyond the mesh's concern.
fn select(sockets: &[Sock], pod: &PodSpec) -> HashMap<Ends, Role> {
    let is_listening = |socket: &&Sock| socket.listens;
    let served: HashSet<u16> =
        sockets.iter().filter(is_listening).map(|socket| socket.local.port()).collect();
    let open = sockets.iter().filter(|socket| !socket.listens);
    open.filter(|socket| socket.is_the_applications() && !is_uncaptured(socket, pod))
        .filter_map(|socket| {
            let inbound = served.contains(&socket.local.port());
            let excluded = if inbound {
                pod.excluded_inbound.contains(&socket.local.port())
            } else {
                pod.excluded_outbound.contains(&socket.remote.port())
            };
            let role = if inbound { Role::InboundPlaintext } else { Role::Outbound };
            (!excluded).then_some(((socket.local, socket.remote), role))
        })
        .collect()
}

/// To the pod itself, or to what is never beyond this machine or link.
fn is_uncaptured(socket: &Sock, pod: &PodSpec) -> bool {
    let remote = socket.remote.ip();
    words(remote).is_local_only() || pod.addresses().any(|own| own == remote)
}

/// As much of a socket as matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sock {
    local: SocketAddr,
    remote: SocketAddr,
    listens: bool,
    mark: u32,
}

impl Sock {
    fn is_the_applications(&self) -> bool {
        let is_tunnel = self.local.port() == HBONE_PORT || self.remote.port() == HBONE_PORT;
        !is_tunnel && self.mark != STEER_MARK && self.mark != DAEMON_MARK
    }
}

impl From<InetResponse> for Sock {
    fn from(InetResponse { header, nlas }: InetResponse) -> Self {
        let id = header.socket_id;
        let mark = nlas.iter().find_map(|nla| if let Nla::Mark(mark) = nla { Some(*mark) } else { None });
        Self {
            // A socket of both families shows an IPv4 peer as a mapped address.
            local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
            remote: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
            listens: header.state == TCP_LISTEN,
            mark: mark.unwrap_or(0),
        }
    }
}

/// The namespace's TCP sockets that listen, carry data, or are about to.
async fn dump(namespace: &NetworkNamespace) -> io::Result<Vec<Sock>> {
    let (connection, handle, _) = namespace
        .enter(|| proto::new_connection::<SockDiagMessage>(NETLINK_SOCK_DIAG))
        .and_then(|opened| opened)?;
    tokio::spawn(connection);
    let mut sockets = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let mut answers =
            handle.request(request(family), NetlinkAddress::new(0, 0)).map_err(io::Error::other)?;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                    sockets.push((*socket).into());
                }
                // A kernel without this family has no sockets of it.
                NetlinkPayload::Error(error) if error.raw_code() == -libc::ENOENT => {}
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
        }
    }
    Ok(sockets)
}

/// Marks need no asking: whoever has CAP_NET_ADMIN in the namespace is told.
fn request(family: u8) -> NetlinkMessage<SockDiagMessage> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let states = StateFlags::LISTEN
        | StateFlags::SYN_SENT
        | StateFlags::SYN_RECV
        | StateFlags::ESTABLISHED
        | StateFlags::FIN_WAIT1
        | StateFlags::FIN_WAIT2
        | StateFlags::CLOSE_WAIT;
    let inquiry = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id: if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() },
    };
    let mut message =
        NetlinkMessage::new(header, NetlinkPayload::from(SockDiagMessage::InetRequest(inquiry)));
    message.finalize();
    message
}

#[cfg(test)]
mod tests {
    use model::WorkloadUid;

    use super::*;
    use crate::FailMode;

    fn pod() -> PodSpec {
        PodSpec {
            uid: WorkloadUid::new("pod"),
            netns: "/none".into(),
            netns_identity: None,
            v4: Some("10.0.0.1".parse().unwrap()),
            v6: Some("fd00::1".parse().unwrap()),
            fail_mode: FailMode::Closed,
            strict: false,
            excluded_outbound: vec![5432],
            excluded_inbound: vec![9090],
        }
    }

    fn socket(local: &str, remote: &str) -> Sock {
        let [local, remote] = [local, remote].map(|text| text.parse().unwrap());
        Sock { local, remote, listens: false, mark: 0 }
    }

    fn listener(local: &str) -> Sock {
        Sock { listens: true, ..socket(local, "0.0.0.0:0") }
    }

    fn selected(sockets: &[Sock]) -> Vec<OlderConnection> {
        select(sockets, &pod()).into_iter().map(|(ends, role)| OlderConnection::new(ends, role)).collect()
    }

    /// If the two were mixed up, the list would name the wrong client.
    #[test]
    fn what_arrives_at_a_port_that_is_listened_on_is_inbound() {
        let sockets = [listener("[::]:80"), socket("10.0.0.1:80", "10.0.0.9:4000")];
        let [one] = selected(&sockets)[..] else { unreachable!("one connection") };
        assert_eq!(one.role, Role::InboundPlaintext);
        assert_eq!(one.client.0, "10.0.0.9:4000".parse().unwrap());
        let [other] = selected(&[socket("[fd00::1]:4000", "[fd00::9]:80")])[..] else {
            unreachable!("one connection")
        };
        assert_eq!(other.role, Role::Outbound);
        assert_eq!(other.destination.0, "[fd00::9]:80".parse().unwrap());
    }

    /// If these were counted, a mesh that is whole would look as if it leaked.
    #[test]
    fn the_mesh_and_what_is_not_its_concern_are_left_out() {
        let marked = |mark| Sock { mark, ..socket("10.0.0.1:4000", "10.0.0.9:80") };
        for socket in [
            marked(STEER_MARK),
            marked(DAEMON_MARK),
            socket("10.0.0.1:4000", "10.0.0.9:15008"),
            socket("10.0.0.1:15008", "10.0.0.9:4000"),
            socket("127.0.0.1:4000", "127.0.0.1:80"),
            socket("[::1]:4000", "[::1]:80"),
            socket("10.0.0.1:4000", "10.0.0.1:80"),
            socket("10.0.0.1:4000", "169.254.169.254:80"),
            socket("10.0.0.1:4000", "10.0.0.9:5432"),
        ] {
            assert_eq!(selected(std::slice::from_ref(&socket)), [], "{socket:?}");
        }
        assert_eq!(selected(&[listener("[::]:9090"), socket("10.0.0.1:9090", "10.0.0.9:4000")]), []);
    }

    /// A request that the kernel would not understand, or an answer that we would not, shows here.
    #[tokio::test]
    async fn the_kernel_tells_of_sockets_of_both_families() {
        let here = NetworkNamespace::open(std::path::Path::new("/proc/self/ns/net")).unwrap();
        let v4 = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let v6 = std::net::TcpListener::bind("[::1]:0").unwrap();
        let client = std::net::TcpStream::connect(v4.local_addr().unwrap()).unwrap();
        let sockets = dump(&here).await.unwrap();
        for listener in [v4.local_addr().unwrap(), v6.local_addr().unwrap()] {
            assert!(sockets.iter().any(|socket| socket.listens && socket.local == listener), "{listener}");
        }
        let ends = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        assert!(sockets.iter().any(|socket| !socket.listens && (socket.local, socket.remote) == ends));
    }
}
