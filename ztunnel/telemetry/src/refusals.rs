//! What was refused or failed lately, for whoever asks why: one entry for all that fares alike, with its reason and the
//! policy that decided.
//!
//! Each pod has its own few entries, so that what one attracts does not drive out what others suffered; and so have those
//! who had no identity yet, as anybody can be one of them.

use std::{
    collections::HashMap,
    fmt::Display,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use model::{ClientAddr, Role, SpiffeId, Workload, WorkloadUid, policy::PolicyKey, service::Service};
use parking_lot::Mutex;
use serde::Serialize;

use crate::{
    LiveParty, Outcome, Path, ResponseFlags,
    access_log::shortened,
    account::{Account, Source},
};

/// Pods that are remembered; with more, the one that was quiet the longest is forgotten.
const MAX_PODS: usize = 1024;
/// Entries of one pod.
const MAX_ENTRIES: usize = 48;
/// And of handshakes that did not yield an identity.
const MAX_HANDSHAKES: usize = 16;
/// Where a DNS request goes of which it is not known where it was meant to go.
const SOME_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 53);
/// Older ones are of no interest.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Default)]
pub struct RefusalBook(Mutex<HashMap<WorkloadUid, Vec<Entry>>>);

#[derive(Clone, Debug)]
struct Entry {
    key: Arc<Key>,
    facts: Arc<Facts>,
    count: u64,
    first: SystemTime,
    last: SystemTime,
}

/// What fares alike.
#[derive(Debug, PartialEq, Eq)]
struct Key {
    role: Role,
    source: Source,
    destination: SocketAddr,
    reason: &'static str,
    policy: Option<PolicyKey>,
    handshake: bool,
}

/// Of the first of them.
#[derive(Debug, Default)]
struct Facts {
    client: Option<SocketAddr>,
    source: Option<Arc<Workload>>,
    destination: Option<Arc<Workload>>,
    service: Option<Arc<Service>>,
    identities: Option<(SpiffeId, SpiffeId)>,
    flags: &'static str,
    error: String,
}

/// One entry as the admin endpoint shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecentRefusal {
    pub role: Role,
    /// The pod of this node that it belongs to.
    pub local: WorkloadUid,
    pub source: LiveParty,
    /// Of the first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<SocketAddr>,
    pub destination: LiveParty,
    pub destination_address: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    pub reason: &'static str,
    /// Istio's word for it.
    pub flags: &'static str,
    /// The policy that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    pub error: String,
    /// TLS had not yet proven who it is.
    pub handshake: bool,
    pub count: u64,
    /// In seconds of Unix time.
    pub first_seen: u64,
    pub last_seen: u64,
}

/// A tunnel between a pod of this node and a proven peer.
#[derive(Clone, Debug)]
pub struct TunnelEnds {
    pub role: Role,
    /// The pod.
    pub local: WorkloadUid,
    /// Where the peer comes from, of an inbound one.
    pub client: Option<SocketAddr>,
    pub server: SocketAddr,
    /// Who the two ends have proven to be.
    pub source: SpiffeId,
    pub destination: SpiffeId,
}

impl TunnelEnds {
    /// Who is not ours of the two, and where.
    pub fn peer(&self) -> (&SpiffeId, SocketAddr) {
        match self.role {
            Role::Outbound => (&self.destination, self.server),
            _ => (&self.source, self.client.unwrap_or(self.server)),
        }
    }
}

impl RefusalBook {
    /// What a peer did with a tunnel that is no connection's own, so that no ledger tells it.
    pub fn note_tunnel(&self, ends: &TunnelEnds, reason: &'static str, error: impl Display) {
        let key = Key {
            role: ends.role,
            source: Source::Identity(ends.source.clone()),
            destination: ends.server,
            reason,
            policy: None,
            handshake: false,
        };
        self.note(&ends.local, key, SystemTime::now(), || Facts {
            client: ends.client,
            identities: Some((ends.source.clone(), ends.destination.clone())),
            flags: ResponseFlags::Connect.as_str(),
            error: shortened(error.to_string()),
            ..Facts::default()
        });
    }

    /// A DNS request of this pod, meant for `target`, got no answer.
    pub fn note_dns(
        &self,
        local: &WorkloadUid,
        pod: Option<&Arc<Workload>>,
        target: Option<SocketAddr>,
        reason: &'static str,
        error: impl Display,
    ) {
        let key = Key {
            role: Role::Outbound,
            source: Source::Workload(local.clone()),
            destination: target.unwrap_or(SOME_SERVER),
            reason,
            policy: None,
            handshake: false,
        };
        self.note(local, key, SystemTime::now(), || Facts {
            source: pod.map(Arc::clone),
            flags: ResponseFlags::Connect.as_str(),
            error: shortened(error.to_string()),
            ..Facts::default()
        });
    }

    /// An inbound handshake of this pod yielded no identity.
    pub fn note_handshake(
        &self,
        local: &WorkloadUid,
        client: ClientAddr,
        arrived_at: SocketAddr,
        reason: &'static str,
        error: impl Display,
    ) {
        let key = Key {
            role: Role::InboundHbone,
            source: Source::Address(client.0.ip()),
            destination: arrived_at,
            reason,
            policy: None,
            handshake: true,
        };
        self.note(local, key, SystemTime::now(), || Facts {
            client: Some(client.0),
            flags: "TLS_FAILURE",
            error: shortened(error.to_string()),
            ..Facts::default()
        });
    }

    pub(crate) fn note_outcome(&self, account: &Account, outcome: &Outcome) {
        let facts = account.facts.lock().clone();
        let source = account.source(&facts);
        let destination = match facts.path {
            Path::Tunnel { target, .. } | Path::Passthrough { target } => target,
            _ => account.destination.0,
        };
        let key = Key {
            role: account.role,
            source,
            destination,
            reason: outcome.reason(),
            policy: outcome.policy_key().cloned(),
            handshake: false,
        };
        self.note(&account.local, key, SystemTime::now(), || Facts {
            client: Some(account.client.0),
            source: facts.source,
            destination: facts.destination,
            service: facts.service,
            identities: facts.identities,
            flags: outcome.flags().as_str(),
            error: outcome.error().map(shortened).unwrap_or_default(),
        });
    }

    /// The latest first.
    pub fn list(&self, now: SystemTime) -> Vec<RecentRefusal> {
        let mut book = self.0.lock();
        let is_over = |entry: &Entry| now.duration_since(entry.last).is_ok_and(|age| age >= REMEMBERED);
        book.retain(|_, entries| {
            entries.retain(|entry| !is_over(entry));
            !entries.is_empty()
        });
        // No more than this under the lock: every connection that is refused takes it.
        let copied: Vec<_> = book.iter().map(|(local, entries)| (local.clone(), entries.clone())).collect();
        drop(book);
        let entries =
            copied.iter().flat_map(|(local, entries)| entries.iter().map(move |entry| (local, entry)));
        let mut list: Vec<_> = entries.map(|(local, entry)| RecentRefusal::of(local, entry)).collect();
        list.sort_by(|one, other| {
            other.last_seen.cmp(&one.last_seen).then_with(|| one.local.cmp(&other.local))
        });
        list
    }

    fn note(&self, local: &WorkloadUid, key: Key, now: SystemTime, facts: impl FnOnce() -> Facts) {
        let mut book = self.0.lock();
        if !book.contains_key(local) && book.len() >= MAX_PODS {
            forget_quietest(&mut book);
        }
        let entries = book.entry(local.clone()).or_default();
        if let Some(entry) = entries.iter_mut().find(|entry| *entry.key == key) {
            entry.count += 1;
            entry.last = now;
            return;
        }
        let limit = if key.handshake { MAX_HANDSHAKES } else { MAX_ENTRIES };
        let alike = |entry: &&Entry| entry.key.handshake == key.handshake;
        if entries.iter().filter(alike).count() >= limit {
            let last_of = entries.iter().enumerate().filter(|(_, entry)| alike(entry));
            if let Some((oldest, _)) = last_of.min_by_key(|(_, entry)| entry.last) {
                entries.swap_remove(oldest);
            }
        }
        let (key, facts) = (Arc::new(key), Arc::new(facts()));
        entries.push(Entry { key, facts, count: 1, first: now, last: now });
    }
}

/// Pods come and go at the pace of their node, so this may search them all.
fn forget_quietest(book: &mut HashMap<WorkloadUid, Vec<Entry>>) {
    let last = |entries: &[Entry]| entries.iter().map(|entry| entry.last).max();
    if let Some(quietest) = book.iter().min_by_key(|(_, entries)| last(entries)).map(|(uid, _)| uid.clone()) {
        book.remove(&quietest);
    }
}

impl RecentRefusal {
    fn of(local: &WorkloadUid, entry: &Entry) -> Self {
        let Entry { key, facts, count, first, last } = entry;
        let seconds =
            |at: &SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let (source, destination) = facts.identities.clone().unzip();
        Self {
            role: key.role,
            local: local.clone(),
            source: LiveParty::of(facts.source.as_ref(), source),
            client: facts.client,
            destination: LiveParty::of(facts.destination.as_ref(), destination),
            destination_address: key.destination,
            service: facts.service.as_ref().map(|service| service.key().to_string()),
            reason: key.reason,
            flags: facts.flags,
            policy: key.policy.as_ref().map(ToString::to_string),
            error: facts.error.clone(),
            handshake: key.handshake,
            count: *count,
            first_seen: seconds(first),
            last_seen: seconds(last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(book: &RefusalBook, pod: &str, client: &str, at: u64) {
        let client = ClientAddr(client.parse().unwrap());
        let key = Key {
            role: Role::InboundHbone,
            source: Source::Address(client.0.ip()),
            destination: "10.0.0.2:80".parse().unwrap(),
            reason: "not_allowed",
            policy: None,
            handshake: false,
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
        book.note(&WorkloadUid::new(pod), key, now, Facts::default);
    }

    fn list(book: &RefusalBook, at: u64) -> Vec<RecentRefusal> {
        book.list(SystemTime::UNIX_EPOCH + Duration::from_secs(at))
    }

    /// Else a client that tries again and again would drive out all others.
    #[test]
    fn what_fares_alike_is_one_entry() {
        let book = RefusalBook::default();
        note(&book, "a", "10.0.0.9:1", 10);
        note(&book, "a", "10.0.0.9:2", 20);
        note(&book, "a", "10.0.0.8:1", 15);
        let list = list(&book, 30);
        let seen: Vec<_> = list.iter().map(|it| (it.count, it.first_seen, it.last_seen)).collect();
        assert_eq!(seen, [(2, 10, 20), (1, 15, 15)]);
    }

    #[test]
    fn one_pods_crowd_does_not_drive_out_anothers_entry_and_all_is_bounded() {
        let book = RefusalBook::default();
        note(&book, "quiet", "10.0.0.9:1", 1);
        for client in 0..1000_u64 {
            note(&book, "loud", &format!("10.1.{}.{}:1", client / 250, client % 250), 2 + client);
        }
        let local = WorkloadUid::new("loud");
        for client in 0..100 {
            let address = ClientAddr(SocketAddr::new([10, 2, 0, client].into(), 1));
            book.note_handshake(&local, address, address.0, "not_tls", "text");
        }
        let all = list(&book, 2000);
        let loud = all.iter().filter(|it| it.local == local);
        assert_eq!(loud.clone().count(), MAX_ENTRIES + MAX_HANDSHAKES);
        assert!(loud.clone().any(|it| it.last_seen == 1001), "the latest is kept");
        assert!(all.iter().any(|it| it.local.as_str() == "quiet"));
        for pod in 0..MAX_PODS as u64 {
            note(&book, &format!("p{pod}"), "10.0.0.9:1", 5000 + pod);
        }
        assert_eq!(book.0.lock().len(), MAX_PODS);
    }

    #[test]
    fn a_day_later_it_is_forgotten() {
        let book = RefusalBook::default();
        note(&book, "a", "10.0.0.9:1", 10);
        assert_eq!(list(&book, 10 + REMEMBERED.as_secs() - 1).len(), 1);
        assert_eq!(list(&book, 10 + REMEMBERED.as_secs()).len(), 0);
        assert!(book.0.lock().is_empty());
    }
}
