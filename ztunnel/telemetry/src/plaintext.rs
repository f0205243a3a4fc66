//! Who still sends plaintext to whom, where it is accepted but mutual TLS would be too: the list to bring to zero
//! before turning strict.
//!
//! A source of plaintext proves nothing; it is the workload at the address that it came from, if one is known there.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use metrics::counter;
use model::{Workload, WorkloadUid};
use parking_lot::Mutex;
use serde::{Serialize, Serializer};

use crate::metrics::names;

/// More pairs than this, and some are forgotten: those without open connections first, of these the ones seen least recently.
const MAX_PAIRS: usize = 4096;

/// How long a pair must have been quiet to be worth another line in the log.
const QUIET: Duration = Duration::from_secs(3600);

/// A pair that has been silent for so long has stopped sending plaintext.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Default)]
pub struct PlaintextBook(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    pairs: HashMap<Pair, Seen>,
    forgotten: Option<Forgotten>,
}

/// Pairs that found no room any more: without them the list is not all.
#[derive(Clone, Copy, Debug)]
struct Forgotten {
    pairs: u64,
    last: SystemTime,
}

/// One open connection of a pair, for as long as it is held.
#[derive(Debug)]
pub struct OpenPlaintext {
    book: Arc<PlaintextBook>,
    pair: Pair,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pair {
    source: Source,
    destination: WorkloadUid,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Source {
    Workload(WorkloadUid),
    Address(IpAddr),
}

#[derive(Clone, Debug)]
struct Seen {
    connections: u64,
    open: u64,
    first: SystemTime,
    last: SystemTime,
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlaintextPair {
    /// A workload, or an address that is nobody's.
    pub source: String,
    pub destination: WorkloadUid,
    pub port: u16,
    /// Accepted since the pair was first seen.
    pub connections: u64,
    /// Of these, how many are open.
    pub open: u64,
    #[serde(serialize_with = "unix_seconds")]
    pub first_seen: SystemTime,
    #[serde(serialize_with = "unix_seconds")]
    pub last_seen: SystemTime,
}

impl PlaintextBook {
    /// A connection was accepted. Answers also whether the pair is worth a line in the log.
    pub fn note(
        self: &Arc<Self>,
        source: Option<&Arc<Workload>>,
        client: IpAddr,
        destination: &Workload,
        port: u16,
        now: SystemTime,
    ) -> (OpenPlaintext, bool) {
        counter!(
            names::PLAINTEXT,
            "source_workload" => name(source.map(AsRef::as_ref), |w| &w.workload_name),
            "source_workload_namespace" => name(source.map(AsRef::as_ref), |w| &w.namespace),
            "destination_workload" => name(Some(destination), |w| &w.workload_name),
            "destination_workload_namespace" => name(Some(destination), |w| &w.namespace)
        )
        .increment(1);
        let source =
            source.map_or(Source::Address(client), |workload| Source::Workload(workload.uid.clone()));
        let pair = Pair { source, destination: destination.uid.clone(), port };
        let telling = self.began(&pair, now);
        (OpenPlaintext { book: Arc::clone(self), pair }, telling)
    }

    /// Those with open connections and those seen within a day; the latest first.
    pub fn list(&self, now: SystemTime) -> Vec<PlaintextPair> {
        let mut book = self.0.lock();
        book.pairs.retain(|_, seen| seen.open > 0 || !is_over(seen.last, now));
        let mut list: Vec<_> = book.pairs.iter().map(|(pair, seen)| PlaintextPair::of(pair, seen)).collect();
        drop(book);
        list.sort_by(|one, other| {
            other.last_seen.cmp(&one.last_seen).then_with(|| one.source.cmp(&other.source))
        });
        list
    }

    /// How many pairs were forgotten for want of room, until a day after the last was.
    pub fn forgotten(&self, now: SystemTime) -> u64 {
        let forgotten = &mut self.0.lock().forgotten;
        *forgotten = forgotten.filter(|forgotten| !is_over(forgotten.last, now));
        forgotten.map_or(0, |forgotten| forgotten.pairs)
    }

    fn began(&self, pair: &Pair, now: SystemTime) -> bool {
        let mut book = self.0.lock();
        if let Some(seen) = book.pairs.get_mut(pair) {
            let quiet = now.duration_since(seen.last).is_ok_and(|quiet| quiet >= QUIET);
            seen.connections += 1;
            seen.open += 1;
            seen.last = now;
            return quiet;
        }
        if book.pairs.len() >= MAX_PAIRS {
            book.make_room(now);
        }
        book.pairs.insert(pair.clone(), Seen { connections: 1, open: 1, first: now, last: now });
        true
    }

    fn ended(&self, pair: &Pair, now: SystemTime) {
        if let Some(seen) = self.0.lock().pairs.get_mut(pair) {
            // Of a pair that was forgotten and seen again, this is not the whole truth.
            seen.open = seen.open.saturating_sub(1);
            seen.last = now.max(seen.last);
        }
    }
}

impl Drop for OpenPlaintext {
    fn drop(&mut self) {
        self.book.ended(&self.pair, SystemTime::now());
    }
}

impl PlaintextPair {
    fn of(pair: &Pair, seen: &Seen) -> Self {
        let source = match &pair.source {
            Source::Workload(uid) => uid.to_string(),
            Source::Address(ip) => ip.to_string(),
        };
        let Seen { connections, open, first, last } = *seen;
        Self {
            source,
            destination: pair.destination.clone(),
            port: pair.port,
            connections,
            open,
            first_seen: first,
            last_seen: last,
        }
    }
}

impl Book {
    /// At least a sixteenth at once, so that strangers from ever new addresses do not make each connection search the book.
    /// Whoever is connected is what the list is for: they go last.
    fn make_room(&mut self, now: SystemTime) {
        let worth = |seen: &Seen| (seen.open > 0, seen.last);
        let mut all: Vec<_> = self.pairs.values().map(worth).collect();
        let (_, &mut limit, _) = all.select_nth_unstable(MAX_PAIRS / 16);
        let before = self.pairs.len();
        self.pairs.retain(|_, seen| worth(seen) > limit);
        let gone = before - self.pairs.len();
        let known = self.forgotten.filter(|forgotten| !is_over(forgotten.last, now));
        let pairs = known.map_or(0, |forgotten| forgotten.pairs) + gone as u64;
        self.forgotten = Some(Forgotten { pairs, last: now });
    }
}

fn is_over(last: SystemTime, now: SystemTime) -> bool {
    now.duration_since(last).is_ok_and(|silence| silence >= REMEMBERED)
}

fn name(workload: Option<&Workload>, field: fn(&Workload) -> &str) -> String {
    let text = workload.map_or("", field);
    if text.is_empty() { "unknown".to_owned() } else { text.to_owned() }
}

fn unix_seconds<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn workload(name: &str) -> Arc<Workload> {
        let identity = "spiffe://td/ns/a/sa/x".parse().unwrap();
        Arc::new(Workload::new(WorkloadUid::new(name), name, identity, vec![]))
    }

    fn pair(number: u32) -> Pair {
        let source = Source::Address(Ipv4Addr::from(number).into());
        Pair { source, destination: WorkloadUid::new("server"), port: 80 }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn pairs_are_counted_and_told_again_only_after_an_hours_silence() {
        let book = Arc::new(PlaintextBook::default());
        let (client, server) = (workload("client"), workload("server"));
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        let mut open = Vec::new();
        let mut note = |source, t| {
            let (connection, told) = book.note(source, ip, &server, 80, at(t));
            open.push(connection);
            told
        };
        assert_eq!([0, 10, 3609, 7300].map(|t| note(Some(&client), t)), [true, false, false, true]);
        assert!(note(None, 5), "a stranger at the same address is another source");
        let list = book.list(at(7300));
        assert_eq!(list.len(), 2);
        assert_eq!((&*list[0].source, list[0].connections, list[0].last_seen), ("client", 4, at(7300)));
        assert_eq!((&*list[1].source, list[1].connections), ("10.0.0.1", 1));
    }

    /// A team drives the list to zero: who stopped must leave it, and who has a connection open has not stopped.
    #[test]
    fn a_pair_leaves_the_list_a_day_after_its_last_connection_ended() {
        let book = PlaintextBook::default();
        book.began(&pair(1), at(0));
        assert_eq!(book.list(at(200_000))[0].open, 1, "it began long ago and is still there");
        book.ended(&pair(1), at(200_000));
        let list = book.list(at(280_000));
        assert_eq!((list[0].connections, list[0].open), (1, 0));
        assert_eq!(book.list(at(290_000)), []);
    }

    /// Whoever can send from many addresses must not make the daemon grow.
    #[test]
    fn the_book_is_bounded_and_forgets_those_seen_least_recently() {
        let book = PlaintextBook::default();
        for n in 0..10_000 {
            book.began(&pair(n), at(u64::from(n)));
        }
        let list = book.list(at(10_000));
        assert!(list.len() <= MAX_PAIRS && list.len() > MAX_PAIRS / 2, "{}", list.len());
        assert_eq!(list[0].source, Ipv4Addr::from(9999).to_string());
    }

    /// A legacy client may hold one connection for hours. If strangers who came and went pushed it out, the list would read
    /// zero, and whoever then turned strict would break it.
    #[test]
    fn whoever_is_connected_is_forgotten_last_and_what_was_forgotten_is_told() {
        let book = PlaintextBook::default();
        book.began(&pair(0), at(0));
        for n in 1..10_000 {
            book.began(&pair(n), at(u64::from(n)));
            book.ended(&pair(n), at(u64::from(n)));
        }
        let list = book.list(at(10_000));
        let legacy = Ipv4Addr::from(0).to_string();
        assert!(list.iter().any(|pair| pair.source == legacy && pair.open == 1));
        assert_eq!(book.forgotten(at(10_000)) + list.len() as u64, 10_000);
        assert_eq!(book.forgotten(at(200_000)), 0, "whoever still sends plaintext has been seen again");
    }

    /// If all came in one instant, forgetting must still make room.
    #[test]
    fn the_book_is_bounded_when_the_clock_stands() {
        let book = PlaintextBook::default();
        for n in 0..10_000 {
            book.began(&pair(n), at(1));
        }
        assert!(book.list(at(1)).len() <= MAX_PAIRS);
    }
}
