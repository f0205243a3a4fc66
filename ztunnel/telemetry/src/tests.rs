//! The account of a connection against what Istio's ztunnel recorded of the same connections.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use model::{
    ClientAddr, OriginalDst, Refusal, Role, Snapshot, SpiffeId, Workload, WorkloadUid,
    authorize::{InboundFacts, authorize_inbound},
    policy::PolicyKey,
    service::Service,
    workload::{Locality, WorkloadType},
};

use crate::{
    AccessLog, AccessLogMode, ErrorLines, Ledger, Ledgers, Outcome, Path, Proof, ResponseFlags, TraceId,
    metrics::{Exporter, recorder},
};

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A workload of the recorded mesh.
fn workload(name: &str, ip: &str) -> Arc<Workload> {
    let identity: SpiffeId = format!("spiffe://cluster.local/ns/default/sa/sa-{name}").parse().unwrap();
    let uid = WorkloadUid::new(&format!("Kubernetes//Pod/default/{name}"));
    let mut workload = Workload::new(uid, name, identity, vec![ip.parse().unwrap()]);
    workload.workload_name = name.into();
    workload.workload_type = WorkloadType::Deployment;
    workload.canonical_name = name.into();
    workload.canonical_revision = "v1".into();
    workload.cluster_id = "Kubernetes".into();
    if name == "c1" {
        workload.locality = Locality { region: "r1".into(), zone: "z1".into(), subzone: "".into() }.into();
    }
    if name == "q1" {
        workload.canonical_revision = "latest".into();
    }
    Arc::new(workload)
}

fn web() -> Arc<Service> {
    Arc::new(Service::new("default", "web.default.svc.cluster.local"))
}

struct Mesh {
    ledgers: Arc<Ledgers>,
    c1: Arc<Workload>,
    s1: Arc<Workload>,
    q1: Arc<Workload>,
}

impl Mesh {
    fn new() -> Self {
        Self {
            ledgers: Arc::new(Ledgers::default()),
            c1: workload("c1", "10.1.1.10"),
            s1: workload("s1", "10.2.1.10"),
            q1: workload("q1", "10.2.100.10"),
        }
    }

    fn outbound(&self, destination: &str) -> Ledger {
        let client = ClientAddr(socket("10.1.1.10:35480"));
        let uid = self.c1.uid.clone();
        let mut ledger = self.ledgers.open(Role::Outbound, uid, client, OriginalDst(socket(destination)));
        ledger.set_source(&self.c1);
        ledger
    }

    fn tunnel(&self, ledger: &mut Ledger, target: &str) {
        ledger.set_destination(&self.s1);
        ledger.set_path(Path::Tunnel { gateway: socket("10.2.1.10:15008"), target: socket(target) });
        ledger.set_identities(self.c1.identity.clone(), self.s1.identity.clone(), Proof::MutualTls);
    }

    fn inbound(&self, role: Role, client: &str, destination: &str) -> Ledger {
        let client = ClientAddr(socket(client));
        let uid = self.s1.uid.clone();
        let mut ledger = self.ledgers.open(role, uid, client, OriginalDst(socket(destination)));
        ledger.set_destination(&self.s1);
        ledger
    }

    fn inbound_tunnel(&self, target: &str) -> Ledger {
        let mut ledger = self.inbound(Role::InboundHbone, "10.1.1.10:63656", "10.2.1.10:15008");
        ledger.set_source(&self.c1);
        self.tunnel(&mut ledger, target);
        ledger
    }

    fn inbound_plaintext(&self, destination: &str) -> Ledger {
        let mut ledger = self.inbound(Role::InboundPlaintext, "10.1.100.10:43350", destination);
        ledger.set_path(Path::Plaintext);
        ledger
    }
}

/// "hello" one way and "response" the other, as recorded.
fn exchange(mut ledger: Ledger) {
    ledger.establish();
    ledger.counters().add_to_destination(5);
    ledger.counters().add_to_source(8);
    ledger.close(&Outcome::Completed);
}

fn denied() -> Outcome {
    let policy = PolicyKey { namespace: "default".into(), name: "deny-9001".into() };
    Outcome::Refused(Refusal::DeniedByPolicy(policy))
}

fn failed(error: &str) -> Outcome {
    Outcome::Failed { flags: ResponseFlags::Connect, reason: "connect", error: error.to_owned() }
}

fn rendered(exporter: &Exporter) -> String {
    exporter.render(|_| {})
}

/// Each series of the connection metrics as its labels, sorted, and its value.
fn connection_metrics(text: &str) -> BTreeSet<String> {
    let of_connections = |line: &&str| {
        line.starts_with("istio_tcp_") && line.contains("_total{") && !line.starts_with("istio_tcp_sockets")
    };
    text.lines().filter(of_connections).map(with_sorted_labels).collect()
}

fn with_sorted_labels(line: &str) -> String {
    let (name, rest) = line.split_once('{').unwrap();
    let (labels, value) = rest.split_once('}').unwrap();
    let labels: BTreeSet<&str> = labels.split(',').collect();
    format!("{name}{labels:?}{value}")
}

/// A dashboard made for Istio must find the same series, labels and values here.
#[test]
fn the_source_counts_as_istio_counts() {
    let (recorder, exporter) = recorder();
    metrics::with_local_recorder(&recorder, || {
        let mesh = Mesh::new();
        let tunnel = |target| {
            let mut ledger = mesh.outbound(target);
            mesh.tunnel(&mut ledger, target);
            ledger
        };
        exchange(tunnel("10.2.1.10:8080"));
        let mut to_service = mesh.outbound("10.96.0.10:80");
        mesh.tunnel(&mut to_service, "10.2.1.10:8080");
        to_service.set_service(&web());
        exchange(to_service);
        tunnel("10.2.1.10:9001").close(&failed("http status: 401 Unauthorized"));
        tunnel("10.2.1.10:7").close(&failed("http status: 503 Service Unavailable"));

        let mut plain = mesh.outbound("10.2.100.10:8080");
        plain.set_destination(&mesh.q1);
        plain.set_path(Path::Passthrough { target: socket("10.2.100.10:8080") });
        exchange(plain);

        let mut answered = mesh.outbound("172.31.0.2:15021");
        answered.set_path(Path::Passthrough { target: socket("172.31.0.2:15021") });
        answered.establish();
        answered.counters().add_to_destination(5);
        answered.close(&Outcome::Completed);
        let mut refused = mesh.outbound("172.31.0.2:7");
        refused.set_path(Path::Passthrough { target: socket("172.31.0.2:7") });
        refused.close(&failed("Connection refused (os error 111)"));
    });
    let recorded = include_str!("../fixtures/istio/metrics.client.txt");
    assert_eq!(connection_metrics(&rendered(&exporter)), connection_metrics(recorded));
}

#[test]
fn the_destination_counts_as_istio_counts() {
    let (recorder, exporter) = recorder();
    metrics::with_local_recorder(&recorder, || {
        let mesh = Mesh::new();
        exchange(mesh.inbound_tunnel("10.2.1.10:8080"));
        exchange(mesh.inbound_tunnel("10.2.1.10:8080"));
        mesh.inbound_tunnel("10.2.1.10:9001").close(&denied());
        mesh.inbound_tunnel("10.2.1.10:7").close(&failed("Connection refused (os error 111)"));
        exchange(mesh.inbound_plaintext("10.2.1.10:8080"));
        mesh.inbound_plaintext("10.2.1.10:9001").close(&denied());
        mesh.inbound_plaintext("10.2.1.10:7").close(&failed("Connection refused (os error 111)"));
    });
    let recorded = include_str!("../fixtures/istio/metrics.server.txt");
    assert_eq!(connection_metrics(&rendered(&exporter)), connection_metrics(recorded));
}

/// A connection that lives for a week must not show its bytes only at its end, nor twice.
#[test]
fn bytes_of_an_open_connection_show_at_each_scrape_and_once_only() {
    let (recorder, exporter) = recorder();
    metrics::with_local_recorder(&recorder, || {
        let received = || {
            let text = rendered(&exporter);
            let line = text.lines().find(|line| line.starts_with(crate::metrics::names::RECEIVED)).unwrap();
            line.rsplit_once(' ').unwrap().1.to_owned()
        };
        let mesh = Mesh::new();
        let mut ledger = mesh.inbound_tunnel("10.2.1.10:8080");
        ledger.establish();
        ledger.counters().add_to_destination(100);
        mesh.ledgers.flush();
        assert_eq!(received(), "100");
        ledger.counters().add_to_destination(1);
        mesh.ledgers.flush();
        mesh.ledgers.flush();
        assert_eq!(received(), "101");
        ledger.close(&Outcome::Completed);
        assert_eq!(received(), "101");
    });
}

/// Would break if whoever reads the book kept those waiting who begin or end a connection. What a busy machine adds to one
/// of twenty readings is not counted.
#[test]
fn no_lock_of_a_book_of_twenty_thousand_is_held_for_a_millisecond() {
    let mesh = Mesh::new();
    let _held: Vec<_> = (0..20_000).map(|_| mesh.inbound_tunnel("10.2.1.10:8080")).collect();
    let longest = mesh.ledgers.longest_hold(20);
    println!("the longest: {longest:?}");
    assert!(longest < Duration::from_millis(1), "{longest:?}");
}

/// A task that is aborted at any await still leaves the book, the log and the metrics right.
#[test]
fn a_dropped_ledger_is_closed_as_cancelled_and_leaves_the_book() {
    let log = Captured::default();
    tracing::subscriber::with_default(log.subscriber(), || {
        let mesh = Mesh::new();
        let ledger = mesh.inbound_tunnel("10.2.1.10:8080");
        assert_eq!(mesh.ledgers.count_for(&mesh.s1.uid), 1);
        assert_eq!(mesh.ledgers.count_for(&mesh.c1.uid), 0);
        drop(ledger);
        assert_eq!(mesh.ledgers.live().len(), 0);
    });
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(r#"reason="cancelled""#), "{lines:?}");
}

/// A dashboard must not show for ever who has gone, nor forget who is connected; who comes back starts from zero.
#[test]
fn pairs_that_have_gone_leave_the_page_and_those_with_an_open_connection_do_not() {
    let (recorder, exporter) = recorder();
    metrics::with_local_recorder(&recorder, || {
        let mesh = Mesh::new();
        let idle = || {
            (0..2).for_each(|_| mesh.ledgers.sweep());
            exporter.sweep_at(Instant::now() + Duration::from_secs(3600));
        };
        exchange(mesh.outbound("10.2.1.10:8080"));
        let mut open = mesh.inbound_tunnel("10.2.1.10:8080");
        open.establish();
        assert_eq!(connection_metrics(&rendered(&exporter)).len(), 4 + 3);
        idle();
        let left = connection_metrics(&rendered(&exporter));
        assert_eq!(left.len(), 3, "{left:#?}");
        open.counters().add_to_destination(7);
        exchange(open);
        exchange(mesh.outbound("10.2.1.10:8080"));
        let counted = |reporter: &str| -> BTreeSet<String> {
            let all = connection_metrics(&rendered(&exporter)).into_iter();
            let own = all.filter(|line| line.contains(reporter));
            own.map(|line| line.rsplit_once(' ').unwrap().1.to_owned()).collect()
        };
        assert_eq!(counted(r#"reporter=\"source\""#), ["1", "5", "8"].map(str::to_owned).into());
        assert_eq!(counted(r#"reporter=\"destination\""#), ["1", "12", "8"].map(str::to_owned).into());
    });
}

/// The time to the first byte is that of the first byte, once for each connection that was answered.
#[test]
fn the_first_byte_of_an_answer_is_timed_once() {
    let (recorder, exporter) = recorder();
    metrics::with_local_recorder(&recorder, || {
        let mesh = Mesh::new();
        let ledger = mesh.outbound("10.2.1.10:8080");
        ledger.counters().add_to_destination(100);
        (0..3).for_each(|bytes| ledger.counters().add_to_source(bytes));
        let count =
            |reporter: &str| format!("ztunnel_first_byte_duration_seconds_count{{reporter=\"{reporter}\"}}");
        let page = rendered(&exporter);
        assert!(page.contains(&format!("{} 1\n", count("source"))), "{page}");
        assert!(page.contains(&format!("{} 0\n", count("destination"))), "{page}");
    });
}

/// One word for one refusal, in log and metric.
#[test]
fn failures_are_counted_by_the_reason_that_the_log_gives() {
    let (log, (recorder, exporter)) = (Captured::default(), recorder());
    metrics::with_local_recorder(&recorder, || {
        tracing::subscriber::with_default(log.subscriber(), || {
            let mesh = Mesh::new();
            mesh.inbound_tunnel("10.2.1.10:9001").close(&denied());
            mesh.outbound("10.2.1.10:7").close(&failed("Connection refused (os error 111)"));
            exchange(mesh.outbound("10.2.1.10:8080"));
        });
    });
    let page = rendered(&exporter);
    let counted = page.lines().filter(|line| line.starts_with(crate::metrics::names::NOT_ESTABLISHED));
    let counted: Vec<_> = counted.map(|line| line.split('"').nth(3).unwrap()).collect();
    let lines = log.lines();
    assert_eq!(counted, ["denied_by_policy", "connect"]);
    for (line, reason) in lines.iter().zip(counted) {
        assert!(line.contains(&format!("reason=\"{reason}\"")), "{line}");
    }
}

/// One of each. A new one does not compile until it stands here.
fn every_refusal() -> Vec<Refusal> {
    let (at, text) = (socket("10.0.0.1:80"), "x".to_owned());
    let (uid, policy) = (WorkloadUid::new("w"), PolicyKey { namespace: "ns".into(), name: "p".into() });
    let service = web().key();
    let trust_domain = workload("c1", "10.0.0.1").identity.trust_domain().clone();
    let first = Refusal::UnknownSource(uid.clone());
    std::iter::successors(Some(first), |refusal| {
        Some(match refusal {
            Refusal::UnknownSource(_) => Refusal::WrongServiceAccount(uid.clone()),
            Refusal::WrongServiceAccount(_) => Refusal::WrongDestination(at),
            Refusal::WrongDestination(_) => Refusal::NotServed(at),
            Refusal::NotServed(_) => Refusal::BadAuthority(text.clone()),
            Refusal::BadAuthority(_) => Refusal::UnknownDestination(text.clone()),
            Refusal::UnknownDestination(_) => Refusal::ReservedPort(15008),
            Refusal::ReservedPort(_) => Refusal::NoSuchServicePort { service: service.clone(), port: 80 },
            Refusal::NoSuchServicePort { .. } => Refusal::Unreadable(text.clone()),
            Refusal::Unreadable(_) => Refusal::NoHealthyEndpoint(service.clone()),
            Refusal::NoHealthyEndpoint(_) => Refusal::UnknownWaypoint(text.clone()),
            Refusal::UnknownWaypoint(_) => Refusal::NoEndpointInScope(service.clone()),
            Refusal::NoEndpointInScope(_) => Refusal::UnusableHostName(text.clone()),
            Refusal::UnusableHostName(_) => Refusal::OtherNetwork(text.clone()),
            Refusal::OtherNetwork(_) => Refusal::DeniedByPolicy(policy.clone()),
            Refusal::DeniedByPolicy(_) => Refusal::NotAllowed,
            Refusal::NotAllowed => Refusal::DefaultDeny,
            Refusal::DefaultDeny => Refusal::UnknownPolicy(policy.clone()),
            Refusal::UnknownPolicy(_) => Refusal::PlaintextInStrict,
            Refusal::PlaintextInStrict => Refusal::MtlsDisabled,
            Refusal::MtlsDisabled => Refusal::OtherTrustDomain(trust_domain.clone()),
            Refusal::OtherTrustDomain(_) => Refusal::NotInRegistry(at),
            Refusal::NotInRegistry(_) => return None,
        })
    })
    .collect()
}

/// If a refusal had another word in one of the three, whoever found it in one would not find it in the others.
#[test]
fn every_refusal_has_one_word_in_log_metric_and_admin_page() {
    for refusal in every_refusal() {
        let (log, (recorder, exporter)) = (Captured::default(), recorder());
        let mesh = Mesh::new();
        let word = refusal.reason();
        metrics::with_local_recorder(&recorder, || {
            tracing::subscriber::with_default(log.subscriber(), || {
                mesh.inbound_tunnel("10.2.1.10:9001").close(&Outcome::Refused(refusal));
            });
        });
        assert!(log.lines()[0].contains(&format!("reason=\"{word}\"")), "{:?}", log.lines());
        let page = rendered(&exporter);
        let counted =
            format!("ztunnel_connection_failures_total{{reporter=\"destination\",reason=\"{word}\"}} 1");
        assert!(page.contains(&counted), "{word}: {page}");
        let listed = mesh.ledgers.refusals().list(SystemTime::now());
        assert_eq!(listed.iter().map(|it| it.reason).collect::<Vec<_>>(), [word]);
    }
}

/// Both nodes of a trace log it or neither does, and what went wrong is always told.
#[test]
fn the_access_log_is_sampled_by_trace_and_never_drops_errors() {
    let lines = |mode, sample: f64, trace: u128| {
        let log = Captured::default();
        tracing::subscriber::with_default(log.subscriber(), || {
            let sample = sample.try_into().unwrap();
            let ledgers = Arc::new(Ledgers::new(AccessLog { mode, sample, ..AccessLog::default() }));
            let mesh = Mesh { ledgers, ..Mesh::new() };
            let mut good = [mesh.outbound("10.2.1.10:8080"), mesh.inbound_tunnel("10.2.1.10:8080")];
            good.iter_mut().for_each(|ledger| ledger.set_trace(TraceId::new(trace)));
            good.into_iter().for_each(exchange);
            mesh.outbound("10.2.1.10:7").close(&failed("Connection refused (os error 111)"));
        });
        let lines = log.lines();
        lines
            .iter()
            .for_each(|line| assert_eq!(line.contains("trace_id="), line.contains("completed"), "{line}"));
        lines.len()
    };
    let (low, high) = (1, u128::from(u64::MAX));
    assert_eq!(lines(AccessLogMode::All, 1.0, high), 3);
    assert_eq!(lines(AccessLogMode::All, 0.5, low), 3);
    assert_eq!(lines(AccessLogMode::All, 0.5, high), 1);
    assert_eq!(lines(AccessLogMode::Errors, 1.0, low), 1);
    assert_eq!(lines(AccessLogMode::Off, 1.0, low), 0);
}

/// Without a budget whoever may ask at all fills the disk with refusals; if it were one for all, what others suffer would not be
/// told; if the rest were not counted, nobody would know.
#[test]
fn refusals_without_end_are_a_few_lines_and_their_number() {
    let (log, (recorder, exporter)) = (Captured::default(), recorder());
    let errors = ErrorLines { lines: 20, interval: Duration::from_secs(3600) };
    metrics::with_local_recorder(&recorder, || {
        tracing::subscriber::with_default(log.subscriber(), || {
            let ledgers = Arc::new(Ledgers::new(AccessLog { errors, ..AccessLog::default() }));
            let mesh = Mesh { ledgers, ..Mesh::new() };
            for _ in 0..1000 {
                mesh.inbound_tunnel("10.2.1.10:9001").close(&denied());
            }
            exchange(mesh.inbound_tunnel("10.2.1.10:8080"));
            mesh.outbound("10.2.1.10:7").close(&failed("Connection refused (os error 111)"));
            // Addresses cost nothing: all of them have one budget.
            for client in 0..100 {
                let client = format!("10.9.{client}.1:1000");
                mesh.inbound(Role::InboundPlaintext, &client, "10.2.1.10:8080").close(&denied());
            }
            mesh.ledgers.summarize_at(Instant::now() + errors.interval);
        });
    });
    let lines = log.lines();
    let with = |part: &str| lines.iter().filter(|line| line.contains(part)).count();
    assert_eq!(with("10.1.1.10:63656") - 1, 20, "of the one who floods, beside what went well");
    assert_eq!((with("completed"), with("outbound")), (1, 1), "of others, and what goes well");
    assert_eq!(with("src.addr=10.9."), 20);
    assert_eq!((with("suppressed=980"), with("suppressed=80")), (1, 1), "{lines:#?}");
    let page = rendered(&exporter);
    assert!(page.contains("ztunnel_access_log_lines_suppressed_total 1060\n"), "{page}");
    let counted = page.lines().find(|line| line.contains(r#"reason="denied_by_policy""#)).unwrap();
    assert!(counted.ends_with(" 1100"), "{counted}");
}

/// Connections of one kind share their handles; kinds beyond the bound do not grow the cache.
#[test]
fn the_cache_of_label_sets_is_shared_and_bounded() {
    let mesh = Mesh::new();
    let cache = crate::series::SeriesCache::default();
    let facts = |workload: &Arc<Workload>| crate::account::Facts {
        source: Some(Arc::clone(workload)),
        ..Default::default()
    };
    let first = cache.of(Role::Outbound, facts(&mesh.c1));
    assert!(Arc::ptr_eq(&first, &cache.of(Role::Outbound, facts(&mesh.c1))));
    assert!(!Arc::ptr_eq(&first, &cache.of(Role::Outbound, facts(&mesh.s1))));
    for _ in 0..5000 {
        cache.of(Role::Outbound, facts(&workload("w", "10.0.0.1")));
    }
    assert!(cache.len() <= 4096, "{}", cache.len());
}

/// What a dry run would do must show wherever the decision itself does, and count once however often it is judged.
#[test]
fn an_audit_shows_in_metric_log_and_live_list_and_follows_a_later_verdict() {
    let (log, (recorder, exporter)) = (Captured::default(), recorder());
    let verdict = |policies: &[&str]| {
        let mut snapshot = Snapshot::default();
        policies.iter().for_each(|policy| snapshot.insert_policy(serde_json::from_str(policy).unwrap()));
        let facts = InboundFacts {
            client: ClientAddr(socket("10.1.1.10:63656")),
            peer: None,
            target: socket("10.2.1.10:8080"),
            mtls: None,
        };
        authorize_inbound(&snapshot, &workload("s1", "10.2.1.10"), &facts)
    };
    let allow = r#"{"name":"allow","namespace":"default","scope":"Global","action":"Allow","rules":[[]]}"#;
    let tried = r#"{"name":"tried","namespace":"default","scope":"Global","action":"Deny","rules":[[]],"dryRun":true}"#;
    metrics::with_local_recorder(&recorder, || {
        tracing::subscriber::with_default(log.subscriber(), || {
            let mesh = Mesh::new();
            let ledger = mesh.inbound_plaintext("10.2.1.10:8080");
            let judgement = ledger.judgement();
            judgement.note(&verdict(&[allow]));
            assert_eq!(serde_json::to_value(mesh.ledgers.live()).unwrap()[0].get("audit"), None);
            judgement.note(&verdict(&[allow, tried]));
            let live = serde_json::to_value(mesh.ledgers.live()).unwrap();
            assert_eq!(live[0]["policy"], "default/allow");
            let audit = serde_json::json!({"decision": "denied_by_policy", "policy": "default/tried"});
            assert_eq!(live[0]["audit"], audit);
            exchange(ledger);
            let refused = mesh.inbound_plaintext("10.2.1.10:8080");
            refused.judgement().note(&verdict(&[allow, tried]));
            exchange(refused);
        });
    });
    let line = log.lines().remove(0);
    for field in [r#"policy="default/allow""#, r#"audit="denied_by_policy""#, "audit_policy=default/tried"] {
        assert!(line.contains(field), "{field}: {line}");
    }
    let page = rendered(&exporter);
    let counted: BTreeSet<_> = page
        .lines()
        .filter(|line| line.starts_with(crate::metrics::names::DECISIONS))
        .map(with_sorted_labels)
        .collect();
    let series = |audit: &str, policy: &str| {
        with_sorted_labels(&format!(
            r#"ztunnel_policy_decisions_total{{decision="allowed",policy="default/allow",audit="{audit}",audit_policy="{policy}"}} 1"#
        ))
    };
    assert_eq!(counted, [series("-", "-"), series("denied_by_policy", "default/tried")].into());
}

#[test]
fn the_live_list_names_both_identities_path_and_bytes() {
    let mesh = Mesh::new();
    let mut ledger = mesh.outbound("10.96.0.10:80");
    mesh.tunnel(&mut ledger, "10.2.1.10:8080");
    ledger.set_service(&web());
    ledger.establish();
    ledger.counters().add_to_destination(5);
    let mut live = serde_json::to_value(mesh.ledgers.live()).unwrap();
    assert!(live[0]["ageMilliseconds"].take().is_u64());
    assert_eq!(
        live,
        serde_json::json!([{
            "id": 0,
            "role": "outbound",
            "local": "Kubernetes//Pod/default/c1",
            "client": "10.1.1.10:35480",
            "originalDestination": "10.96.0.10:80",
            "path": "hbone",
            "gateway": "10.2.1.10:15008",
            "target": "10.2.1.10:8080",
            "source": {
                "workload": "Kubernetes//Pod/default/c1",
                "name": "c1",
                "namespace": "default",
                "node": "",
                "identity": "spiffe://cluster.local/ns/default/sa/sa-c1",
            },
            "destination": {
                "workload": "Kubernetes//Pod/default/s1",
                "name": "s1",
                "namespace": "default",
                "node": "",
                "identity": "spiffe://cluster.local/ns/default/sa/sa-s1",
            },
            "service": "default/web.default.svc.cluster.local",
            "mutualTls": true,
            "established": true,
            "bytesToDestination": 5,
            "bytesToSource": 0,
            "ageMilliseconds": null,
        }])
    );
}

/// What reads Istio's access log reads ours: same level, message, fields and order of fields.
#[test]
fn access_lines_are_istios_with_path_reason_and_policy_added() {
    let log = Captured::default();
    tracing::subscriber::with_default(log.subscriber(), || {
        let mesh = Mesh::new();
        let mut to_service = mesh.outbound("10.96.0.10:80");
        mesh.tunnel(&mut to_service, "10.2.1.10:8080");
        to_service.set_service(&web());
        exchange(to_service);
        exchange(mesh.inbound_tunnel("10.2.1.10:8080"));
        mesh.inbound_tunnel("10.2.1.10:9001").close(&denied());
        exchange(mesh.inbound_plaintext("10.2.1.10:8080"));
        let unresolved = mesh.ledgers.open(
            Role::Outbound,
            mesh.c1.uid.clone(),
            ClientAddr(socket("10.1.1.10:50052")),
            OriginalDst(socket("10.96.0.10:81")),
        );
        let service = web().key();
        unresolved.close(&Outcome::Refused(Refusal::NoSuchServicePort { service, port: 81 }));
    });
    let lines = log.lines();
    assert_eq!(lines.len(), 5);
    let pairs = [
        ("# success: c1 -> service web", "client's", "INFO"),
        ("# success: c1 -> s1:8080", "server's", "INFO"),
        ("# policy denies: c1 -> s1:9001", "server's", "ERROR"),
        ("# inbound plaintext from an unknown client", "server's", "INFO"),
        ("# service port that does not exist", "client's", "WARN"),
    ];
    for (line, (title, node, level)) in lines.iter().zip(pairs) {
        let (recorded_level, recorded) = recorded_line(title, node);
        assert!(line.contains(level) && recorded_level == level.to_lowercase(), "{line}");
        let added = ["path", "reason", "policy", "trace_id"];
        let ours: Vec<_> = field_names(line).into_iter().filter(|name| !added.contains(&&**name)).collect();
        let theirs: Vec<_> = field_names(&recorded).into_iter().collect();
        let counted = ["bytes_sent", "bytes_recv", "duration"];
        let neglected = |names: Vec<String>| -> Vec<String> {
            names.into_iter().filter(|name| level != "WARN" || !counted.contains(&&**name)).collect()
        };
        assert_eq!(neglected(ours), neglected(theirs), "{line}\n{recorded}");
    }
    assert!(lines[1].contains("bytes_sent=8 bytes_recv=5"), "inbound: what the pod sent is the answer");
    assert!(lines[2].contains(r#"policy="default/deny-9001""#), "{}", lines[2]);
    assert!(lines[2].contains(r#"reason="denied_by_policy""#), "{}", lines[2]);
}

fn recorded_line(title: &str, node: &str) -> (String, String) {
    let text = include_str!("../fixtures/istio/access-log.txt");
    let section = &text[text.find(title).unwrap()..];
    let line = section.lines().find(|line| line.starts_with(&format!("[{node}"))).unwrap();
    let columns: Vec<&str> = line.split('\t').collect();
    (columns[1].to_owned(), columns[4].to_owned())
}

/// The `name` of each `name=value` outside quotes.
fn field_names(line: &str) -> Vec<String> {
    let outside_quotes: String = line.split('"').step_by(2).collect::<Vec<_>>().join("");
    outside_quotes
        .split_whitespace()
        .filter_map(|word| word.split_once('='))
        .map(|(name, _)| name.to_owned())
        .collect()
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn subscriber(&self) -> impl tracing::Subscriber + use<> {
        let captured = self.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || captured.clone()).finish()
    }

    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
