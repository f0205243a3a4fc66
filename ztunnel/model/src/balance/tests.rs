//! The choice against a reference that looks at every endpoint, and what it costs.

use std::{cell::Cell, collections::BTreeMap};

use proptest::prelude::*;

use super::*;
use crate::{
    Network, Snapshot,
    service::{HealthPolicy, IpFamilies},
    workload::Health,
};

const WEB: &str = "a/web.example";

/// What a service, an endpoint and a client may differ in, from small sets so that they meet.
fn endpoint() -> impl Strategy<Value = Workload> {
    let place = (0u8..2, 0u8..2, 0u8..3);
    let nature = (0u32..4, any::<bool>(), 0u8..4, 0u8..4, any::<bool>());
    (place, nature).prop_map(|((region, zone, node), (capacity, sick, ips, network, knows_port))| {
        let identity = "spiffe://td/ns/a/sa/x".parse().unwrap();
        let mut workload = Workload::new(WorkloadUid::new("placeholder"), "x", identity, Vec::new());
        workload.workload_ips = addresses(ips);
        workload.hostname = if ips == 0 { "named.example".into() } else { "".into() };
        Arc::make_mut(&mut workload.locality).region = region.to_string().into();
        Arc::make_mut(&mut workload.locality).zone = zone.to_string().into();
        workload.node = node.to_string().into();
        workload.network = Network::new(if network == 0 { "far" } else { "" });
        workload.capacity = capacity;
        workload.status = if sick { Health::Unhealthy } else { Health::Healthy };
        let ports = if knows_port { [(81, 9090)].into() } else { [].into() };
        workload.services = [(WEB.parse().unwrap(), ports)].into();
        workload
    })
}

/// None, one family, the other, both.
fn addresses(kind: u8) -> Vec<std::net::IpAddr> {
    let all = ["10.0.0.1", "fd00::1"].map(|ip| ip.parse().unwrap());
    match kind {
        0 => vec![],
        1 => all[..1].to_vec(),
        2 => all[1..].to_vec(),
        _ => all.to_vec(),
    }
}

fn service() -> impl Strategy<Value = Service> {
    let scopes = proptest::sample::subsequence(vec![Scope::Region, Scope::Zone, Scope::Node], 0..=3);
    let mode = proptest::sample::select(vec![Mode::Standard, Mode::Strict, Mode::Failover]);
    let families = proptest::sample::select(vec![None, Some(IpFamilies::IPv4), Some(IpFamilies::IPv6)]);
    (scopes, mode, any::<bool>(), families).prop_map(|(scopes, mode, any_health, families)| {
        let mut service = Service::new("a", "web.example");
        service.ports = [(80, 8080), (81, 0)].into();
        let mut balancer = LoadBalancer::new(mode, scopes);
        balancer.health_policy = if any_health { HealthPolicy::AllowAll } else { HealthPolicy::OnlyHealthy };
        service.load_balancer = Some(balancer);
        service.ip_families = families;
        service
    })
}

/// Every candidate's weight, found by looking at each.
fn reference(
    service: &Service,
    all: &[Arc<Workload>],
    client: &Workload,
    port: u16,
    v4: bool,
) -> BTreeMap<WorkloadUid, u64> {
    let balancer = service.load_balancer.as_ref().unwrap();
    let has =
        |family_v4: bool| family_v4 == v4 || client.workload_ips.iter().any(|ip| ip.is_ipv4() == family_v4);
    let reachable = |endpoint: &&Arc<Workload>| {
        let by_name = endpoint.workload_ips.is_empty() && !endpoint.hostname.is_empty();
        by_name || endpoint.workload_ips.iter().any(|ip| service.admits(*ip) && has(ip.is_ipv4()))
    };
    let rank = |endpoint: &Workload| {
        balancer.scopes().iter().take_while(|scope| scope.of(endpoint) == scope.of(client)).count()
    };
    let candidates: Vec<_> = all
        .iter()
        .filter(|e| e.capacity > 0 && e.network == client.network)
        .filter(|e| e.status == Health::Healthy || balancer.health_policy == HealthPolicy::AllowAll)
        .filter(|e| {
            service.ports.get(&port) != Some(&0)
                || e.services.get(&service.key()).unwrap().contains_key(&port)
        })
        .filter(reachable)
        .collect();
    let best = match balancer.mode {
        Mode::Failover => candidates.iter().map(|endpoint| rank(endpoint)).max().unwrap_or_default(),
        Mode::Strict => balancer.scopes().len(),
        _ => 0,
    };
    let chosen = candidates.into_iter().filter(|endpoint| rank(endpoint) >= best);
    chosen.map(|endpoint| (endpoint.uid.clone(), u64::from(endpoint.capacity))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Would break if a scope, mode, family, network, port, health or weight were judged wrongly, or if a change of one
    /// endpoint or of the service left anything of what was before: every number the dice can show is tried.
    #[test]
    fn each_endpoint_is_chosen_as_often_as_its_weight_says(
        services in proptest::collection::vec(service(), 2),
        endpoints in proptest::collection::vec((0u8..12, endpoint()), 0..24),
        gone in proptest::collection::vec(0u8..12, 0..4),
        (client, port, v4) in (endpoint(), proptest::sample::select(vec![80u16, 81]), any::<bool>()),
    ) {
        let mut snapshot = Snapshot::default();
        snapshot.insert_service(services[0].clone());
        for (number, mut endpoint) in endpoints {
            endpoint.uid = WorkloadUid::new(&number.to_string());
            snapshot.insert_workload(endpoint);
        }
        gone.iter().for_each(|number| snapshot.remove_workload(&WorkloadUid::new(&number.to_string())));
        for service in &services {
            snapshot.insert_service(service.clone());
            let all: Vec<_> = snapshot.endpoints(&service.key()).cloned().collect();
            let expected = reference(service, &all, &client, port, v4);
            let total: u64 = expected.values().sum();
            let known = snapshot.known_service(&service.key()).unwrap();
            let asked = SocketAddr::new(if v4 { "10.9.0.1" } else { "fd00:9::1" }.parse().unwrap(), port);
            let mut found = BTreeMap::new();
            for dice in 0..total.max(1) {
                let question = Question { client: &client, asked, dice, tried: &[], set_aside: &[] };
                let chosen = known.balance.choose(service, &question, |uid| snapshot.workload(uid));
                if let Ok((endpoint, _)) = chosen {
                    *found.entry(endpoint.uid.clone()).or_insert(0) += 1;
                }
            }
            prop_assert_eq!(found, expected);
        }
    }
}

thread_local! {
    static COMPARED: Cell<u32> = const { Cell::new(0) };
}

/// Counts how often two workloads' places are compared.
pub(super) fn count_comparison() {
    COMPARED.set(COMPARED.get() + 1);
}

fn compared(work: impl FnOnce()) -> u32 {
    COMPARED.set(0);
    work();
    COMPARED.get()
}

fn crowd(size: u32) -> (Snapshot, Service) {
    let mut service = Service::new("a", "web.example");
    service.ports = [(80, 8080)].into();
    let scopes = [Scope::Region, Scope::Zone, Scope::Node];
    service.load_balancer = Some(LoadBalancer::new(Mode::Failover, scopes));
    let mut snapshot = Snapshot::default();
    snapshot.insert_service(service.clone());
    (0..size).for_each(|number| snapshot.insert_workload(member(number)));
    (snapshot, service)
}

fn member(number: u32) -> Workload {
    let identity = "spiffe://td/ns/a/sa/x".parse().unwrap();
    let ip = std::net::Ipv4Addr::from(0x0a00_0000 + number).into();
    let mut workload = Workload::new(WorkloadUid::new(&number.to_string()), "x", identity, vec![ip]);
    workload.services = [(WEB.parse().unwrap(), [].into())].into();
    Arc::make_mut(&mut workload.locality).zone = (number % 3).to_string().into();
    workload.node = (number % 1000).to_string().into();
    workload
}

/// Would break if a connection or a change cost as much as there are endpoints. The measure is comparisons, not time:
/// three times the digits may cost three times as much, not a thousand times.
#[test]
fn a_choice_and_a_change_among_thirty_thousand_cost_little_more_than_among_thirty() {
    let (mut choices, mut changes) = (Vec::new(), Vec::new());
    for size in [30, 30_000] {
        let (mut snapshot, service) = crowd(size);
        let client = member(7);
        choices.push(compared(|| {
            let known = snapshot.known_service(&service.key()).unwrap();
            let asked = "10.9.0.1:80".parse().unwrap();
            let question = Question { client: &client, asked, dice: 4711, tried: &[], set_aside: &[] };
            let chosen = known.balance.choose(&service, &question, |uid| snapshot.workload(uid));
            assert_eq!(&*chosen.unwrap().0.node, "7", "the nearest");
        }));
        changes.push(compared(|| {
            snapshot.insert_workload(member(size));
            snapshot.remove_workload(&WorkloadUid::new("3"));
        }));
    }
    assert!(choices[1] <= 4 * choices[0] && choices[1] < 500, "{choices:?}");
    assert!(changes[1] <= 4 * changes[0] && changes[1] < 100, "{changes:?}");
}
