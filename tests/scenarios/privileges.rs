//! What the daemon may do, and where it may write: no more than docs/SECURITY.md says.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use testkit::{
    Mesh, MeshPlan, Place,
    api_server::ApiServer,
    client::Dial,
    container::Container,
    eventually,
    kubernetes::{Plugin, Sandbox, api_server, namespace, pod, uid_of},
    server::{Behaviour, Server},
};

use crate::support::{FAMILIES, last_logged};

const SECRET: &[u8] = b"the payload that nobody else may read";
/// As the chart gives them.
const NEEDED: [&str; 3] = ["net_admin", "sys_admin", "sys_ptrace"];

/// A daemon that is started by a script.
pub(crate) struct Started {
    _directory: tempfile::TempDir,
    pub(crate) script: PathBuf,
}

impl Started {
    fn by(script: impl FnOnce(&Path) -> String) -> Self {
        let plan = MeshPlan::new(&[]).build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        for name in ["ztunnel", "ztunnel-cni"] {
            let target = directory.path().join(name.replace("ztunnel", "real"));
            std::os::unix::fs::symlink(plan.binary().with_file_name(name), target).unwrap();
        }
        std::os::unix::fs::symlink("real-cni", directory.path().join("ztunnel-cni")).unwrap();
        let path = directory.path().join("ztunnel");
        fs::write(&path, format!("#!/bin/sh\nset -e\n{}\n", script(&directory.path().join("real")))).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { _directory: directory, script: path }
    }

    /// With these capabilities and no way to more.
    pub(crate) fn with(capabilities: &[&str]) -> Self {
        let kept: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
        Self::by(|binary| format!("exec setpriv --bounding-set=-all{kept} {} \"$@\"", binary.display()))
    }
}

struct Cluster {
    /// In order of destruction: their cgroups are within those of the mesh's pods.
    _containers: Vec<Container>,
    mesh: Mesh,
    _api: ApiServer,
}

/// One pod runs already, and one is about to start.
fn prepared(plan: impl FnOnce(MeshPlan) -> MeshPlan) -> Cluster {
    let mesh = plan(MeshPlan::new(&["running starting"]).kubernetes()).build().unwrap();
    let api = api_server(&mesh).unwrap();
    api.put(namespace("default", Some("ambient"))).unwrap();
    api.put(pod(&mesh, 1, "running", &mesh.pod("running").ips())).unwrap();
    api.put(pod(&mesh, 1, "starting", &[])).unwrap();
    let containers = vec![Container::start(mesh.pod("running"), &uid_of(&mesh, "running")).unwrap()];
    Cluster { _containers: containers, mesh, _api: api }
}

#[track_caller]
fn echo(from: &Place, target: std::net::SocketAddr) {
    assert_eq!(from.run(move || Dial::to(target).exchange(SECRET)).expect("an echo"), SECRET);
}

/// Everything that a daemon does: finds a pod, enrols one that starts, carries traffic, puts right what is undone.
#[track_caller]
fn works(cluster: &Cluster) {
    let mesh = &cluster.mesh;
    eventually("the pod that runs is served", || mesh.daemon(1).serves(&Mesh::uid("running")).then_some(()));
    Plugin::of(mesh, 1).call("ADD", &Sandbox::of(mesh, "starting")).unwrap().expect("the other may start");
    let _server = Server::start(mesh.pod("starting"), 8080, Behaviour::Echo).unwrap();
    for family in FAMILIES {
        let target = mesh.address("starting", family, 8080);
        echo(mesh.pod("running"), target);
        assert_eq!(last_logged(mesh.daemon(1), "outbound", target)["path"], "hbone");
    }
    mesh.pod("running").ip("rule del pref 1").unwrap();
    eventually("what is undone is put right", || {
        let repaired = mesh.daemon(1).metric("ztunnel_tampering_repaired_total", &[]).unwrap();
        (repaired >= 1.0).then_some(())
    });
}

/// The capabilities of the threads of this name, as /proc shows them.
fn effective(mesh: &Mesh, thread: &str) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{}/task", mesh.daemon(1).id())).unwrap().flatten();
    let of = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        (field("Name:")? == thread).then(|| u64::from_str_radix(field("CapEff:")?, 16).ok())?
    };
    tasks.filter_map(of).collect()
}

fn bits(numbers: &[u32]) -> u64 {
    numbers.iter().map(|number| 1_u64 << number).sum()
}

/// Catches: a capability that is needed and not said to be, and threads that carry pods' connections with more than they
/// need.
#[test]
fn the_capabilities_that_are_named_are_enough() {
    let started = Started::with(&NEEDED);
    let mut cluster = prepared(|plan| plan.binary(started.script.clone()));
    cluster.mesh.start_daemon(1).unwrap();
    works(&cluster);
    // include/uapi/linux/capability.h: NET_ADMIN 12, SYS_PTRACE 19, SYS_ADMIN 21.
    let control = effective(&cluster.mesh, "real");
    assert_eq!(control, [bits(&[12, 19, 21])], "of the thread of files, certificates and enrolment");
    let data_plane = effective(&cluster.mesh, "data-plane");
    assert!(!data_plane.is_empty());
    assert!(data_plane.iter().all(|&set| set == bits(&[12, 21])), "{data_plane:x?}");
}

/// Catches: a capability that is said to be needed and is not.
#[test]
fn none_of_them_can_be_spared() {
    for spared in NEEDED {
        let kept: Vec<&str> = NEEDED.into_iter().filter(|name| *name != spared).collect();
        let started = Started::with(&kept);
        let mut cluster = prepared(|plan| plan.binary(started.script.clone()));
        let place = cluster.mesh.node(1).daemon.clone();
        let daemon = cluster.mesh.launch(1, &place).unwrap();
        let uid = Mesh::uid("running");
        let serves = |daemon: &testkit::Daemon| daemon.is_ready() && daemon.serves(&uid);
        for _ in 0..100 {
            assert!(!serves(&daemon), "it serves without {spared}");
            if daemon.has_ended() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        cluster.mesh.put_daemon(1, daemon);
    }
}

/// Catches: a daemon that writes where a container has a read-only root, and one that takes a writable /proc/sys for
/// granted, which only privileged containers have.
#[test]
fn a_read_only_root_and_proc_are_enough() {
    let started = Started::by(|binary| {
        let kept: String = NEEDED.iter().map(|name| format!(",+{name}")).collect();
        // What the chart mounts besides: the directory of sockets and files, and bpffs, which is a mount already.
        let inside = format!(
            "d=$(dirname $(dirname \"$3\")); mount --bind \"$d\" \"$d\"; \
             mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; mount -o remount,bind,ro /; \
             if touch /root/writable 2>/dev/null; then echo the root is writable >&2; exit 1; fi; \
             exec setpriv --bounding-set=-all{kept} {} \"$@\"",
            binary.display()
        );
        format!("exec unshare --mount sh -e -c '{inside}' sh \"$@\"")
    });
    let mut cluster = prepared(|plan| plan.binary(started.script.clone()));
    cluster.mesh.start_daemon(1).unwrap();
    works(&cluster);
}

/// Catches: a system call that the daemon makes and the chart's seccomp profile refuses, and a profile that refuses nothing.
#[test]
fn the_seccomp_profile_is_enough() {
    let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/seccomp/ztunnel.json");
    let mut refused = std::process::Command::new("unshare");
    refused.args(["--mount", "true"]);
    testkit::seccomp::confine(&mut refused, &profile).unwrap();
    assert!(!refused.output().unwrap().status.success(), "a call that the daemon never makes");
    let mut cluster = prepared(|plan| plan.seccomp(profile));
    cluster.mesh.start_daemon(1).unwrap();
    works(&cluster);
    let status = fs::read_to_string(format!("/proc/{}/status", cluster.mesh.daemon(1).id())).unwrap();
    assert!(status.contains("Seccomp:\t2"), "it is not confined: {status}");
    cluster.mesh.daemon(1).terminate().unwrap();
    let ended = cluster.mesh.take_daemon(1).unwrap().wait(std::time::Duration::from_secs(60)).unwrap();
    assert!(ended.success(), "{ended}");
}
