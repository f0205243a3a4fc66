//! What is asked of the control plane by name, since somebody needed it: who waits, what was answered, what is used.
//!
//! However many need the same, it is asked for once. What nobody has needed for a while is given up.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use model::{
    NetworkAddress, SharedSnapshot, Snapshot, Workload, WorkloadUid,
    demand::{Demand, Learning, Unlearned},
    resolve::waypoint_towards,
    service::{Service, ServiceKey, Vip},
    workload::{Waypoint, WaypointDestination},
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, SetOnce},
    time::{Instant, timeout_at},
};

#[derive(Clone, Debug)]
pub struct OnDemandSettings {
    /// How long a connection waits for an answer.
    pub patience: Duration,
    /// Whoever comes this soon after a wait in vain does not wait again.
    pub pause: Duration,
    /// What nobody has needed for this long is given up.
    pub unused_after: Duration,
    /// Names that may be asked for at once; a pod that tries all addresses must not fill our memory or the control plane's.
    /// Beyond that, those that were needed longest ago are given up.
    pub at_most: usize,
}

impl Default for OnDemandSettings {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(3),
            pause: Duration::from_secs(1),
            unused_after: Duration::from_secs(600),
            at_most: 16_384,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Wanted {
    Address(NetworkAddress),
    Service(ServiceKey),
    Workload(WorkloadUid),
}

impl Wanted {
    /// As the control plane names it.
    fn name(&self) -> String {
        match self {
            Self::Address(address) => address.to_string(),
            Self::Service(key) => key.to_string(),
            Self::Workload(uid) => uid.to_string(),
        }
    }

    fn is_known(&self, snapshot: &Snapshot) -> bool {
        match self {
            // Of the services that have an address, the source may see others than the one that is known.
            Self::Address(_) => false,
            Self::Service(key) => snapshot.service(key).is_some(),
            Self::Workload(uid) => snapshot.workload(uid).is_some(),
        }
    }
}

#[derive(Debug)]
struct Entry {
    answered: Arc<SetOnce<()>>,
    used: Instant,
    waited_in_vain: Option<Instant>,
    /// Whether the control plane is, or on the next stream will be, subscribed to.
    asked: bool,
    /// Of this node; never given up.
    local: bool,
}

/// Shared by those who need and the one who asks.
#[derive(Debug)]
pub struct OnDemand {
    settings: OnDemandSettings,
    snapshot: Arc<SharedSnapshot>,
    book: Mutex<Book>,
    pub(super) changed: Notify,
    /// Whether there is a stream by which an answer could come.
    connected: AtomicBool,
}

#[derive(Debug, Default)]
struct Book {
    /// The pods of this node.
    locals: Vec<WorkloadUid>,
    entries: HashMap<Wanted, Entry>,
    by_name: HashMap<String, Wanted>,
    /// Not asked for yet. All of them have an entry, so without a control plane they are no more than those.
    unasked: HashSet<String>,
    /// Asked for, and not needed any more. What was never asked for is not among them.
    given_up: HashSet<String>,
}

/// What changes in what is asked for.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) wanted: Vec<String>,
    pub(super) unwanted: Vec<String>,
}

impl OnDemand {
    pub(super) fn new(settings: OnDemandSettings, snapshot: Arc<SharedSnapshot>) -> Arc<Self> {
        Arc::new(Self {
            settings,
            snapshot,
            book: Mutex::default(),
            changed: Notify::new(),
            connected: AtomicBool::new(false),
        })
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Relaxed);
    }

    /// The pods of this node: known for as long as they are here, and so are the services that they are behind. Peers may ask
    /// for a service by its name, and what a pod serves may be a service's to say.
    pub fn keep(&self, locals: &[WorkloadUid]) {
        self.book.lock().locals = locals.to_vec();
        self.keep_services();
        self.changed.notify_one();
    }

    /// The services change with the state.
    pub(super) fn keep_services(&self) {
        let snapshot = self.snapshot.load();
        let mut book = self.book.lock();
        let of_node = book.locals.iter().filter_map(|uid| snapshot.workload(uid));
        let services = of_node.flat_map(|workload| workload.services.keys()).cloned().map(Wanted::Service);
        let wanted: HashSet<_> = book.locals.iter().cloned().map(Wanted::Workload).chain(services).collect();
        for (name, entry) in &mut book.entries {
            entry.local &= wanted.contains(name);
        }
        for name in wanted {
            book.want(&name).local = true;
        }
        if !book.unasked.is_empty() {
            self.changed.notify_one();
        }
    }

    /// Since this was asked last.
    pub(super) fn changes(&self) -> Changes {
        let mut book = self.book.lock();
        let Book { entries, by_name, unasked, given_up, .. } = &mut *book;
        let (wanted, unwanted): (Vec<_>, _) = (unasked.drain().collect(), given_up.drain().collect());
        for name in &wanted {
            if let Some(entry) = by_name.get(name).and_then(|wanted| entries.get_mut(wanted)) {
                entry.asked = true;
            }
        }
        Changes { wanted, unwanted }
    }

    /// What the control plane has spoken of, even if only to say that there is nothing.
    pub(super) fn answered<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let book = self.book.lock();
        for name in names {
            if let Some(entry) = book.by_name.get(name).and_then(|wanted| book.entries.get(wanted)) {
                // Whoever said so first has woken all.
                let _ = entry.answered.set(());
            }
        }
    }

    /// Forgets what nobody needs any more; its names.
    pub(super) fn expire(&self, now: Instant) -> Vec<String> {
        let mut book = self.book.lock();
        let unused = |entry: &Entry| !entry.local && now - entry.used >= self.settings.unused_after;
        let Book { entries, by_name, unasked, given_up, .. } = &mut *book;
        let gone = entries.extract_if(|_, entry| unused(entry));
        let mut names: Vec<_> =
            gone.filter_map(|(wanted, entry)| forget(&wanted, &entry, by_name, unasked)).collect();
        names.extend(given_up.drain());
        names
    }

    pub(super) fn unused_after(&self) -> Duration {
        self.settings.unused_after
    }

    pub(super) fn len(&self) -> usize {
        self.book.lock().entries.len()
    }

    /// Whether anybody who needs something needs this workload, by itself.
    pub(super) fn needs_workload(&self, workload: &Workload) -> bool {
        let book = self.book.lock();
        book.entries.contains_key(&Wanted::Workload(workload.uid.clone()))
            || workload.addresses().any(|address| book.entries.contains_key(&Wanted::Address(address)))
    }

    /// By its name or an address, as far as they can be read.
    pub(super) fn needs_unreadable(&self, name: &str, addresses: &[NetworkAddress]) -> bool {
        let book = self.book.lock();
        let needs = |address: &NetworkAddress| book.entries.contains_key(&Wanted::Address(address.clone()));
        book.by_name.contains_key(name) || addresses.iter().any(needs)
    }

    pub(super) fn needs_service(&self, key: &ServiceKey, service: &Service) -> bool {
        let book = self.book.lock();
        let is_in = |block: &Vip| {
            let is_it = |wanted: &Wanted| {
                matches!(wanted, Wanted::Address(address)
                    if block.network == address.network && block.block().contains(&address.ip))
            };
            book.entries.keys().any(is_it)
        };
        let has_vip = |vip: &Vip| match vip.is_exact() {
            true => {
                let address = NetworkAddress { network: vip.network.clone(), ip: vip.block().addr() };
                book.entries.contains_key(&Wanted::Address(address))
            }
            false => is_in(vip),
        };
        book.entries.contains_key(&Wanted::Service(key.clone())) || service.vips.iter().any(has_vip)
    }

    async fn learn(&self, wanted: Wanted) -> Result<(), Unlearned> {
        self.learn_within(wanted, self.settings.patience).await
    }

    async fn learn_within(&self, wanted: Wanted, patience: Duration) -> Result<(), Unlearned> {
        let now = Instant::now();
        let (answered, impatient) = {
            let mut book = self.book.lock();
            if !book.entries.contains_key(&wanted) && book.entries.len() >= self.settings.at_most {
                book.give_up_oldest(self.settings.at_most);
                if book.entries.len() >= self.settings.at_most {
                    return Err(Unlearned::TooMany);
                }
            }
            let entry = book.want(&wanted);
            entry.used = now;
            let pause = self.settings.pause;
            (Arc::clone(&entry.answered), entry.waited_in_vain.is_some_and(|at| now - at < pause))
        };
        self.changed.notify_one();
        if answered.initialized() || wanted.is_known(&self.snapshot.load()) {
            return Ok(());
        }
        let silent = || Unlearned::Unanswered(wanted.name().into());
        if impatient || patience.is_zero() {
            return Err(silent());
        }
        if timeout_at(now + patience, answered.wait()).await.is_err() {
            if let Some(entry) = self.book.lock().entries.get_mut(&wanted) {
                entry.waited_in_vain = Some(Instant::now());
            }
            return Err(silent());
        }
        Ok(())
    }

    async fn learn_waypoint(&self, waypoint: Option<Waypoint>) -> Result<(), Unlearned> {
        match waypoint.map(|waypoint| waypoint.destination) {
            None => Ok(()),
            Some(WaypointDestination::Address(address)) => self.learn(Wanted::Address(address)).await,
            Some(WaypointDestination::Hostname(key)) => self.learn(Wanted::Service(key)).await,
        }
    }
}

impl Book {
    /// A quarter at a time, so that it is seldom looked for. Those of this node stay.
    fn give_up_oldest(&mut self, at_most: usize) {
        let mut ages: Vec<Instant> =
            self.entries.values().filter(|entry| !entry.local).map(|entry| entry.used).collect();
        let count = at_most.div_ceil(4).min(ages.len());
        if count == 0 {
            return;
        }
        let (_, &mut newest, _) = ages.select_nth_unstable(count - 1);
        let mut left = count;
        let Self { entries, by_name, unasked, given_up, .. } = self;
        entries.retain(|wanted, entry| {
            let goes = left > 0 && !entry.local && entry.used <= newest;
            if goes {
                left -= 1;
                given_up.extend(forget(wanted, entry, by_name, unasked));
            }
            !goes
        });
    }

    fn want(&mut self, wanted: &Wanted) -> &mut Entry {
        self.entries.entry(wanted.clone()).or_insert_with(|| {
            let name = wanted.name();
            self.by_name.insert(name.clone(), wanted.clone());
            // It was not given up in time: it is asked for again, since it must be answered again.
            let asked = self.given_up.remove(&name);
            self.unasked.insert(name);
            let (answered, used) = (Arc::default(), Instant::now());
            Entry { answered, used, waited_in_vain: None, asked, local: false }
        })
    }
}

/// Its name, if the control plane is to hear that it is not needed any more.
fn forget(
    wanted: &Wanted,
    entry: &Entry,
    by_name: &mut HashMap<String, Wanted>,
    unasked: &mut HashSet<String>,
) -> Option<String> {
    let name = wanted.name();
    by_name.remove(&name);
    unasked.remove(&name);
    entry.asked.then_some(name)
}

impl Demand for OnDemand {
    fn local<'a>(&'a self, uid: &'a WorkloadUid) -> Learning<'a> {
        Box::pin(self.learn(Wanted::Workload(uid.clone())))
    }

    fn destination<'a>(&'a self, source: &'a Workload, ip: IpAddr) -> Learning<'a> {
        Box::pin(async move {
            let address = NetworkAddress { network: source.network.clone(), ip: ip.to_canonical() };
            self.learn(Wanted::Address(address)).await?;
            let waypoint = waypoint_towards(&self.snapshot.load(), source, ip).cloned();
            self.learn_waypoint(waypoint).await
        })
    }

    /// The control plane knows services by namespace and host name. That of a cluster's own service says its namespace;
    /// others are tried in the client's.
    fn host<'a>(&'a self, host: &'a str, namespace: &'a str) -> Learning<'a> {
        Box::pin(async move {
            let mut labels = host.split('.');
            let (_, own, kind) = (labels.next(), labels.next(), labels.next());
            let namespace = own.filter(|_| kind == Some("svc")).unwrap_or(namespace);
            let key = ServiceKey { namespace: namespace.into(), hostname: host.into() };
            // A name has another who may answer: without a stream nobody waits for it, though it is asked for on the next.
            let patience = if self.connected.load(Relaxed) { self.settings.patience } else { Duration::ZERO };
            self.learn_within(Wanted::Service(key), patience).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break if what pods ask for while the control plane is gone were remembered beyond the bound.
    #[tokio::test(start_paused = true)]
    async fn without_a_control_plane_no_more_is_remembered_than_may_be() {
        let settings =
            OnDemandSettings { at_most: 8, patience: Duration::ZERO, ..OnDemandSettings::default() };
        let on_demand = OnDemand::new(settings, Arc::default());
        let host = |number: usize| format!("name-{number}.default.svc.cluster.local");
        for number in 0..1000 {
            assert!(on_demand.host(&host(number), "default").await.is_err());
        }
        let counts = |book: &Book| (book.unasked.len(), book.given_up.len());
        let (unasked, given_up) = counts(&on_demand.book.lock());
        assert!(unasked <= 8 && given_up == 0, "{unasked} to ask for, {given_up} given up");
        assert_eq!(on_demand.changes().wanted.len(), on_demand.len());
        for number in 0..1000 {
            assert!(on_demand.host(&host(number % 20), "default").await.is_err());
        }
        let (unasked, given_up) = counts(&on_demand.book.lock());
        assert!(unasked <= 8 && given_up <= 8, "{unasked} to ask for, {given_up} given up");
    }

    /// Would break if each name that a pod asks for took the whole patience while the control plane is gone.
    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_name_while_there_is_no_stream() {
        let on_demand = OnDemand::new(OnDemandSettings::default(), Arc::default());
        for connected in [false, true, false] {
            on_demand.set_connected(connected);
            let began = Instant::now();
            assert!(on_demand.host("a.default.svc.cluster.local", "default").await.is_err());
            assert_eq!(began.elapsed() >= on_demand.settings.patience, connected);
        }
    }

    /// Would break if the control plane were left subscribed to what was given up, needed again and given up again.
    #[tokio::test(start_paused = true)]
    async fn what_was_asked_for_is_given_up_however_often_it_is_needed_in_between() {
        let settings =
            OnDemandSettings { at_most: 1, patience: Duration::ZERO, ..OnDemandSettings::default() };
        let on_demand = OnDemand::new(settings, Arc::default());
        let (a, b) = ("a.default.svc.cluster.local", "b.default.svc.cluster.local");
        let _ = on_demand.host(a, "default").await;
        assert_eq!(on_demand.changes().wanted, [format!("default/{a}")]);
        for host in [b, a, b] {
            let _ = on_demand.host(host, "default").await;
        }
        let Changes { wanted, unwanted } = on_demand.changes();
        assert_eq!((wanted, unwanted), (vec![format!("default/{b}")], vec![format!("default/{a}")]));
        let _ = on_demand.host(a, "default").await;
        let _ = on_demand.host(b, "default").await;
        let Changes { wanted, unwanted } = on_demand.changes();
        assert_eq!(
            (wanted, unwanted),
            (vec![format!("default/{b}")], Vec::new()),
            "asked again, not given up"
        );
    }
}
