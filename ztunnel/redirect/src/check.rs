//! The self-test: does this kernel do what the redirection needs? Answered by doing it in a scratch network
//! namespace, never by the kernel's version.

use std::{
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process,
    time::Duration,
};

use model::{Role, WorkloadUid};
use socket2::{Domain, Socket, Type};
use tokio::{net::TcpListener, runtime::Handle, time::timeout};

use crate::{
    Accepted, EnrolledPod, FailMode, PodSpec, RedirectError, Redirector, Settings,
    scratch::{self, ScratchCgroup, ScratchNamespace},
};

/// Where cgroup v2 is mounted.
pub use crate::scratch::cgroup2_mount;

/// RFC 2544 and RFC 4193: never routed anywhere.
const POD: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x7a74, 0, 0, 0, 0, 0, 1))];
const PEER: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x7a74, 0, 0, 0, 0, 0, 2))];
const APPLICATION_PORT: u16 = 8080;
/// For each connection of the test; on a healthy kernel all take microseconds.
const DEADLINE: Duration = Duration::from_secs(2);

/// One thing the redirection needs, and whether the kernel has it.
#[derive(Debug)]
pub struct Feature {
    pub name: &'static str,
    /// What is missing, if anything is.
    pub result: Result<(), String>,
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.result {
            Ok(()) => write!(f, "yes  {}", self.name),
            Err(missing) => write!(f, "no   {}: {missing}", self.name),
        }
    }
}

/// Tries everything; a feature whose foundation is missing is not tried and says so. This process is in a cgroup of
/// its own meanwhile, so do not run it in a daemon that serves.
pub async fn self_test(bpf_dir: PathBuf) -> Vec<Feature> {
    let mut report = Vec::new();
    let missing = match World::build(bpf_dir, &mut report).await {
        Ok(world) => {
            world.try_connections(&mut report).await;
            return report;
        }
        Err(missing) => missing,
    };
    report.push(Feature {
        name: "redirection",
        result: Err(format!("not tried, since this failed: {missing}")),
    });
    report
}

struct World {
    pod: EnrolledPod,
    pod_namespace: ScratchNamespace,
    peer_namespace: ScratchNamespace,
    redirector: Redirector,
    bpf_dir: PathBuf,
    _cgroup: ScratchCgroup,
}

impl World {
    async fn build(bpf_dir: PathBuf, report: &mut Vec<Feature>) -> Result<Self, RedirectError> {
        let mount = cgroup2_mount().ok_or(RedirectError::Path {
            what: "finding the cgroup v2 mount in",
            path: "/proc/self/mountinfo".into(),
            source: io::ErrorKind::NotFound.into(),
        });
        let mount = note(report, "cgroup v2", mount)?;
        let cgroup = note(report, "a cgroup of one's own", ScratchCgroup::enter(&mount))?;
        let pod_namespace = note(report, "network namespaces", ScratchNamespace::new())?;
        let peer_namespace = ScratchNamespace::new()?;
        let joined = scratch::join((&pod_namespace, &POD), (&peer_namespace, &PEER)).await;
        note(report, "veth pairs and IPv6", joined)?;
        let cookie = pod_namespace.namespace.cookie();
        let cookie =
            cookie.map_err(|source| RedirectError::InNamespace { what: "asking for its cookie", source });
        note(report, "network namespace cookies", cookie)?;
        let bpf_dir = bpf_dir.join(format!("check-{}", process::id()));
        let settings = Settings {
            bpf_dir: bpf_dir.clone(),
            cgroup_root: cgroup.path.clone(),
            node_netns: None,
            kubelet_cgroup: None,
            data_plane: Handle::current(),
        };
        let redirector = note(report, "the node's programs pass the verifier", Redirector::start(settings))?;
        let spec = PodSpec {
            uid: WorkloadUid::new("self-test"),
            netns: pod_namespace.path.clone(),
            netns_identity: None,
            v4: Some(Ipv4Addr::new(198, 18, 0, 1)),
            v6: Some(Ipv6Addr::new(0xfd00, 0x7a74, 0, 0, 0, 0, 0, 1)),
            fail_mode: FailMode::Closed,
            strict: false,
            excluded_outbound: Vec::new(),
            excluded_inbound: Vec::new(),
        };
        let enrolled = redirector.enrol(spec).await;
        let pod = note(report, "enrolment: routing, listeners, lookup program, maps", enrolled)?;
        note(report, "cgroup links", redirector.activate(&[&pod]))?;
        Ok(Self { pod, pod_namespace, peer_namespace, redirector, bpf_dir, _cgroup: cgroup })
    }

    async fn try_connections(self, report: &mut Vec<Feature>) {
        for (pod, peer) in POD.into_iter().zip(PEER) {
            let v4 = pod.is_ipv4();
            let name = |v4_name, v6_name| if v4 { v4_name } else { v6_name };
            let outbound = self.outbound(SocketAddr::new(peer, APPLICATION_PORT)).await;
            let accepted = outbound.as_ref().map(|_| ()).map_err(ToString::to_string);
            report.push(Feature {
                name: name("outbound steering, IPv4", "outbound steering, IPv6"),
                result: accepted,
            });
            if let Ok((application, _accepted)) = &outbound {
                let guarded = guard_holds(application);
                report.push(Feature {
                    name: name("setsockopt guard, IPv4", "setsockopt guard, IPv6"),
                    result: guarded,
                });
            }
            let preserved = self.inbound(pod, peer).await.map_err(|error| error.to_string());
            let name =
                name("inbound with the source preserved, IPv4", "inbound with the source preserved, IPv6");
            report.push(Feature { name, result: preserved });
        }
        let Self { pod, pod_namespace, redirector, bpf_dir, .. } = self;
        drop(pod);
        let refused = pod_namespace.namespace.enter(|| connect(SocketAddr::new(PEER[0], APPLICATION_PORT)));
        let closed = match refused {
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("a pod without its daemon was not refused: {other:?}")),
        };
        report.push(Feature { name: "fail-closed without the daemon", result: closed });
        drop(redirector);
        let _ = fs::remove_dir_all(&bpf_dir);
    }

    /// An application in the pod connects out: the daemon must get it, with the true destination.
    async fn outbound(&self, target: SocketAddr) -> io::Result<(TcpStream, Accepted)> {
        let application = self.pod_namespace.namespace.enter(|| connect(target))??;
        let accepted = within(self.pod.accept(Role::Outbound)).await?;
        if accepted.destination.0 == target {
            Ok((application, accepted))
        } else {
            Err(io::Error::other(format!("the original destination was {}", accepted.destination.0)))
        }
    }

    /// The peer connects in: the daemon must get it, and the application must see the peer's address.
    async fn inbound(&self, pod: IpAddr, peer: IpAddr) -> io::Result<()> {
        let target = SocketAddr::new(pod, APPLICATION_PORT);
        let application = self.pod_namespace.namespace.enter(|| std::net::TcpListener::bind(target))??;
        application.set_nonblocking(true)?;
        let application = TcpListener::from_std(application)?;
        let _client = self.peer_namespace.namespace.enter(|| connect(target))??;
        let accepted = within(self.pod.accept(Role::InboundPlaintext)).await?;
        let _leg = within(self.pod.connect_application(Some(accepted.client.0.ip()), target)).await?;
        let (_, seen) = within(application.accept()).await?;
        if seen.ip() == peer { Ok(()) } else { Err(io::Error::other(format!("the application saw {seen}"))) }
    }
}

fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    socket.connect_timeout(&target.into(), DEADLINE)?;
    Ok(socket.into())
}

/// Taking the mark off an open socket must be refused.
fn guard_holds(application: &TcpStream) -> Result<(), String> {
    match socket2::SockRef::from(application).set_mark(0) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => Err(format!("an open socket's mark could be changed: {other:?}")),
    }
}

async fn within<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(DEADLINE, step).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn note<T>(
    report: &mut Vec<Feature>,
    name: &'static str,
    result: Result<T, RedirectError>,
) -> Result<T, RedirectError> {
    let noted = result.as_ref().map(|_| ()).map_err(ToString::to_string);
    report.push(Feature { name, result: noted });
    result
}
