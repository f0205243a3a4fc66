//! Nodes, their pods, the wire between them and a host outside, all dual stack.
//!
//! ```text
//!                 underlay: one bridge, 10.0.0.0/24 and fd00::/64
//!        ┌──────────────────────┼───────────────────────┐
//!     node 1 (.1)            node 2 (.2)             outside (.200)
//!     br0 10.1.1.1/24        br0 10.1.2.1/24
//!     ├─ daemon  .2          ├─ daemon  .2
//!     ├─ first pod .10       ├─ first pod .10
//!     └─ next pod  .11       └─ ...              and fd01:0:0:<node>::<the same, in hexadecimal>
//! ```

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};

use crate::{
    Place,
    cgroup::{Domain, Group},
    names,
    namespace::Namespace,
    requirements,
    sweep::sweep,
};

const OUTSIDE: u8 = 200;
const BRIDGE: u8 = 1;
const DAEMON: u8 = 2;
const FIRST_POD: u8 = 10;
/// Offers the whole range to tests that open connections fast.
const PORT_RANGE: &str = "1024 65535";

#[derive(Debug)]
pub struct Topology {
    // In order of destruction: places first, then the cgroups above them.
    pub nodes: Vec<Node>,
    pub outside: Place,
    underlay: Place,
    _group: Group,
    _domain: Domain,
    name: String,
}

#[derive(Debug)]
pub struct Node {
    /// From 1.
    pub number: u8,
    pub pods: Vec<Pod>,
    /// The node's own namespace, in the cgroup of an ordinary system service.
    pub host: Place,
    /// The node's own namespace, in the kubelet's cgroup.
    pub kubelet: Place,
    /// Where the daemon runs: a pod of its own.
    pub daemon: Place,
    group: Group,
    topology: String,
}

/// A pod with its addresses. It is its [`Place`].
#[derive(Debug)]
pub struct Pod {
    pub place: Place,
    pub ipv4: Ipv4Addr,
    pub ipv6: Ipv6Addr,
}

impl Topology {
    /// One node for each item, which names the node's pods: `&["client", "server other"]`.
    pub fn build(nodes: &[&str]) -> Result<Self> {
        requirements::check()?;
        sweep()?;
        let domain = Domain::enter()?;
        let name = names::next_topology();
        let group = Group::create(domain.path().join(&name))?;
        let underlay = new_place(&name, "underlay", group.path())?;
        underlay.ip("link set lo up\nlink add br0 type bridge\nlink set br0 up")?;
        let outside = new_place(&name, "outside", group.path())?;
        attach(&underlay, &outside, "outside", &wire_addresses(OUTSIDE))?;
        let mut topology =
            Self { nodes: Vec::new(), outside, underlay, _group: group, _domain: domain, name };
        for (number, pods) in (1..).zip(nodes) {
            topology.add_node(number, pods)?;
        }
        topology.connect_nodes()?;
        Ok(topology)
    }

    /// Unique on this machine; names what belongs to this topology elsewhere, such as files.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pod of this name.
    #[track_caller]
    #[expect(clippy::panic, reason = "a misspelt name in a test")]
    pub fn pod(&self, name: &str) -> &Pod {
        let all = || self.nodes.iter().flat_map(|node| &node.pods);
        all().find(|pod| pod.name() == name).unwrap_or_else(|| panic!("there is no pod {name}"))
    }

    /// The wire between the nodes: every frame that leaves a node passes the port `node<number>` here.
    pub fn underlay(&self) -> &Place {
        &self.underlay
    }

    pub fn outside_ips(&self) -> [IpAddr; 2] {
        wire_addresses(OUTSIDE).map(|(ip, _)| ip)
    }

    fn add_node(&mut self, number: u8, pods: &str) -> Result<()> {
        let group = Group::create(self._group.path().join(format!("node{number}")))?;
        let host = new_place(&self.name, &format!("node{number}"), group.path())?;
        attach(&self.underlay, &host, &format!("node{number}"), &wire_addresses(number))?;
        configure_host(&host, number)?;
        let kubelet = Place::new("kubelet", host.namespace(), group.path().join("kubelet"))?;
        let daemon =
            add_pod(&self.name, &host, group.path(), number, DAEMON, &format!("daemon{number}"))?.place;
        let topology = self.name.clone();
        let mut node = Node { number, pods: Vec::new(), host, kubelet, daemon, group, topology };
        for pod in pods.split_whitespace() {
            node.add_pod(pod)?;
        }
        self.nodes.push(node);
        Ok(())
    }

    /// Every node and the outside know the way to every node's pods.
    fn connect_nodes(&self) -> Result<()> {
        let hosts = self.nodes.iter().map(|node| (node.number, &node.host));
        for (number, place) in hosts.chain([(OUTSIDE, &self.outside)]) {
            let others = self.nodes.iter().map(|node| node.number).filter(|&other| other != number);
            let routes: String = others.map(routes_to_pods_of).collect();
            place.ip(routes)?;
        }
        Ok(())
    }
}

impl Node {
    /// The directory in the cgroup tree that holds this node's pods.
    pub fn cgroup(&self) -> &Path {
        self.group.path()
    }

    /// The node's addresses on the wire between nodes.
    pub fn ips(&self) -> [IpAddr; 2] {
        wire_addresses(self.number).map(|(ip, _)| ip)
    }

    /// The node's addresses on the bridge of its pods: what its pods see when the node itself calls.
    pub fn bridge_ips(&self) -> [IpAddr; 2] {
        pod_addresses(self.number, BRIDGE).map(|(ip, _)| ip)
    }

    pub fn daemon_ips(&self) -> [IpAddr; 2] {
        pod_addresses(self.number, DAEMON).map(|(ip, _)| ip)
    }

    pub fn add_pod(&mut self, name: &str) -> Result<&Pod> {
        let taken = |number: u8| {
            let [(ip, _), _] = pod_addresses(self.number, number);
            self.pods.iter().any(|pod| IpAddr::V4(pod.ipv4) == ip)
        };
        let number = (FIRST_POD..).find(|&number| !taken(number)).context("the node is full")?;
        let pod = add_pod(&self.topology, &self.host, self.group.path(), self.number, number, name)?;
        self.pods.push(pod);
        self.pods.last().context("just pushed")
    }

    /// Takes the pod out. It is deleted, as a container engine would, once the last clone of its place is dropped.
    pub fn take_pod(&mut self, name: &str) -> Option<Pod> {
        let index = self.pods.iter().position(|pod| pod.name() == name)?;
        Some(self.pods.remove(index))
    }

    /// A pod with `hostNetwork`: a cgroup of its own in the node's namespace.
    pub fn host_network_pod(&self, name: &str) -> Result<Place> {
        Place::new(name, self.host.namespace(), self.group.path().join(name))
    }
}

impl Pod {
    pub fn ips(&self) -> [IpAddr; 2] {
        [self.ipv4.into(), self.ipv6.into()]
    }
}

impl Deref for Pod {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

type Addresses = [(IpAddr, u8); 2];

fn wire_addresses(number: u8) -> Addresses {
    let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into());
    [(Ipv4Addr::new(10, 0, 0, number).into(), 24), (v6.into(), 64)]
}

fn pod_addresses(node: u8, number: u8) -> Addresses {
    let v6 = Ipv6Addr::new(0xfd01, 0, 0, node.into(), 0, 0, 0, number.into());
    [(Ipv4Addr::new(10, 1, node, number).into(), 24), (v6.into(), 64)]
}

fn routes_to_pods_of(node: u8) -> String {
    let gateways = wire_addresses(node);
    format!(
        "route add 10.1.{node}.0/24 via {}\nroute add fd01:0:0:{node}::/64 via {}\n",
        gateways[0].0, gateways[1].0
    )
}

fn new_place(topology: &str, name: &str, above: &Path) -> Result<Place> {
    let namespace = Namespace::create(format!("{topology}-{name}"))?;
    let cgroup: PathBuf = above.join(if name.starts_with("node") { "host" } else { name });
    Place::new(name, Arc::new(namespace), cgroup)
}

fn add_pod(topology: &str, host: &Place, above: &Path, node: u8, number: u8, name: &str) -> Result<Pod> {
    let place = new_place(topology, name, above)?;
    let addresses = pod_addresses(node, number);
    attach(host, &place, &format!("pod{number}"), &addresses)?;
    let [(v4_gateway, _), (v6_gateway, _)] = pod_addresses(node, BRIDGE);
    place.ip(format!("route add default via {v4_gateway}\nroute add default via {v6_gateway}"))?;
    place.sysctl("net.ipv4.ip_local_port_range", PORT_RANGE)?;
    match addresses {
        [(IpAddr::V4(ipv4), _), (IpAddr::V6(ipv6), _)] => Ok(Pod { place, ipv4, ipv6 }),
        _ => anyhow::bail!("a pod has an address of each family"),
    }
}

/// A veth pair from the switch's bridge, under the name `port`, to the place's `eth0`.
fn attach(switch: &Place, place: &Place, port: &str, addresses: &Addresses) -> Result<()> {
    let peer = place.netns_name();
    place.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
    switch.ip(format!(
        "link add {port} type veth peer name eth0 netns {peer}\nlink set {port} master br0 up"
    ))?;
    place.ip("link set lo up\nlink set eth0 up")?;
    place.ip(addresses
        .map(|(ip, length)| format!("address add {ip}/{length} dev eth0 {}", no_dad(ip)))
        .join("\n"))
}

fn configure_host(host: &Place, number: u8) -> Result<()> {
    for family in ["ipv4.ip_forward", "ipv6.conf.all.forwarding"] {
        host.sysctl(&format!("net.{family}"), "1")?;
    }
    let addresses = pod_addresses(number, BRIDGE);
    let addresses = addresses.map(|(ip, length)| format!("address add {ip}/{length} dev br0 {}", no_dad(ip)));
    // A bridge without an address of its own takes the lowest of its ports: each new pod might change it, and packets of
    // the others to their gateway would be lost until they have asked for it anew.
    let bridge = format!("link add br0 address 02:00:00:00:00:{number:02x} type bridge");
    host.ip(format!("{bridge}\nlink set br0 up\n{}", addresses.join("\n")))
}

/// An IPv6 address is usable at once only if it is not first looked for on the wire.
fn no_dad(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { "nodad" } else { "" }
}
