//! However a snapshot came to be, it equals one built afresh from what it holds.

use proptest::prelude::*;

use super::*;
use crate::{
    SpiffeId,
    policy::tests::policy,
    service::{HealthPolicy, LoadBalancer, Mode, Scope, Service, Visibility},
    workload::{Health, NetworkMode, PortMap},
};

#[derive(Clone, Debug)]
enum Change {
    InsertWorkload(Box<Workload>),
    RemoveWorkload(WorkloadUid),
    InsertService(Service),
    RemoveService(ServiceKey),
    InsertPolicy(Policy),
    RemovePolicy(PolicyKey),
}

fn select(words: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(words)
}

const UIDS: &[&str] = &["u1", "u2", "u3"];
const IPS: &[&str] = &["10.0.0.1", "10.0.0.2", "fd00::1"];
const VIPS: &[&str] = &["/10.9.0.1", "/10.9.0.2", "/10.9.0.0/16", "n/10.0.0.0/8", "/fd00::/8"];
const SERVICES: &[&str] = &["a/s.example", "b/s.example", "a/t.example"];

fn workload() -> impl Strategy<Value = Workload> {
    let services = proptest::collection::btree_set(select(SERVICES), 0..3);
    let ips = proptest::collection::vec(select(IPS), 0..3);
    (select(UIDS), ips, services, select(&["", "n"]), any::<(bool, bool, bool)>()).prop_map(
        |(uid, ips, services, network, (host, sick, zone))| {
            let identity: SpiffeId = "spiffe://td/ns/a/sa/x".parse().unwrap();
            let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
            let mut workload = Workload::new(WorkloadUid::new(uid), uid, identity, ips);
            workload.network = crate::Network::new(network);
            workload.network_mode = if host { NetworkMode::HostNetwork } else { NetworkMode::Standard };
            workload.status = if sick { Health::Unhealthy } else { Health::Healthy };
            Arc::make_mut(&mut workload.locality).zone = if zone { "z".into() } else { "".into() };
            workload.hostname = "named.example".into();
            let ports: PortMap = [(81, 9090)].into();
            workload.services = services.iter().map(|s| (s.parse().unwrap(), ports.clone())).collect();
            workload
        },
    )
}

fn service() -> impl Strategy<Value = Service> {
    let vips = proptest::collection::vec(select(VIPS), 0..3);
    let balancer = proptest::option::of(balancer());
    (select(SERVICES), vips, balancer, any::<(bool, bool)>()).prop_map(
        |(key, vips, balancer, (canonical, hidden))| {
            let key: ServiceKey = key.parse().unwrap();
            let mut service = Service::new(&key.namespace, &key.hostname);
            service.vips = vips.iter().map(|vip| vip.parse().unwrap()).collect();
            service.ports = [(80, 8080), (81, 0)].into();
            service.load_balancer = balancer;
            service.canonical = canonical;
            service.visibility = if hidden { Visibility::Namespace } else { Visibility::Public };
            service
        },
    )
}

fn balancer() -> impl Strategy<Value = LoadBalancer> {
    let scopes = proptest::sample::select(vec![vec![], vec![Scope::Network], vec![Scope::Zone, Scope::Node]]);
    (scopes, any::<bool>()).prop_map(|(scopes, any_health)| {
        let mut balancer = LoadBalancer::new(Mode::Failover, scopes);
        balancer.health_policy = if any_health { HealthPolicy::AllowAll } else { HealthPolicy::OnlyHealthy };
        balancer
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => workload().prop_map(|w| Change::InsertWorkload(Box::new(w))),
        2 => select(UIDS).prop_map(|uid| Change::RemoveWorkload(WorkloadUid::new(uid))),
        3 => service().prop_map(Change::InsertService),
        2 => select(SERVICES).prop_map(|key| Change::RemoveService(key.parse().unwrap())),
        2 => policy().prop_map(Change::InsertPolicy),
        1 => select(&["a/p", "a/q", "b/p"]).prop_map(|key| Change::RemovePolicy(key.parse().unwrap())),
    ]
}

fn apply(snapshot: &mut Snapshot, change: Change) {
    match change {
        Change::InsertWorkload(workload) => snapshot.insert_workload(*workload),
        Change::RemoveWorkload(uid) => snapshot.remove_workload(&uid),
        Change::InsertService(service) => snapshot.insert_service(service),
        Change::RemoveService(key) => snapshot.remove_service(&key),
        Change::InsertPolicy(policy) => snapshot.insert_policy(policy),
        Change::RemovePolicy(key) => snapshot.remove_policy(&key),
    }
}

fn rebuilt(snapshot: &Snapshot) -> Snapshot {
    let mut fresh = Snapshot::default();
    // In the opposite order: who holds an address must not depend on who came first.
    snapshot.workloads().collect::<Vec<_>>().iter().rev().for_each(|w| fresh.insert_workload((***w).clone()));
    snapshot.services().collect::<Vec<_>>().iter().rev().for_each(|s| fresh.insert_service((***s).clone()));
    snapshot.policies().collect::<Vec<_>>().iter().rev().for_each(|p| fresh.insert_policy((***p).clone()));
    fresh
}

/// Sets compare what they are ordered by. Each workload must be the same one wherever it is filed.
#[track_caller]
fn assert_filed_alike(snapshot: &Snapshot) {
    let filed = |workload: &Arc<Workload>| {
        let known = snapshot.workload(&workload.uid).expect("it is gone, and still filed");
        assert!(Arc::ptr_eq(known, workload), "{} as it was is still filed", workload.uid);
    };
    snapshot.by_address.iter().for_each(|found| filed(&found.workload));
    snapshot.by_hostname.iter().for_each(|found| filed(&found.0));
    for key in SERVICES {
        snapshot.endpoints(&key.parse().unwrap()).for_each(filed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Would break if any index kept what its object lost, or lost what another object still has.
    #[test]
    fn indexes_never_drift(changes in proptest::collection::vec(change(), 0..40)) {
        let mut snapshot = Snapshot::default();
        for change in changes {
            let before = snapshot.clone();
            let kept = rebuilt(&before);
            apply(&mut snapshot, change);
            prop_assert_eq!(&snapshot, &rebuilt(&snapshot));
            assert_filed_alike(&snapshot);
            prop_assert!(before.workloads().eq(kept.workloads()), "a change showed through in an older snapshot");
            prop_assert_eq!(&before, &kept, "a change showed through in an older snapshot");
        }
    }
}

#[test]
fn an_address_passes_to_the_one_that_still_claims_it() {
    let at = |uid: &str| {
        let identity = "spiffe://td/ns/a/sa/x".parse().unwrap();
        Workload::new(WorkloadUid::new(uid), uid, identity, vec!["10.0.0.1".parse().unwrap()])
    };
    let address: NetworkAddress = "/10.0.0.1".parse().unwrap();
    let mut snapshot = Snapshot::default();
    snapshot.insert_workload(at("old"));
    snapshot.insert_workload(at("new"));
    snapshot.remove_workload(&WorkloadUid::new("old"));
    assert_eq!(snapshot.workload_at(&address).unwrap().uid.as_str(), "new");
    snapshot.remove_workload(&WorkloadUid::new("new"));
    assert!(snapshot.workload_at(&address).is_none());
}

/// Who of several services a client gets: its own namespace's, then a canonical one, then the first; whoever came
/// first.
#[test]
fn an_address_of_several_services_means_what_the_clients_namespace_makes_of_it() {
    let named = |key: &str, canonical, visibility| {
        let key: ServiceKey = key.parse().unwrap();
        let mut service = Service::new(&key.namespace, &key.hostname);
        service.vips = vec!["/10.9.0.1".parse().unwrap()];
        service.ports = [(80, 8080)].into();
        (service.canonical, service.visibility) = (canonical, visibility);
        service
    };
    let mut services = [
        named("d/x.example", false, Visibility::Public),
        named("c/y.example", false, Visibility::Public),
        named("c/x.example", true, Visibility::Public),
        named("b/x.example", false, Visibility::Public),
        named("a/x.example", true, Visibility::Namespace),
    ];
    for _ in 0..2 {
        let mut snapshot = Snapshot::default();
        services.iter().cloned().for_each(|service| snapshot.insert_service(service));
        let address: NetworkAddress = "/10.9.0.1".parse().unwrap();
        let meant = |namespace| snapshot.service_at(&address, namespace).unwrap().key().to_string();
        let named = |namespace| snapshot.service_named("x.example", namespace).unwrap().key().to_string();
        for (namespace, service) in
            [("a", "a/x.example"), ("b", "b/x.example"), ("c", "c/x.example"), ("other", "c/x.example")]
        {
            assert_eq!((meant(namespace).as_str(), named(namespace).as_str()), (service, service));
        }
        for key in ["c/x.example", "c/y.example"] {
            snapshot.remove_service(&key.parse().unwrap());
        }
        assert_eq!(snapshot.service_at(&address, "other").unwrap().key().to_string(), "b/x.example");
        services.reverse();
    }
}
