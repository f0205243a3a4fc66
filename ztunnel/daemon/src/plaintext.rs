//! `ztunnel plaintext`: who sends plaintext to whom, from the local daemon's admin endpoint; and what that endpoint
//! answers.

use std::{collections::BTreeMap, net::IpAddr, process::ExitCode};

use anyhow::Context;
use model::{NetworkAddress, OriginalDst, Role, Snapshot, WorkloadUid};
use redirect::OlderConnection;
use serde::{Deserialize, Serialize};
use telemetry::PlaintextPair;

use crate::{
    ask::{Endpoint, Question},
    offline::NOT_UNDERSTOOD,
    table::{Row, table},
};

#[derive(clap::Args)]
pub(crate) struct Plaintext {
    #[command(flatten)]
    endpoint: Endpoint,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// The answer of `/plaintext`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PlaintextList {
    /// Open, or accepted within a day, where mutual TLS would have been accepted too; the latest first.
    accepted: Vec<Accepted>,
    /// Open connections that are older than their pod's enrolment and go past the mesh, though both ends are of it.
    before_enrolment: Vec<Older>,
    /// Pairs that would be in `accepted`, had there been room for them.
    #[serde(default)]
    forgotten: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    source: String,
    destination: String,
    port: u16,
    connections: u64,
    open: u64,
    first_seen: u64,
    last_seen: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Older {
    #[serde(flatten)]
    pair: Pair,
    connections: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Pair {
    source: String,
    destination: String,
    port: u16,
}

impl PlaintextList {
    pub(crate) fn new(
        snapshot: &Snapshot,
        accepted: &[PlaintextPair],
        forgotten: u64,
        older: &[(WorkloadUid, Vec<OlderConnection>)],
    ) -> Self {
        let mut before: BTreeMap<Pair, u64> = BTreeMap::new();
        for (local, connections) in older {
            let pairs = connections.iter().filter_map(|connection| Pair::of(snapshot, local, connection));
            pairs.for_each(|pair| *before.entry(pair).or_default() += 1);
        }
        let before_enrolment = before.into_iter().map(|(pair, connections)| Older { pair, connections });
        Self {
            accepted: accepted.iter().map(Accepted::of).collect(),
            before_enrolment: before_enrolment.collect(),
            forgotten,
        }
    }

    fn is_empty(&self) -> bool {
        self.accepted.is_empty() && self.before_enrolment.is_empty() && self.forgotten == 0
    }

    /// As a table.
    pub(crate) fn text(&self) -> String {
        if self.is_empty() {
            return "no plaintext where mutual TLS is possible\n".to_owned();
        }
        let accepted = self.accepted.iter().map(|pair| {
            let Accepted { source, destination, port, connections, open, .. } = pair;
            let [port, connections, open] = [u64::from(*port), *connections, *open].map(|n| n.to_string());
            Line(["accepted".to_owned(), source.clone(), destination.clone(), port, connections, open])
        });
        let older = self.before_enrolment.iter().map(|pair| {
            let Older { pair: Pair { source, destination, port }, connections } = pair;
            let [port, connections] = [u64::from(*port), *connections].map(|n| n.to_string());
            let seen = "before enrolment".to_owned();
            Line([seen, source.clone(), destination.clone(), port, connections.clone(), connections])
        });
        let mut text = table(accepted.chain(older));
        if self.forgotten > 0 {
            text.push_str(&format!(
                "{} more were seen within a day and found no room here\n",
                self.forgotten
            ));
        }
        text
    }
}

struct Line([String; 6]);

impl Row for Line {
    const HEADER: &'static [&'static str] = &["SEEN", "FROM", "TO", "PORT", "CONNECTIONS", "OPEN"];

    fn cells(&self) -> Vec<String> {
        self.0.to_vec()
    }
}

impl Accepted {
    fn of(pair: &PlaintextPair) -> Self {
        let seconds = |at: std::time::SystemTime| {
            at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
        };
        Self {
            source: pair.source.clone(),
            destination: pair.destination.to_string(),
            port: pair.port,
            connections: pair.connections,
            open: pair.open,
            first_seen: seconds(pair.first_seen),
            last_seen: seconds(pair.last_seen),
        }
    }
}

impl Pair {
    /// `None` if it leads out of the mesh: no mode of mutual TLS has a say there.
    fn of(snapshot: &Snapshot, local: &WorkloadUid, connection: &OlderConnection) -> Option<Self> {
        let OlderConnection { role, client, destination: OriginalDst(destination) } = connection;
        let own = snapshot.workload(local);
        let network = own.map(|workload| workload.network.clone()).unwrap_or_default();
        let namespace = own.map(|workload| &*workload.namespace).unwrap_or_default();
        let known = |ip: IpAddr| {
            let address = NetworkAddress { network: network.clone(), ip: ip.to_canonical() };
            let workload = snapshot.workload_at(&address).map(|workload| workload.uid.to_string());
            workload.or_else(|| Some(snapshot.service_at(&address, namespace)?.key().to_string()))
        };
        let (source, to) = match role {
            Role::Outbound => (local.to_string(), known(destination.ip())?),
            Role::InboundPlaintext | Role::InboundHbone => {
                let ip = client.0.ip();
                (known(ip).unwrap_or_else(|| ip.to_string()), local.to_string())
            }
        };
        Some(Self { source, destination: to, port: destination.port() })
    }
}

impl Plaintext {
    pub(crate) fn run(&self) -> ExitCode {
        match self.ask() {
            Ok(list) => {
                self.print(&list);
                if list.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(error) => {
                eprintln!("ztunnel: {}", crate::whole_story(&error));
                ExitCode::from(NOT_UNDERSTOOD)
            }
        }
    }

    fn ask(&self) -> anyhow::Result<PlaintextList> {
        let answer = self.endpoint.json(&Question::of("/plaintext"))?;
        serde_json::from_value(answer).context("understanding the daemon's list")
    }

    fn print(&self, list: &PlaintextList) {
        if self.json {
            println!("{}", serde_json::to_string_pretty(list).unwrap_or_default());
        } else {
            print!("{}", list.text());
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{ClientAddr, Workload, service::Service};

    use super::*;

    /// Would break if connections that no mode of mutual TLS concerns kept a team from an empty list.
    #[test]
    fn older_connections_are_grouped_by_who_and_whom_and_those_out_of_the_mesh_left_out() {
        let mut snapshot = Snapshot::default();
        let uid = WorkloadUid::new("server");
        let identity = "spiffe://td/ns/a/sa/x".parse().unwrap();
        let server = Workload::new(uid.clone(), "server", identity, vec!["10.0.0.2".parse().unwrap()]);
        snapshot.insert_workload(server);
        let mut service = Service::new("a", "db.a.svc");
        service.vips = vec!["/10.96.0.1".parse().unwrap()];
        snapshot.insert_service(service);
        let connection = |role, client: &str, destination: &str| OlderConnection {
            role,
            client: ClientAddr(client.parse().unwrap()),
            destination: OriginalDst(destination.parse().unwrap()),
        };
        let older = vec![
            connection(Role::InboundPlaintext, "10.0.0.9:1", "10.0.0.2:80"),
            connection(Role::InboundPlaintext, "10.0.0.9:2", "10.0.0.2:80"),
            connection(Role::Outbound, "10.0.0.2:3", "192.0.2.1:443"),
            connection(Role::Outbound, "10.0.0.2:4", "10.96.0.1:5432"),
        ];
        let list = PlaintextList::new(&snapshot, &[], 0, &[(uid, older)]);
        let older = |source: &str, destination: &str, port, connections| Older {
            pair: Pair { source: source.to_owned(), destination: destination.to_owned(), port },
            connections,
        };
        assert_eq!(
            list.before_enrolment,
            [older("10.0.0.9", "server", 80, 2), older("server", "a/db.a.svc", 5432, 1)]
        );
    }

    /// Would break if a team took a list for empty that had merely no room.
    #[test]
    fn a_list_that_forgot_somebody_is_not_empty_and_says_so() {
        let list = PlaintextList::new(&Snapshot::default(), &[], 7, &[]);
        assert!(!list.is_empty() && list.text().contains("7 more"), "{}", list.text());
        assert!(PlaintextList::default().is_empty());
    }
}
