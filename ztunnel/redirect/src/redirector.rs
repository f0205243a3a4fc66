//! The node's redirection: the programs at the cgroup, and the enrolment of pods.
//!
//! Order matters, since at every moment some application may be connecting. To enrol: routing, listeners, link,
//! listeners offered, and last the pod's map entry, which makes it enrolled. To take over from a daemon before us:
//! the map entry stands before its link is switched. To let go: the map entry first, the routing only after the
//! last steered connection, which would leak in plaintext without it.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    net::IpAddr,
    os::{fd::AsFd, linux::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use aya::Ebpf;
use model::{Role, WorkloadUid};
use nix::time::{ClockId, clock_gettime};
use parking_lot::Mutex;
use tokio::{net::TcpListener, runtime::Handle, time::MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    EnrolledPod, NetworkNamespace, PodSpec, RedirectError, VerdictCounts,
    address::words,
    bpf::AttachType,
    kernel_log,
    listener::listen,
    maps::Maps,
    objects::{self, Loader, NODE_PROGRAMS, POD_PROGRAM},
    pins::{self, Pins},
    pod::{Capture, Listeners},
    routing,
    seats::Seats,
    sysctl,
};

const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// The name that pod links are pinned under.
const POD_HOOK: &str = "pod";

pub struct Settings {
    /// On a BPF file system; where maps and links are pinned.
    pub bpf_dir: PathBuf,
    /// A cgroup v2 directory that holds all the node's pods.
    pub cgroup_root: PathBuf,
    /// The node's own network namespace, in which the kubelet runs.
    pub node_netns: Option<PathBuf>,
    /// The kubelet's cgroup: its connections are probes, let through to the pods.
    pub kubelet_cgroup: Option<PathBuf>,
    /// Where the listeners are polled.
    pub data_plane: Handle,
}

pub struct Redirector {
    settings: Settings,
    pins: Pins,
    loader: Loader,
    maps: Maps,
    node: Mutex<NodePrograms>,
    /// Of the node's own network namespace, 0 if that is not known. Whoever is in it is no pod.
    node_cookie: u64,
    /// Whose each namespace is. Two pods cannot have one: neither would have an identity of its own.
    tenants: Mutex<HashMap<u64, WorkloadUid>>,
    /// Ours, by our first program's id, and those of the daemons beside us.
    seats: Seats,
    /// Since our programs are attached: the cgroup.
    active: OnceLock<u64>,
}

/// Those that are attached once for all pods.
struct NodePrograms {
    object: Ebpf,
    /// The kubelet's cgroup, as they know it; 0 if there is none.
    kubelet: u64,
    _log: AbortOnDropHandle<()>,
}

impl NodePrograms {
    fn load(loader: &Loader, node_cookie: u64, kubelet: u64) -> Result<Self, RedirectError> {
        let mut object = loader.load_node(node_cookie, kubelet)?;
        let log = kernel_log::follow(&mut object)?;
        Ok(Self { object, kubelet, _log: log })
    }

    /// By which others know whose a link is.
    fn id(&self) -> Result<u32, RedirectError> {
        objects::program_id(&self.object, NODE_PROGRAMS[0].0)
    }
}

impl Redirector {
    /// Loads the node's programs on the pinned maps, or makes the maps. Nothing is attached yet.
    pub fn start(settings: Settings) -> Result<Self, RedirectError> {
        objects::check()?;
        let pins = Pins::prepare(&settings.bpf_dir)?;
        let node_cookie = settings.node_netns.as_deref().map(cookie_at).transpose()?.unwrap_or(0);
        let kubelet = settings.kubelet_cgroup.as_deref().map_or(0, |path| {
            cgroup_id(path).unwrap_or_else(|error| {
                tracing::warn!(%error, "the kubelet's cgroup is not there; until it is, strict pods refuse its probes");
                0
            })
        });
        let loader = Loader::new(&pins);
        let mut node = NodePrograms::load(&loader, node_cookie, kubelet)?;
        let maps = Maps::take(&mut node.object)?;
        let seats = Seats::take(&settings.bpf_dir, node.id()?)?;
        let (node, tenants, active) = (Mutex::new(node), Mutex::default(), OnceLock::new());
        let redirector = Self { settings, pins, loader, maps, node, node_cookie, tenants, seats, active };
        redirector.beat()?;
        Ok(redirector)
    }

    /// Attaches the node's programs, or switches those of a daemon before us to ours. To be called when the pods that
    /// are known at the start have been enrolled.
    pub fn activate(&self, enrolled: &[&EnrolledPod]) -> Result<(), RedirectError> {
        self.attach_node()?;
        // A daemon before us may have enrolled one of them again while we did; from here on it no longer does.
        for pod in enrolled {
            self.offer(pod)?;
        }
        Ok(())
    }

    fn attach_node(&self) -> Result<(), RedirectError> {
        let cgroup = open(&self.settings.cgroup_root, "opening the cgroup")?;
        let id = cgroup_id(&self.settings.cgroup_root)?;
        let node = self.node.lock();
        for (name, kind) in NODE_PROGRAMS {
            let program = objects::program(&node.object, name)?;
            pins::attach(&self.pins.link(name, id), program.as_fd(), cgroup.as_fd(), kind)?;
            for other in self.pins.linked(name).into_iter().filter(|&other| other != id) {
                pins::detach(&self.pins.link(name, other))?;
            }
        }
        let _ = self.active.set(id);
        Ok(())
    }

    /// Looks at the kubelet's cgroup again: systemd makes it anew whenever the kubelet is restarted.
    pub fn follow_kubelet(&self) -> Result<(), RedirectError> {
        // While the kubelet is away there is none.
        let Some(now) = self.settings.kubelet_cgroup.as_deref().and_then(|path| cgroup_id(path).ok()) else {
            return Ok(());
        };
        // A daemon after us sees to it itself, and has the later programs.
        if self.node.lock().kubelet == now || self.is_superseded() || self.seats.is_later_held() {
            return Ok(());
        }
        let node = NodePrograms::load(&self.loader, self.node_cookie, now)?;
        self.seats.rename(node.id()?)?;
        *self.node.lock() = node;
        self.attach_node()?;
        tracing::info!("the kubelet has another cgroup; its probes are known by that one from now on");
        Ok(())
    }

    /// Forgets the pods of a daemon before us that are not among `enrolled`, but for those that have an address which is
    /// `awaited`: each may be a pod that we failed to take over, and must stay closed. Answers with how many stay.
    pub fn forget_strangers(
        &self,
        enrolled: &[&EnrolledPod],
        awaited: &HashSet<IpAddr>,
    ) -> Result<usize, RedirectError> {
        if self.is_superseded() {
            return Ok(0);
        }
        let current: HashSet<u64> = enrolled.iter().map(|pod| pod.cookie).collect();
        let awaited: Vec<_> = awaited.iter().map(|ip| words(*ip)).collect();
        let known: HashSet<u64> = self.maps.pods()?.into_iter().chain(self.pins.linked(POD_HOOK)).collect();
        let mut left = 0;
        for stranger in known.difference(&current).copied() {
            let may_be_awaited = match self.maps.pod(stranger)? {
                Some(pod) => awaited.iter().any(|ip| [pod.v4, pod.v6].contains(ip)),
                // Of another ABI version, perhaps; what it had is not told.
                None => !awaited.is_empty(),
            };
            if may_be_awaited {
                left += 1;
            } else {
                self.forget(stranger)?;
            }
        }
        if left == 0 {
            self.pins.remove_other_versions();
        }
        Ok(left)
    }

    /// Forgets the pods whose namespaces have ended, which their links know.
    pub fn forget_dead(&self) -> Result<(), RedirectError> {
        let ended =
            |cookie: &u64| pins::target_has_ended(&self.pins.link(POD_HOOK, *cookie)).unwrap_or(false);
        self.pins.linked(POD_HOOK).into_iter().filter(ended).try_for_each(|cookie| self.forget(cookie))
    }

    /// Enrols a pod, or takes it over from a daemon before us.
    pub async fn enrol(&self, spec: PodSpec) -> Result<EnrolledPod, RedirectError> {
        spec.check()?;
        let namespace = NetworkNamespace::of(&spec)?;
        let cookie = namespace.cookie().map_err(inside("asking for its cookie"))?;
        if cookie == self.node_cookie {
            let problem = "its network namespace is the node's own";
            return Err(RedirectError::Pod { uid: spec.uid.to_string(), problem });
        }
        self.claim(cookie, &spec.uid)?;
        let is_new = !self.pins.link(POD_HOOK, cookie).exists();
        let enrolled = self.enrol_in(namespace, cookie, spec, is_new).await;
        match &enrolled {
            // What is there is the successor's.
            Ok(_) | Err(RedirectError::Superseded) => {}
            Err(_) if is_new => self.forget_failed(cookie),
            // What a daemon before us made of it holds it closed.
            Err(_) => {}
        }
        enrolled
    }

    fn claim(&self, cookie: u64, uid: &WorkloadUid) -> Result<(), RedirectError> {
        let mut tenants = self.tenants.lock();
        if tenants.get(&cookie).is_some_and(|tenant| tenant != uid) {
            let problem = "its network namespace is that of another enrolled pod";
            return Err(RedirectError::Pod { uid: uid.to_string(), problem });
        }
        tenants.insert(cookie, uid.clone());
        Ok(())
    }

    async fn enrol_in(
        &self,
        namespace: NetworkNamespace,
        cookie: u64,
        spec: PodSpec,
        is_new: bool,
    ) -> Result<EnrolledPod, RedirectError> {
        sysctl::ensure(&namespace)?;
        routing::ensure(&namespace, &spec).await?;
        let listeners = Listeners::open(|role| self.listen(&namespace, role))?;
        let capture = Capture::Programs { owners: self.maps.owners() };
        let (captured, older) = (AtomicBool::new(true), Mutex::default());
        let (entry, program) = (Mutex::new(spec.entry()), AtomicU32::default());
        let pod =
            EnrolledPod { spec, namespace, cookie, listeners, capture, captured, older, entry, program };
        self.attach(&pod, is_new)?;
        self.find_older(&pod).await;
        Ok(pod)
    }

    /// Enrols again a pod that was let go and is still served, with what may have changed since.
    pub async fn resume_capture(&self, pod: &EnrolledPod, spec: &PodSpec) -> Result<(), RedirectError> {
        self.update(pod, spec)?;
        pod.captured.store(true, Relaxed);
        self.find_older(pod).await;
        Ok(())
    }

    /// Whether a daemon after us, which lives, has put its programs in the place of ours. What is attached is its
    /// business then.
    pub fn is_superseded(&self) -> bool {
        let Some(&cgroup) = self.active.get() else { return false };
        let owner = pins::program_of(&self.pins.link(NODE_PROGRAMS[0].0, cgroup));
        owner.is_ok_and(|owner| owner != self.seats.own() && self.seats.is_held(owner))
    }

    /// Whether a daemon after us has ended and nobody has taken its place, so that pods it had taken over have nobody.
    pub fn is_bereft(&self) -> bool {
        self.active.get().is_some() && self.seats.is_later_empty() && !self.is_superseded()
    }

    /// Takes back what a daemon after us had taken over before it ended. A pod that this fails for is left to its next
    /// inspection.
    pub async fn take_back(&self, pods: &[Arc<EnrolledPod>]) -> Result<(), RedirectError> {
        self.attach_node()?;
        for pod in pods {
            if let Err(error) = self.put_back(pod) {
                tracing::warn!(pod = %pod.spec.uid, %error, "a pod cannot be taken back yet");
            }
            // Loading takes a while, and this thread has others to serve.
            tokio::task::yield_now().await;
        }
        self.seats.clear();
        Ok(())
    }

    /// As if we had ended: a daemon before us, if there is one, may take back what it had. What comes to us is served on.
    pub fn step_down(&self) {
        self.seats.leave();
    }

    /// Two daemons that came and went at the same time may have left a pod with what is neither's.
    pub(crate) fn keep_attached(&self, pod: &EnrolledPod) -> Result<(), RedirectError> {
        // One that is about to take over may have done so with this pod already.
        if self.is_superseded() || self.seats.is_later_held() { Ok(()) } else { self.put_back(pod) }
    }

    /// Puts the pod's program and listeners where they are to be. Listeners that are there stay, whoever's they are.
    fn put_back(&self, pod: &EnrolledPod) -> Result<(), RedirectError> {
        if !pod.is_captured() {
            return Ok(());
        }
        let attached = pins::program_of(&self.pins.link(POD_HOOK, pod.cookie));
        if attached.is_ok_and(|attached| attached == pod.program.load(Relaxed)) {
            return self.maps.insert_missing_listeners(pod.cookie, &pod.listeners);
        }
        self.attach(pod, false)
    }

    /// A list that cannot be made is no reason not to protect what comes after.
    async fn find_older(&self, pod: &EnrolledPod) {
        if let Err(error) = pod.find_older().await {
            tracing::warn!(pod = %pod.spec.uid, %error, "connections older than the enrolment cannot be listed");
        }
    }

    fn attach(&self, pod: &EnrolledPod, is_new: bool) -> Result<(), RedirectError> {
        let object = self.loader.load_pod(pod.cookie)?;
        let program = objects::program(&object, POD_PROGRAM)?;
        // Asked last: loading takes a while.
        if self.is_superseded() {
            return Err(RedirectError::Superseded);
        }
        pod.program.store(objects::program_id(&object, POD_PROGRAM)?, Relaxed);
        if !is_new {
            self.offer(pod)?;
        }
        let pin = self.pins.link(POD_HOOK, pod.cookie);
        let namespace = pod.namespace.file().as_fd();
        pins::attach(&pin, program.as_fd(), namespace, AttachType::SkLookup)?;
        if is_new {
            self.offer(pod)?;
        }
        Ok(())
    }

    /// From here on the pod is enrolled, and its connections come to our listeners.
    fn offer(&self, pod: &EnrolledPod) -> Result<(), RedirectError> {
        self.maps.insert_listeners(pod.cookie, &pod.listeners)?;
        self.maps.insert_pod(pod.cookie, *pod.entry.lock())
    }

    /// Changes what can change while a pod is enrolled: fail mode, strictness, excluded ports.
    pub fn update(&self, pod: &EnrolledPod, spec: &PodSpec) -> Result<(), RedirectError> {
        spec.check()?;
        self.maps.insert_pod(pod.cookie, spec.entry())?;
        *pod.entry.lock() = spec.entry();
        Ok(())
    }

    /// New connections are the pod's own again. Those that were steered go on, for as long as the routing stays.
    pub fn stop_capture(&self, pod: &EnrolledPod) -> Result<(), RedirectError> {
        pod.captured.store(false, Relaxed);
        if self.is_superseded() { Ok(()) } else { self.maps.remove_pod(pod.cookie) }
    }

    /// Takes away all that is left of a pod's enrolment. Its steered connections must have ended. What a daemon after
    /// us has made of the pod meanwhile, or has forgotten itself, is not ours to take away.
    pub async fn clean_up(&self, pod: &EnrolledPod) -> Result<(), RedirectError> {
        if self.is_superseded() {
            return Ok(());
        }
        self.forget(pod.cookie)?;
        if pod.namespace.is_named() { routing::remove(&pod.namespace).await } else { Ok(()) }
    }

    /// Beats while it is polled: run it where connections are served, so that it stops when they do.
    pub async fn keep_beating(&self) {
        let mut interval = tokio::time::interval(HEARTBEAT_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            if let Err(error) = self.beat() {
                tracing::error!(%error, "without a heartbeat, enrolled pods will be treated as if no daemon were there");
            }
        }
    }

    pub fn verdicts(&self) -> VerdictCounts {
        self.maps.verdicts()
    }

    fn beat(&self) -> Result<(), RedirectError> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        self.maps.beat(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Opens again the listeners that the pod has closed, and answers with how many those were.
    pub(crate) fn reopen(&self, pod: &EnrolledPod) -> Result<usize, RedirectError> {
        let closed = pod.listeners.closed();
        if closed.is_empty() || self.is_superseded() {
            return Ok(0);
        }
        for role in &closed {
            let listener = self.listen(&pod.namespace, *role)?;
            // Offered before it is kept: if that fails, the next inspection finds the old one closed and tries again.
            self.maps.insert_listener(pod.cookie, *role, &listener)?;
            pod.listeners.replace(*role, listener);
        }
        Ok(closed.len())
    }

    fn listen(&self, namespace: &NetworkNamespace, role: Role) -> Result<TcpListener, RedirectError> {
        let listener = namespace.enter(|| listen(role)).and_then(|listener| listener);
        let _data_plane = self.settings.data_plane.enter();
        listener.and_then(TcpListener::from_std).map_err(inside("listening"))
    }

    /// Why the enrolment failed is more worth telling than that this did too.
    fn forget_failed(&self, cookie: u64) {
        if let Err(error) = self.forget(cookie) {
            tracing::warn!(cookie, %error, "a failed enrolment leaves something behind");
        }
    }

    fn forget(&self, cookie: u64) -> Result<(), RedirectError> {
        self.maps.remove_pod(cookie)?;
        self.maps.remove_listeners(cookie);
        self.tenants.lock().remove(&cookie);
        pins::detach(&self.pins.link(POD_HOOK, cookie))
    }
}

fn cookie_at(path: &Path) -> Result<u64, RedirectError> {
    NetworkNamespace::open(path)?.cookie().map_err(inside("asking for its cookie"))
}

/// A cgroup's id is its directory's inode number.
fn cgroup_id(path: &Path) -> Result<u64, RedirectError> {
    Ok(open(path, "opening the cgroup")?
        .metadata()
        .map_err(|source| RedirectError::Path { what: "reading", path: path.to_owned(), source })?
        .st_ino())
}

fn open(path: &Path, what: &'static str) -> Result<File, RedirectError> {
    File::open(path).map_err(|source| RedirectError::Path { what, path: path.to_owned(), source })
}

fn inside(what: &'static str) -> impl Fn(std::io::Error) -> RedirectError {
    move |source| RedirectError::InNamespace { what, source }
}
