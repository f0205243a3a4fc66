//! What is fetched when it is needed: asked for once, waited for within bounds, given up when unused.

use std::{net::IpAddr, sync::Arc, time::Duration};

use futures::future::join_all;
use model::{
    SharedSnapshot, Workload, WorkloadUid,
    demand::{Demand, Unlearned},
};
use proto::prost::Message;
use proto::workload::{
    Address, GatewayAddress, NamespacedHostname as Hostname, PortList, address::Type, gateway_address,
};
use testkit::control_plane::{Conduct, ControlPlane as Server, Known};
use tokio::time::{Instant, sleep, timeout};

use super::{
    client::{known, server, settings},
    resources::{service, uid, workload},
};
use crate::xds::{ControlPlane, OnDemandSettings};

struct Setup {
    server: Server,
    snapshot: Arc<SharedSnapshot>,
    client: ControlPlane,
    demand: Arc<dyn Demand>,
}

async fn setup(on_demand: OnDemandSettings) -> Setup {
    let (server, snapshot) = (server(), Arc::new(SharedSnapshot::default()));
    server.put_all(vec![known("client", "10.0.0.1"), known("server", "10.0.0.2")]);
    let client = ControlPlane::start(settings(&server, Some(on_demand)), Arc::clone(&snapshot));
    timeout(Duration::from_secs(30), client.complete()).await.unwrap();
    let demand = client.demand().unwrap();
    Setup { server, snapshot, client, demand }
}

impl Setup {
    fn names(&self) -> Vec<String> {
        self.snapshot.load().workloads().map(|workload| workload.name.to_string()).collect()
    }

    fn source(&self) -> Arc<Workload> {
        Arc::clone(self.snapshot.load().workload(&WorkloadUid::new(&uid("client"))).unwrap())
    }

    /// How often each name was asked for, as a later request.
    fn asked(&self, name: &str) -> usize {
        let requests = self.server.requests();
        requests.iter().flat_map(|request| &request.resource_names_subscribe).filter(|n| *n == name).count()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Would break if each of a crowd asked by itself, or somebody were let go before the answer was in force.
#[tokio::test]
async fn a_crowd_asks_once_and_waits_for_what_is_in_force() {
    let setup = setup(OnDemandSettings::default()).await;
    assert!(setup.names().is_empty(), "nothing was needed yet");
    let local = WorkloadUid::new(&uid("client"));
    setup.client.keep(std::slice::from_ref(&local));
    setup.demand.local(&local).await.unwrap();
    let source = setup.source();
    let crowd = (0..50).map(|_| setup.demand.destination(&source, ip("10.0.0.2")));
    assert!(join_all(crowd).await.iter().all(Result::is_ok));
    assert_eq!(setup.names(), ["client", "server"]);
    setup.demand.destination(&source, ip("192.0.2.1")).await.unwrap();
    setup.demand.destination(&source, ip("192.0.2.1")).await.unwrap();
    assert_eq!(
        (setup.asked("/10.0.0.2"), setup.asked("/192.0.2.1")),
        (1, 1),
        "nobody's address is remembered"
    );
}

/// A service comes with its endpoints, and they go with it when nobody has needed it for a while. This node's pods stay.
#[tokio::test]
async fn what_nobody_needs_any_more_is_given_up_with_what_came_along() {
    let unused_after = Duration::from_millis(800);
    let setup = setup(OnDemandSettings { unused_after, ..OnDemandSettings::default() }).await;
    let local = WorkloadUid::new(&uid("client"));
    setup.client.keep(std::slice::from_ref(&local));
    setup.demand.local(&local).await.unwrap();
    let web = service("web", "10.96.0.1");
    let key = format!("default/{}", web.hostname);
    let mut endpoint = workload("endpoint", "10.0.0.3");
    endpoint.services = [(key.clone(), PortList::default())].into();
    let resource = |name: &str, content| {
        Known::address(name, vec!["/10.96.0.1".to_owned()], Address { r#type: Some(content) }.encode_to_vec())
    };
    setup.server.put_all(vec![
        resource(&key, Type::Service(web)),
        resource(&uid("endpoint"), Type::Workload(endpoint)),
    ]);
    setup.demand.destination(&setup.source(), ip("10.96.0.1")).await.unwrap();
    assert_eq!(setup.names(), ["client", "endpoint"]);
    let given_up = async {
        while setup.names() != ["client"] || setup.snapshot.load().services().next().is_some() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), given_up).await.unwrap();
    let told = async {
        loop {
            let requests = setup.server.requests();
            let given: Vec<_> = requests.iter().flat_map(|r| &r.resource_names_unsubscribe).collect();
            if [&key, &uid("endpoint"), "/10.96.0.1"].iter().all(|name| given.iter().any(|n| **n == **name)) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), told).await.unwrap();
    setup.demand.destination(&setup.source(), ip("10.96.0.1")).await.unwrap();
    assert_eq!(setup.names(), ["client", "endpoint"], "and comes again when it is needed");
}

/// Would break if a service of this node's own pods were known only once somebody here has called it: peers name it, and an
/// application that ends tunnels itself serves what it says.
#[tokio::test]
async fn this_node_s_services_are_asked_for_and_stay() {
    let setup =
        setup(OnDemandSettings { unused_after: Duration::from_millis(300), ..Default::default() }).await;
    let web = service("web", "10.96.0.1");
    let key = format!("default/{}", web.hostname);
    let mut local = workload("client", "10.0.0.1");
    local.services = [(key.clone(), PortList::default())].into();
    let resource = |name: &str, content| {
        Known::address(name, Vec::new(), Address { r#type: Some(content) }.encode_to_vec())
    };
    setup
        .server
        .put_all(vec![resource(&key, Type::Service(web)), resource(&uid("client"), Type::Workload(local))]);
    let services = || setup.snapshot.load().services().count();
    setup.client.keep(&[WorkloadUid::new(&uid("client"))]);
    let until = async |expected: usize| {
        while services() != expected {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), until(1)).await.unwrap();
    sleep(Duration::from_millis(900)).await;
    assert_eq!((services(), setup.asked(&key)), (1, 1), "nobody has needed it, and it is still asked for");
    setup.client.keep(&[]);
    timeout(Duration::from_secs(30), until(0)).await.unwrap();
}

/// An address that nobody has spoken of may be of the mesh: it must not be taken for an outsider's, nor waited for long.
#[tokio::test]
async fn without_an_answer_the_wait_is_short_and_ends_in_a_refusal() {
    let patience = Duration::from_millis(300);
    let pause = Duration::from_secs(60);
    let setup = setup(OnDemandSettings { patience, pause, ..OnDemandSettings::default() }).await;
    let local = WorkloadUid::new(&uid("client"));
    setup.demand.local(&local).await.unwrap();
    let source = setup.source();
    setup.server.behave(Conduct::Silent);
    let began = Instant::now();
    let answer = setup.demand.destination(&source, ip("10.0.0.2")).await;
    assert_eq!(answer, Err(Unlearned::Unanswered("/10.0.0.2".into())));
    assert!(began.elapsed() >= patience);
    let began = Instant::now();
    assert!(setup.demand.destination(&source, ip("10.0.0.2")).await.is_err());
    assert!(began.elapsed() < patience, "whoever comes right after it does not wait again");
}

/// Would break if a pod that tries all addresses filled the book for the others, or drove out this node's own pods.
#[tokio::test]
async fn whoever_asks_for_everything_drives_out_only_what_was_needed_longest_ago() {
    let setup = setup(OnDemandSettings { at_most: 8, ..OnDemandSettings::default() }).await;
    let local = WorkloadUid::new(&uid("client"));
    setup.client.keep(std::slice::from_ref(&local));
    setup.demand.local(&local).await.unwrap();
    let source = setup.source();
    for last in 1..=40 {
        setup.demand.destination(&source, ip("10.0.0.2")).await.unwrap();
        setup.demand.destination(&source, ip(&format!("192.0.2.{last}"))).await.unwrap();
    }
    assert_eq!(setup.asked("/10.0.0.2"), 1, "what is in use stays");
    assert_eq!(setup.asked(&uid("client")), 1, "and so do the pods of this node");
    let given_up = async {
        loop {
            let requests = setup.server.requests();
            if requests.iter().flat_map(|r| &r.resource_names_unsubscribe).any(|name| name == "/192.0.2.1") {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), given_up).await.unwrap();
}

/// Would break if the waypoint of a service were not asked for because the address that was needed is one of a block:
/// the connection would be refused for as long as nobody else needs the waypoint.
#[tokio::test]
async fn the_waypoint_of_a_block_of_addresses_is_fetched_too() {
    let setup = setup(OnDemandSettings::default()).await;
    setup.demand.local(&WorkloadUid::new(&uid("client"))).await.unwrap();
    let mut web = service("web", "10.96.1.0");
    web.addresses[0].length = Some(24);
    let hostname = Hostname { namespace: "default".into(), hostname: "way.default.svc.cluster.local".into() };
    let destination = Some(gateway_address::Destination::Hostname(hostname));
    web.waypoint = Some(GatewayAddress { destination, hbone_mtls_port: 15008 });
    for (service, aliases) in
        [(web, vec!["/10.96.1.7".to_owned()]), (service("way", "10.96.0.9"), Vec::new())]
    {
        let key = format!("default/{}", service.hostname);
        let content = Address { r#type: Some(Type::Service(service)) }.encode_to_vec();
        setup.server.put(Known::address(&key, aliases, content));
    }
    setup.demand.destination(&setup.source(), ip("10.96.1.7")).await.unwrap();
    let way = "default/way.default.svc.cluster.local".parse().unwrap();
    assert!(setup.snapshot.load().service(&way).is_some());
}

/// For the DNS capture: by name as by address.
#[tokio::test]
async fn a_service_is_fetched_by_its_host_name() {
    let setup = setup(OnDemandSettings::default()).await;
    let web = service("web", "10.96.0.1");
    let key = format!("default/{}", web.hostname);
    let content = Address { r#type: Some(Type::Service(web)) }.encode_to_vec();
    setup.server.put(Known::address(&key, Vec::new(), content));
    setup.demand.host("web.default.svc.cluster.local", "elsewhere").await.unwrap();
    assert!(setup.snapshot.load().service_named("web.default.svc.cluster.local", "elsewhere").is_some());
}
