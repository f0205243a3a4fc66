//! `/connections`: of this node's pods, open now, whether we carry them or not.

use std::{cmp::Reverse, sync::Arc};

use model::{ClientAddr, OriginalDst, Role, Snapshot, WorkloadUid};
use redirect::OlderConnection;
use serde::Serialize;
use telemetry::{LiveConnection, LiveHandle, LiveParty};

use super::{
    super::{Admin, Answer, request::Request},
    parties::{self, Ends, direction, name, name_and_port},
};
use crate::table::{Row, bytes, span};

pub(in crate::admin) const PARAMETERS: &[&str] =
    &["namespace", "name", "node", "path", "plaintext", "sort", "limit", "offset"];

/// Where one can be read: small, so that a list of many costs little until each is.
#[derive(Clone)]
pub(super) enum Place {
    Older(Arc<Older>),
    Live(LiveHandle),
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Connection {
    Older(Arc<Older>),
    Live(Box<LiveConnection>),
}

/// Goes past us in plaintext, for as long as it lasts.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Older {
    pub(super) role: Role,
    local: WorkloadUid,
    pub(super) client: ClientAddr,
    pub(super) original_destination: OriginalDst,
    mutual_tls: bool,
    path: &'static str,
    source: LiveParty,
    destination: LiveParty,
    established: bool,
}

pub(in crate::admin) fn page(admin: &Admin, request: &Request) -> Answer {
    let mut places = places(admin, &admin.snapshot.load());
    match request.parameter("sort") {
        None => {}
        Some("bytes") => places.sort_by_cached_key(|place| Reverse(place.bytes())),
        Some(_) => return Answer::bad_request("sort: expected bytes; without it the oldest come first\n"),
    }
    if request.asks_for_some() {
        places.retain(|place| place.read().is_wanted(request));
    }
    Answer::list(request, places, Place::read)
}

/// Oldest first.
pub(super) fn places(admin: &Admin, snapshot: &Snapshot) -> Vec<Place> {
    let older = admin.node.older_connections().into_iter().flat_map(|(local, connections)| {
        let of = move |connection| Place::Older(Arc::new(Older::of(snapshot, &local, connection)));
        connections.into_iter().map(of)
    });
    older.chain(admin.ledgers.handles().into_iter().map(Place::Live)).collect()
}

impl Place {
    pub(super) fn read(&self) -> Connection {
        match self {
            Self::Older(older) => Connection::Older(Arc::clone(older)),
            Self::Live(handle) => Connection::Live(Box::new(handle.read())),
        }
    }

    pub(super) fn local(&self) -> &WorkloadUid {
        match self {
            Self::Older(older) => &older.local,
            Self::Live(handle) => handle.local(),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Older(_) => 0,
            Self::Live(handle) => handle.bytes(),
        }
    }
}

impl Connection {
    fn is_wanted(&self, request: &Request) -> bool {
        let (local, source, destination, service, path, plain) = match self {
            Self::Older(it) => (&it.local, &it.source, &it.destination, None, it.path, true),
            Self::Live(it) => {
                let plain = it.established && !it.mutual_tls;
                (&it.local, &it.source, &it.destination, it.service.as_deref(), it.path, plain)
            }
        };
        Ends { local, source, destination, service }.are_wanted(request)
            && request.parameter("path").is_none_or(|wanted| wanted == path)
            && (plain || !request.flag("plaintext"))
    }
}

impl Row for Connection {
    const HEADER: &'static [&'static str] =
        &["DIRECTION", "FROM", "TO", "SERVICE", "PATH", "MTLS", "POLICY", "AGE", "SENT", "RECEIVED"];

    fn cells(&self) -> Vec<String> {
        match self {
            Self::Older(it) => it.cells(),
            Self::Live(it) => {
                let target = it.target.unwrap_or(it.original_destination.0);
                vec![
                    direction(it.role).to_owned(),
                    name(&it.source, Some(it.client.0)),
                    name_and_port(&it.destination, target),
                    it.service.clone().unwrap_or_default(),
                    it.path.to_owned(),
                    mutual_tls(it).to_owned(),
                    it.policy.clone().unwrap_or_default(),
                    span(it.age_milliseconds / 1000),
                    bytes(it.bytes_to_destination),
                    bytes(it.bytes_to_source),
                ]
            }
        }
    }
}

/// What has not come that far yet is neither.
fn mutual_tls(connection: &LiveConnection) -> &'static str {
    match (connection.mutual_tls, connection.established) {
        (true, _) => "yes",
        (false, true) => "no",
        (false, false) => "",
    }
}

impl Older {
    fn of(snapshot: &Snapshot, local: &WorkloadUid, connection: OlderConnection) -> Self {
        let OlderConnection { role, client, destination: original_destination } = connection;
        let own = parties::of(snapshot, local);
        let (source, destination) = match role {
            Role::Outbound => (own, parties::at(snapshot, local, original_destination.0.ip())),
            Role::InboundPlaintext | Role::InboundHbone => (parties::at(snapshot, local, client.0.ip()), own),
        };
        Self {
            role,
            local: local.clone(),
            client,
            original_destination,
            mutual_tls: false,
            path: "plaintext_before_enrolment",
            source,
            destination,
            established: true,
        }
    }

    /// How old it is, and what it carries, passes by us.
    fn cells(&self) -> Vec<String> {
        let unknown = String::new;
        vec![
            direction(self.role).to_owned(),
            name(&self.source, Some(self.client.0)),
            name_and_port(&self.destination, self.original_destination.0),
            unknown(),
            self.path.to_owned(),
            "no".to_owned(),
            unknown(),
            unknown(),
            unknown(),
            unknown(),
        ]
    }
}
