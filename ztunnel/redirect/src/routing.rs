//! Policy routing in the pod's namespace: marked packets are delivered locally, over lo.
//!
//! Equivalent to `ip rule add pref 1 fwmark M lookup T` and `ip route add local default dev lo table T src IP`,
//! for each family the pod has. `src` is mandatory: without it the kernel would pick lo's own address.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use abi::{LOOPBACK_INDEX, STEER_MARK, STEER_TABLE};
use futures::TryStreamExt;
use rtnetlink::{
    Error, Handle, IpVersion, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
    },
};
use tokio::time::timeout;

use crate::{NetworkNamespace, PodSpec, RedirectError};

/// Right after the kernel's own rule for the local table (0), so that nothing a pod adds later goes before it.
const RULE_PRIORITY: u32 = 1;
/// The kernel's table of its own addresses; include/uapi/linux/rtnetlink.h
const RT_TABLE_LOCAL: u8 = 255;
/// Netlink answers at once; this only bounds a kernel that does not.
const NETLINK_DEADLINE: Duration = Duration::from_secs(5);
/// For all that is done to a namespace at once. A pod may have a million rules and routes where ours are.
const DEADLINE: Duration = Duration::from_secs(5);

/// What had to be put right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repair {
    RuleAdded,
    RouteAdded,
    ForeignRuleRemoved,
    ForeignRouteRemoved,
}

/// Makes the namespace's rules and routes what steering needs; answers with what was not so already.
pub(crate) async fn ensure(
    namespace: &NetworkNamespace,
    pod: &PodSpec,
) -> Result<Vec<Repair>, RedirectError> {
    within_deadline(async {
        let handle = Netlink::open(namespace)?;
        let mut repairs = Vec::new();
        for ip in pod.addresses() {
            ensure_route(&handle, ip, &mut repairs).await?;
            ensure_rule(&handle, ip, &mut repairs).await?;
        }
        Ok(repairs)
    })
    .await
}

/// Takes away what [`ensure`] made.
pub(crate) async fn remove(namespace: &NetworkNamespace) -> Result<(), RedirectError> {
    within_deadline(async {
        let handle = Netlink::open(namespace)?;
        for version in [IpVersion::V4, IpVersion::V6] {
            for rule in handle.rules(version.clone()).await?.into_iter().filter(is_ours) {
                handle.bounded("removing the rule", handle.0.rule().del(rule).execute()).await?;
            }
            for route in handle.routes(version).await? {
                handle.bounded("removing the route", handle.0.route().del(route).execute()).await?;
            }
        }
        Ok(())
    })
    .await
}

async fn within_deadline<T>(
    work: impl Future<Output = Result<T, RedirectError>>,
) -> Result<T, RedirectError> {
    let what = "all that its rules and routes need";
    let late = RedirectError::InNamespace { what, source: io::ErrorKind::TimedOut.into() };
    timeout(DEADLINE, work).await.unwrap_or(Err(late))
}

async fn ensure_rule(netlink: &Netlink, ip: IpAddr, repairs: &mut Vec<Repair>) -> Result<(), RedirectError> {
    let rules = netlink.rules(version_of(ip)).await?;
    let ours = rules.iter().any(is_ours);
    for rule in rules.into_iter().filter(goes_before_ours) {
        netlink.bounded("removing a foreign rule", netlink.0.rule().del(rule).execute()).await?;
        repairs.push(Repair::ForeignRuleRemoved);
    }
    if !ours {
        let add = netlink
            .0
            .rule()
            .add()
            .priority(RULE_PRIORITY)
            .fw_mark(STEER_MARK)
            .table_id(STEER_TABLE)
            .action(RuleAction::ToTable);
        match ip {
            IpAddr::V4(_) => netlink.bounded("adding the rule", add.v4().execute()).await?,
            IpAddr::V6(_) => netlink.bounded("adding the rule", add.v6().execute()).await?,
        }
        repairs.push(Repair::RuleAdded);
    }
    Ok(())
}

async fn ensure_route(netlink: &Netlink, ip: IpAddr, repairs: &mut Vec<Repair>) -> Result<(), RedirectError> {
    let (ours, foreign): (Vec<_>, Vec<_>) =
        netlink.routes(version_of(ip)).await?.into_iter().partition(|route| delivers_locally(route, ip));
    for route in foreign {
        netlink.bounded("removing a foreign route", netlink.0.route().del(route).execute()).await?;
        repairs.push(Repair::ForeignRouteRemoved);
    }
    if ours.is_empty() {
        netlink
            .bounded("adding the route", netlink.0.route().add(local_default(ip)).replace().execute())
            .await?;
        repairs.push(Repair::RouteAdded);
    }
    Ok(())
}

fn local_default(ip: IpAddr) -> RouteMessage {
    match ip {
        IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new()
            .table_id(STEER_TABLE)
            .kind(RouteType::Local)
            .scope(RouteScope::Host)
            .output_interface(LOOPBACK_INDEX)
            .pref_source(ip)
            .build(),
        IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new()
            .table_id(STEER_TABLE)
            .kind(RouteType::Local)
            .output_interface(LOOPBACK_INDEX)
            .pref_source(ip)
            .build(),
    }
}

fn delivers_locally(route: &RouteMessage, ip: IpAddr) -> bool {
    let source = match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    };
    let header = &route.header;
    header.kind == RouteType::Local
        && (header.tos, header.source_prefix_length, header.destination_prefix_length) == (0, 0, 0)
        && route.attributes.contains(&RouteAttribute::Oif(LOOPBACK_INDEX))
        && route.attributes.contains(&RouteAttribute::PrefSource(source))
}

/// Exactly ours: a mask, an inversion or any other condition would let marked packets by. Attributes that we do not
/// know count for nothing, or a newer kernel that shows more would have us replace the rule for ever.
fn is_ours(rule: &RuleMessage) -> bool {
    let header = &rule.header;
    let has = |attribute| rule.attributes.contains(&attribute);
    header.action == RuleAction::ToTable
        && (header.tos, header.src_len, header.dst_len) == (0, 0, 0)
        && !header.flags.contains(RuleFlags::Invert)
        && has(RuleAttribute::Priority(RULE_PRIORITY))
        && has(RuleAttribute::FwMark(STEER_MARK))
        && has(RuleAttribute::Table(STEER_TABLE))
        && rule.attributes.iter().all(changes_nothing)
}

fn changes_nothing(attribute: &RuleAttribute) -> bool {
    use RuleAttribute::{FwMark, FwMask, Other, Priority, Protocol, SuppressPrefixLen, Table};
    match attribute {
        FwMark(_) | Priority(_) | Table(_) | Protocol(_) | Other(_) => true,
        // As the kernel shows a rule that has none.
        FwMask(mask) => *mask == u32::MAX,
        SuppressPrefixLen(length) => *length == u32::MAX,
        _ => false,
    }
}

/// A rule as early as ours that is neither ours nor the kernel's for the local table leads marked packets astray.
fn goes_before_ours(rule: &RuleMessage) -> bool {
    let local_table = priority(rule) == 0 && rule.header.table == RT_TABLE_LOCAL;
    priority(rule) <= RULE_PRIORITY && !local_table && !is_ours(rule)
}

/// A rule without the attribute has priority 0.
fn priority(rule: &RuleMessage) -> u32 {
    let of = |attribute: &RuleAttribute| match attribute {
        RuleAttribute::Priority(priority) => Some(*priority),
        _ => None,
    };
    rule.attributes.iter().find_map(of).unwrap_or(0)
}

fn version_of(ip: IpAddr) -> IpVersion {
    if ip.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 }
}

/// A netlink socket that was opened inside a namespace and stays there. Its task ends when this is dropped.
pub(crate) struct Netlink(pub(crate) Handle);

impl Netlink {
    pub(crate) fn open(namespace: &NetworkNamespace) -> Result<Self, RedirectError> {
        let failed = |source| RedirectError::InNamespace { what: "opening netlink", source };
        let (connection, handle, _) =
            namespace.enter(rtnetlink::new_connection).and_then(|opened| opened).map_err(failed)?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    async fn rules(&self, version: IpVersion) -> Result<Vec<RuleMessage>, RedirectError> {
        let rules: Vec<RuleMessage> =
            self.bounded("listing rules", self.0.rule().get(version.clone()).execute().try_collect()).await?;
        let family = family_of(&version);
        Ok(rules.into_iter().filter(|rule| rule.header.family == family).collect())
    }

    /// Those of our table. A pod may have any number of others, so they are not collected.
    async fn routes(&self, version: IpVersion) -> Result<Vec<RouteMessage>, RedirectError> {
        let family = family_of(&version);
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        let ours = |route: &RouteMessage| {
            let ours = route.header.address_family == family
                && route.attributes.contains(&RouteAttribute::Table(STEER_TABLE));
            std::future::ready(ours)
        };
        let routes = self.0.route().get(filter).execute().try_filter(ours).try_collect();
        self.bounded("listing routes", routes).await
    }

    pub(crate) async fn bounded<T>(
        &self,
        what: &'static str,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, RedirectError> {
        match timeout(NETLINK_DEADLINE, request).await {
            Ok(answer) => answer.map_err(|source| RedirectError::Netlink { what, source }),
            Err(_) => Err(RedirectError::Netlink { what, source: Error::RequestFailed }),
        }
    }
}

fn family_of(version: &IpVersion) -> AddressFamily {
    match version {
        IpVersion::V4 => AddressFamily::Inet,
        IpVersion::V6 => AddressFamily::Inet6,
    }
}
