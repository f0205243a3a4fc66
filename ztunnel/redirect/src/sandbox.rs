//! The network namespace of a pod that runs already: found by its processes, which the runtime keeps in cgroups named
//! after the pod, and believed only when it is shown to be the pod's.
//!
//! A pod is hostile. It may make cgroups below its own, and, where user namespaces are allowed, network namespaces with any
//! address in them. So of a process's cgroups the outermost counts ([`cgroups`]), and a namespace must have the pod's
//! addresses, belong to whom pods' namespaces belong, and not be the node's or ours. If two qualify, neither does.

mod cgroups;

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

pub use cgroups::pod_of;

use crate::NetworkNamespace;

/// Of /proc/PID/cgroup; a line for each hierarchy.
const LONGEST_LIST: u64 = 64 << 10;

/// A pod whose namespace is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sought {
    /// Kubernetes' own.
    pub uid: String,
    /// All of which it must have.
    pub ips: Vec<IpAddr>,
    /// It runs in a user namespace of its own (`hostUsers: false`).
    pub own_users: bool,
}

/// Looks once at all processes. Blocks for as long as that takes: milliseconds for each thousand.
///
/// A pod that is missing in the answer has no process yet; an error says why what was found is not believed.
///
/// # Errors
/// If /proc cannot be read.
pub fn find(sought: &[Sought], node: &Path) -> io::Result<HashMap<String, Result<File, String>>> {
    let sought: HashMap<&str, &Sought> = sought.iter().map(|pod| (pod.uid.as_str(), pod)).collect();
    let node = NetworkNamespace::open(node).ok();
    let mut candidates: HashMap<&str, Vec<NetworkNamespace>> = HashMap::new();
    for process in fs::read_dir("/proc")?.flatten() {
        let name = process.file_name();
        if !name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        // Ended meanwhile, or not ours to look at: either way it tells nothing.
        let Some((uid, namespace)) = of_process(&process.path(), &sought) else { continue };
        let found = candidates.entry(uid).or_default();
        if !found.iter().any(|other| other.identity() == namespace.identity()) {
            found.push(namespace);
        }
    }
    let judge = |(uid, found): (&str, Vec<NetworkNamespace>)| {
        let pod = sought.get(uid)?;
        Some((uid.to_owned(), judge(pod, found, node.as_ref())))
    };
    Ok(candidates.into_iter().filter_map(judge).collect())
}

/// All is read by way of one descriptor of the process's directory: should its number be used again, nothing is read.
fn of_process<'a>(path: &Path, sought: &HashMap<&'a str, &Sought>) -> Option<(&'a str, NetworkNamespace)> {
    let directory = File::open(path).ok()?;
    let inside = |name: &str| PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()));
    let mut list = String::new();
    File::open(inside("cgroup")).ok()?.take(LONGEST_LIST).read_to_string(&mut list).ok()?;
    let (uid, _) = sought.get_key_value(pod_of(&list)?.as_str())?;
    Some((uid, NetworkNamespace::open(&inside("ns/net")).ok()?))
}

fn judge(
    pod: &Sought,
    found: Vec<NetworkNamespace>,
    node: Option<&NetworkNamespace>,
) -> Result<File, String> {
    let mut problem = "none of its processes is in a namespace of its own".to_owned();
    let mut good = Vec::new();
    for namespace in found {
        match belongs_to(pod, &namespace, node) {
            Ok(()) => good.push(namespace),
            Err(reason) => problem = reason,
        }
    }
    match good.len() {
        0 => Err(problem),
        1 => good.pop().map(NetworkNamespace::into_file).ok_or(problem),
        _ => Err("its processes are in several network namespaces with its addresses".to_owned()),
    }
}

fn belongs_to(
    pod: &Sought,
    namespace: &NetworkNamespace,
    node: Option<&NetworkNamespace>,
) -> Result<(), String> {
    let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let is_node = node.is_some_and(|node| node.identity() == namespace.identity());
    if is_node || namespace.is_home().map_err(failed("comparing it with the daemon's own namespace"))? {
        return Err("it is in the node's network namespace".to_owned());
    }
    let generations = if pod.own_users { 1 } else { 0 };
    if !namespace.is_of_our_users(generations).map_err(failed("asking whose its network namespace is"))? {
        return Err("its network namespace was made by a user namespace of its own".to_owned());
    }
    for ip in &pod.ips {
        let has = namespace.enter(|| has_address(*ip)).map_err(failed("entering its network namespace"))?;
        has.map_err(|error| format!("the network namespace of its processes does not have {ip}: {error}"))?;
    }
    Ok(())
}

/// Asks for one address, as a pod may have a million. A namespace that has none at all lets any be bound, but knows no way
/// to it. Nothing is sent.
fn has_address(ip: IpAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(SocketAddr::new(ip, 0))?;
    socket.connect(SocketAddr::new(ip, 9))
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, process::Command, thread, time::Duration};

    use super::*;
    use crate::scratch::ScratchNamespace;

    fn sought(ips: &[IpAddr]) -> Sought {
        Sought { uid: "u".to_owned(), ips: ips.to_vec(), own_users: false }
    }

    fn own() -> NetworkNamespace {
        NetworkNamespace::open(Path::new("/proc/self/ns/net")).unwrap()
    }

    fn opened(scratch: &ScratchNamespace) -> NetworkNamespace {
        NetworkNamespace::open(&scratch.path).unwrap()
    }

    /// If these were believed, a pod could have the node's own traffic, or another pod's, taken for its own.
    #[test]
    fn a_namespace_that_is_not_shown_to_be_the_pod_s_is_refused() {
        let scratch = ScratchNamespace::new().unwrap();
        let lacks = judge(&sought(&[Ipv4Addr::new(10, 9, 9, 9).into()]), vec![opened(&scratch)], None);
        assert!(lacks.unwrap_err().contains("does not have 10.9.9.9"));
        for node in [None, Some(&own())] {
            assert!(judge(&sought(&[]), vec![own()], node).unwrap_err().contains("node's network namespace"));
        }
        let other = ScratchNamespace::new().unwrap();
        let both = judge(&sought(&[]), vec![opened(&scratch), opened(&other)], None);
        assert!(both.unwrap_err().contains("several"), "a decoy beside the real one");
        judge(&sought(&[]), vec![opened(&scratch), own()], None).expect("one of two is the node's");
    }

    /// Any process may make a user namespace, and in it a network namespace that has the pod's address.
    #[test]
    fn a_namespace_of_a_user_namespace_of_the_pod_s_own_making_is_refused() {
        let mut child = Command::new("unshare").args(["-Urn", "sleep", "60"]).spawn().unwrap();
        let path = PathBuf::from(format!("/proc/{}/ns/net", child.id()));
        let home = own().identity();
        let namespace = loop {
            let namespace = NetworkNamespace::open(&path).unwrap();
            if namespace.identity() != home {
                break namespace;
            }
            thread::sleep(Duration::from_millis(5));
        };
        assert!(belongs_to(&sought(&[]), &namespace, None).unwrap_err().contains("user namespace"));
        let own_users = Sought { own_users: true, ..sought(&[]) };
        belongs_to(&own_users, &namespace, None).expect("as the runtime makes it for such pods");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_pod_without_processes_is_not_found() {
        let uid = "11111111-2222-3333-4444-555555555555".to_owned();
        let found = find(&[Sought { uid, ..sought(&[]) }], Path::new("/proc/1/ns/net")).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }
}
