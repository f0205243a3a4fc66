//! The decision about a request: what state says, or nothing, and then it goes where it was meant to go.

use std::net::IpAddr;

use hickory_proto::{
    op::ResponseCode,
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA},
    },
};
use model::{Snapshot, Workload};

use crate::{
    names::{Found, addresses, find, host},
    query::{Query, Transport},
    reply,
};

mod ports;

/// Seconds for which answers from state may be remembered. State changes when it likes, and asking again costs a pod
/// no more than a datagram over lo.
pub(crate) const LIFETIME: u32 = 5;
/// The least that an address takes in an answer: the name by reference, and the address.
const ADDRESS_BYTES: usize = 16;

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// These bytes are the answer.
    Reply(Vec<u8>),
    /// It is not for us to say.
    Forward,
}

/// What an answer depends on besides the state and the question.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The domain of the cluster's services, `cluster.local` mostly.
    pub cluster_domain: &'a str,
    pub transport: Transport,
    /// Any number: where the list of addresses begins.
    pub dice: u64,
}

/// The answer to what the pod `client` asks. Names that state does not know, or has no address for in the client's
/// network, are left to whoever was asked: so is every type but A, AAAA and SRV.
pub fn answer(snapshot: &Snapshot, client: &Workload, query: &Query<'_>, view: &View<'_>) -> Answer {
    if query.is_transfer() {
        return Answer::Reply(reply::failure(query, ResponseCode::NotImp));
    }
    let question = Asking { snapshot, client, view, room: query.room(view.transport) };
    let records = query.question().and_then(|asked| match asked.query_type {
        RecordType::A | RecordType::AAAA => question.addresses(&asked.name, asked.query_type),
        RecordType::SRV => question.ports(&asked.name),
        _ => None,
    });
    match records {
        None => Answer::Forward,
        // RFC 6891, section 6.1.3.
        Some(_) if query.message().version() > 0 => {
            Answer::Reply(reply::failure(query, ResponseCode::BADVERS))
        }
        Some(Records { answers, additionals }) => {
            Answer::Reply(reply::answer(query, answers, additionals, question.room))
        }
    }
}

struct Asking<'a> {
    snapshot: &'a Snapshot,
    client: &'a Workload,
    view: &'a View<'a>,
    room: usize,
}

#[derive(Default)]
struct Records {
    answers: Vec<Record>,
    additionals: Vec<Record>,
}

impl<'a> Asking<'a> {
    /// A name with addresses of the other family alone has none, which is not to say that there is no such name.
    fn addresses(&self, name: &Name, kind: RecordType) -> Option<Records> {
        let found = self.find(host(name)?)?;
        let of_kind = |ip: &IpAddr| ip.is_ipv4() == (kind == RecordType::A);
        let mut wanted = self.addresses_of(&found, of_kind)?;
        self.rotate(&mut wanted);
        let answers = wanted.into_iter().map(|ip| address(name, ip)).collect();
        Some(Records { answers, ..Records::default() })
    }

    /// As many of those that are `wanted` as may have room. `None` if state knows no address at all.
    fn addresses_of(&self, found: &Found<'a>, wanted: impl Fn(&IpAddr) -> bool) -> Option<Vec<IpAddr>> {
        let most = self.most(ADDRESS_BYTES);
        if found.has_own_addresses() {
            let mut own = found.own_addresses(self.client).peekable();
            own.peek()?;
            return Some(own.filter(wanted).take(most).collect());
        }
        let has_wanted = |endpoint: &Workload| addresses(found.service, endpoint).any(|ip| wanted(&ip));
        let endpoints = found.endpoints(self.snapshot, self.client, most, has_wanted)?;
        let all = endpoints.into_iter().flat_map(|endpoint| addresses(found.service, endpoint));
        Some(all.filter(&wanted).take(most).collect())
    }

    fn find(&self, asked: String) -> Option<Found<'a>> {
        find(self.snapshot, self.client, asked, self.view.cluster_domain)
    }

    /// As many records of at least so many bytes as may have room, and one more, which shows that there were more.
    fn most(&self, bytes: usize) -> usize {
        self.room / bytes + 1
    }

    fn rotate<T>(&self, list: &mut [T]) {
        let first =
            self.view.dice.checked_rem(list.len() as u64).and_then(|first| usize::try_from(first).ok());
        list.rotate_left(first.unwrap_or_default());
    }
}

fn address(name: &Name, ip: IpAddr) -> Record {
    let data = match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    Record::from_rdata(name.clone(), LIFETIME, data)
}
