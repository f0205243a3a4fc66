//! What loads, what is refused and where, and what a running daemon does when its file changes.

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use model::{
    ClientAddr, MtlsMode, NetworkAddress, Settings, Snapshot, WorkloadUid,
    authorize::{InboundFacts, authorize_inbound},
    policy::StringMatch,
    service::{HealthPolicy, IpFamilies, Mode, Scope},
    workload::{ApplicationProtocol, Health, Protocol, WorkloadType},
};
use proptest::prelude::*;

use super::*;

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn loaded(text: &str) -> Result<Arc<Snapshot>, String> {
    let shared = SharedSnapshot::default();
    load(Path::new("state.yaml"), text, &trust_domain(), &shared).map_err(|error| error.to_string())?;
    Ok(shared.load())
}

#[test]
fn the_static_configuration_recorded_from_istio_loads_unchanged() {
    let mesh = loaded(include_str!("../../tests/fixtures/static_config.json")).unwrap();
    let s1 = mesh.workload(&WorkloadUid::new("Kubernetes//Pod/default/s1")).unwrap();
    assert_eq!(s1.identity.to_string(), "spiffe://cluster.local/ns/default/sa/sa-s1");
    assert_eq!(
        (s1.protocol, s1.workload_type, s1.status),
        (Protocol::Hbone, WorkloadType::Deployment, Health::Healthy)
    );
    let vip: NetworkAddress = "/10.96.0.10".parse().unwrap();
    let web = mesh.service_at(&vip, "elsewhere").unwrap();
    assert_eq!(web.ports, [(80, 8080)].into());
    assert_eq!(mesh.endpoints(&web.key()).map(|w| &*w.name).collect::<Vec<_>>(), ["s1"]);
    let policy = mesh.policy(&"default/deny-9001".parse().unwrap()).unwrap();
    assert_eq!(policy.rules[0][0][0].destination_ports, [9001]);
}

#[test]
fn every_field_and_spelling_is_understood() {
    let shared = SharedSnapshot::default();
    let text = include_str!("../../tests/fixtures/spellings.yaml");
    let account = load(Path::new("f"), text, &trust_domain(), &shared).unwrap();
    assert_eq!(account.warnings.len(), 1, "{:?}", account.warnings);
    let mesh = shared.load();
    let all = mesh.workload(&WorkloadUid::new("cluster1//Pod/default/everything")).unwrap();
    assert_eq!(all.identity.trust_domain().as_str(), "other.example");
    assert_eq!((all.capacity, all.native_tunnel, all.status), (7, true, Health::Unhealthy));
    assert_eq!(all.waypoint.as_ref().unwrap().destination.to_string(), "net-1/10.0.0.9");
    let tunnel = all.application_tunnel.unwrap();
    assert_eq!((tunnel.protocol, tunnel.port.unwrap().get()), (ApplicationProtocol::Proxy, 15088));
    let bare = mesh.workload(&WorkloadUid::new("bare")).unwrap();
    assert_eq!(
        bare.identity.to_string(),
        "spiffe://cluster.local/ns/default/sa/default",
        "the daemon's own domain"
    );
    assert_eq!(
        *bare.services.get(&"default/example.com".parse().unwrap()).unwrap(),
        [(80, 9090)].into(),
        "from the endpoint"
    );
    let service = mesh.service(&"default/example.com".parse().unwrap()).unwrap();
    let balancer = service.load_balancer.as_ref().unwrap();
    assert_eq!((balancer.scopes(), balancer.mode), (&[Scope::Region, Scope::Zone][..], Mode::Failover));
    assert_eq!(balancer.health_policy, HealthPolicy::AllowAll);
    assert_eq!((service.ip_families, service.canonical), (Some(IpFamilies::Dual), true));
    assert_eq!(service.vips[2].to_string(), "/10.97.0.0/16");
    let block: NetworkAddress = "/10.97.3.4".parse().unwrap();
    assert!(mesh.service_at(&block, "default").is_none(), "a block is no address of the service's own");
    let vip: NetworkAddress = "/fd00:96::1".parse().unwrap();
    assert!(mesh.service_at(&vip, "default").is_some(), "visible in its namespace");
    assert!(mesh.service_at(&vip, "elsewhere").is_none(), "and nowhere else");
    let m = &mesh.policy(&"default/selected".parse().unwrap()).unwrap().rules[0][0][0];
    assert_eq!(m.not_principals, vec![StringMatch::Presence; 3]);
}

/// A policy of another proxy's layer must load, be told of, and never be mistaken for one that we enforce.
#[test]
fn what_is_recognised_and_not_enforced_is_told_and_what_is_unknown_is_refused() {
    let load_rule = |action: &str, m: &str| {
        let text = format!(
            "policies:\n- {{name: p, namespace: n, scope: Global, action: {action}, rules: [[[{m}]]]}}\n"
        );
        let loaded = load(Path::new("state.yaml"), &text, &trust_domain(), &SharedSnapshot::default());
        loaded.map(|loaded| (loaded.warnings.join("\n"), loaded.objects["policiesNotFullyEnforced"]))
    };
    for field in [
        "paths: [/admin]",
        "notMethods: [GET]",
        "when: [{key: 'request.headers[x]'}]",
        "requestPrincipals: ['*']",
    ] {
        let (warning, count) = load_rule("Allow", &format!("{{{field}}}")).unwrap();
        let name = field.split(':').next().unwrap();
        assert!(warning.contains(name) && warning.contains("allow nothing"), "{warning}");
        assert_eq!(count, 1);
        let (warning, _) = load_rule("Deny", &format!("{{{field}}}")).unwrap();
        assert!(warning.contains("`n/p`") && warning.contains("deny without regard"), "{warning}");
    }
    assert_eq!(load_rule("Allow", "{destinationPorts: [80], paths: []}").unwrap(), (String::new(), 0));
}

/// What a policy with these `parts` does with a plaintext connection from 10.0.0.1 to port 80, and what is told of it.
fn judged(action: &str, parts: &str) -> (bool, Vec<String>) {
    let text = format!(
        "workloads:\n- {{uid: w, namespace: n, workloadIps: [10.0.0.9]}}\n\
         policies:\n- {{name: good, namespace: n, scope: Global, action: Deny, rules: [[[{{destinationPorts: [9]}}]]]}}\n\
         - {{name: p, namespace: n, scope: Global, action: {action}, {parts}}}\n"
    );
    let shared = SharedSnapshot::default();
    let loaded = load(Path::new("state.yaml"), &text, &trust_domain(), &shared).unwrap();
    let mesh = shared.load();
    assert!(mesh.policy(&"n/good".parse().unwrap()).unwrap().unenforced().is_empty(), "{parts}");
    assert_eq!(
        loaded.objects["policiesNotFullyEnforced"],
        usize::from(!loaded.mistakes.is_empty()),
        "{parts}"
    );
    let facts = InboundFacts {
        client: ClientAddr("10.0.0.1:1".parse().unwrap()),
        peer: None,
        target: "10.0.0.9:80".parse().unwrap(),
        mtls: None,
    };
    let workload = mesh.workload(&WorkloadUid::new("w")).unwrap();
    (authorize_inbound(&mesh, workload, &facts).decision.is_ok(), loaded.mistakes)
}

/// Fails if a mistake in a rule lets anybody in, takes another policy along, or is told without its place.
#[test]
fn a_mistake_never_widens_access_and_costs_only_its_own_rule() {
    for mistaken in [
        "sourceIps: [10.0.0.0/77]",
        "sourceIps: [10.9.0.0/16, nonsense]",
        "sourceIps: 10.0.0.0/8",
        "notSourceIps: [10.0.0.1/33]",
        "destinationPorts: [70000]",
        "destinationPorts: [http]",
        "principals: [{regex: x}]",
        "principals: [{exact: a, prefix: b}]",
        "principals: [7]",
        "namespaces: [{exact: {a: b}}]",
        "serviceAccounts: [a/b]",
        "sourceIp: [10.9.0.0/16]",
        "7: x",
    ] {
        // Only one of the two may name the ports.
        let of_ports = mistaken.starts_with("destinationPorts");
        let rest = if of_ports { "" } else { "destinationPorts: [80], " };
        let (allows, told) = judged("Allow", &format!("rules: [[[{{{rest}{mistaken}}}]]]"));
        assert!(!allows, "{mistaken} lets in");
        assert_eq!(told.len(), 1, "{mistaken}: {told:?}");
        assert!(
            told.iter().all(|told| told.starts_with("state.yaml:5:") && told.contains("`n/p`")),
            "{told:?}"
        );
        for (rest, denies) in
            [("destinationPorts: [80], ", true), ("destinationPorts: [81], ", false), ("", true)]
        {
            let rest = if of_ports { "" } else { rest };
            let (allows, _) = judged("Deny", &format!("rules: [[[{{{rest}{mistaken}}}]]]"));
            assert_eq!(allows, !(denies || rest.is_empty()), "{rest}{mistaken}");
        }
        // A good rule beside it goes on to hold.
        let two = format!("rules: [[[{{{mistaken}}}]], [[{{sourceIps: [10.0.0.1/32]}}]]]");
        assert!(judged("Allow", &two).0, "{mistaken} takes its neighbour along");
    }
}

/// Fails if another policy's mistake changes what a name means that YAML takes for a truth or a number.
#[test]
fn names_are_read_as_they_are_spelled() {
    let text = "policies:\n- {name: no, namespace: 007, scope: Global, action: Deny, \
                rules: [[[{namespaces: [{exact: 007}, {exact: yes}, {prefix: 1.10}], destinationPorts: [0x50]}]]]}\n";
    let exact = loaded(text).unwrap();
    let beside = format!("{text}- {{name: p, namespace: n, scope: Global, action: Deny, colour: red}}\n");
    let lenient = loaded(&beside).unwrap();
    let key = "007/no".parse().unwrap();
    assert_eq!(exact.policy(&key).unwrap().rules[0][0][0].namespaces[2], StringMatch::Prefix("1.10".into()));
    assert_eq!(exact.policy(&key), lenient.policy(&key));
}

/// Fails if a policy that has lost its shape, or has its rules under another name, denies nothing or allows anything.
#[test]
fn a_policy_out_of_shape_denies() {
    for parts in [
        "rules: everything",
        "rules: {destinationPorts: [80]}",
        "rules: [everything]",
        "rules: [[everything]]",
        "rules: [[[everything]]]",
        "rule: [[[{destinationPorts: [80]}]]]",
        "dry_run: true",
        "dryRun: perhaps",
        "dryRun: {7: true}",
    ] {
        let (allows, told) = judged("Deny", parts);
        assert!(!allows && !told.is_empty(), "a denial with {parts}: {told:?}");
        let (allows, _) = judged("Allow", parts);
        assert!(!allows, "an allowance with {parts}");
    }
    let (allows, told) = judged("Allow", "rules: [[[{destinationPorts: [80]}]]], dryrun: true");
    assert!(!allows && told.len() == 1, "{told:?}");
    let (allows, told) = judged("Deny", "rules: [[[{destinationPorts: [81]}]]], dryrun: true");
    assert!(allows && told.len() == 1, "what else it says still counts: {told:?}");
}

#[test]
fn settings_load_with_the_mesh_and_change_with_it() {
    let shared = SharedSnapshot::default();
    let text =
        "settings:\n  mtls: strict\n  namespaces:\n    a:\n      workloads: {web: {mtls: permissive}}\n";
    let loaded = load(Path::new("f"), text, &trust_domain(), &shared).unwrap();
    assert!(loaded.warnings[0].contains("workload `web` is not in the mesh state"), "{:?}", loaded.warnings);
    assert_eq!(shared.load().settings().mtls, MtlsMode::Strict);
    let again = load(Path::new("f"), text, &trust_domain(), &shared).unwrap();
    assert_eq!((loaded.changed, again.changed), (1, 0));
    load(Path::new("f"), "{}", &trust_domain(), &shared).unwrap();
    assert_eq!(*shared.load().settings(), Settings::default(), "what is left out is the default again");
}

#[test]
fn settings_that_cannot_be_meant_are_refused_with_their_place() {
    for (inner, expected) in [
        ("services: {s.example: {mtls: disable}}", "for a workload or its port"),
        ("workloads: {w: {ports: {0: strict}}}", "1 to 65535"),
        ("workloads: {w: {mtls: maybe}}", "maybe"),
        ("default_deny: true", "default_deny"),
    ] {
        let error = loaded(&format!("settings:\n  namespaces:\n    a: {{{inner}}}\n")).unwrap_err();
        assert!(error.starts_with("state.yaml:") && error.contains(expected), "{inner}: {error}");
    }
}

#[test]
fn what_is_wrong_is_refused_with_its_place_and_both_names() {
    let first = "{uid: w1, namespace: a, workloadIps: [10.0.0.1]}";
    for (workload, expected) in [
        ("{uid: w1, namespace: a, workloadIps: []}", &["`w1` is there twice"][..]),
        ("{uid: w2, namespace: a, workloadIps: [10.0.0.1]}", &["`w2`", "/10.0.0.1", "`w1` in line 2"]),
        (
            "{uid: w2, namespace: a, workloadIps: [10.0.0.2, 10.0.0.2]}",
            &["10.0.0.2", "that of workload `w2`"],
        ),
        ("{uid: w2, namespace: a, workloadIps: [nonsense]}", &["IP address"]),
        ("{uid: w2, namespace: a, workloadIps: [], protocol: QUIC}", &["TCP", "HBONE"]),
        ("{uid: w2, namespace: a, workloadIps: [], colour: red}", &["colour", "workloadIps"]),
        ("{uid: w2, namespace: a/b, workloadIps: []}", &["`w2`", "a/b", "path segment"]),
        ("{uid: w2, namespace: a, workloadIps: [], services: {nonsense: {80: 80}}}", &["namespace/hostname"]),
        ("{uid: w2, namespace: a, workloadIps: [], services: {a/b: {80: 0}}}", &["1 to 65535"]),
        ("{namespace: a, workloadIps: []}", &["uid"]),
    ] {
        let error = loaded(&format!("workloads:\n  - {first}\n  - {workload}\n")).unwrap_err();
        assert!(error.starts_with("state.yaml:3:"), "{workload}: {error}");
        assert!(expected.iter().all(|part| error.contains(part)), "{workload}: {error}");
    }
}

#[test]
fn services_and_policies_that_contradict_themselves_are_refused() {
    for (text, expected) in [
        ("services:\n- {name: a, namespace: n, hostname: a, vips: [/10.0.0.0/33]}", "network/ip/length"),
        ("services:\n- {name: a, namespace: n, hostname: a, ports: {0: 80}}", "service ports from 1"),
        ("services:\n- {name: a, namespace: n, hostname: a, loadBalancer: {mode: Nearest}}", "Failover"),
        ("services:\n- {name: a, namespace: n, hostname: a, visibility: Mesh}", "Namespace"),
        (
            "services:\n- {name: a, namespace: n, hostname: a}\n- {name: b, namespace: n, hostname: a}",
            "`n/a` is there twice",
        ),
        ("services:\n- {name: a, namespace: n, hostname: a, vips: [10.0.0.1]}", "network/ip"),
        (
            "services:\n- {name: a, namespace: n, hostname: a, endpoints: {x: {workloadUid: x}}}",
            "`x` is not among the workloads",
        ),
        (
            "policies:\n- {name: p, namespace: n, scope: Global, action: Deny}\n- {name: p, namespace: n, scope: Global, action: Allow}",
            "`n/p` is there twice",
        ),
        (
            "policies:\n- {name: p, namespace: n, scope: Global, action: Reject}",
            "no reading of a policy is safe",
        ),
        (
            "policies:\n- {name: p, namespace: n, scope: Everywhere, action: Deny}",
            "no reading of a policy is safe",
        ),
        ("policies:\n- {namespace: n, scope: Global, action: Deny}", "no reading of a policy is safe"),
        ("policies:\n- deny everything", "expected a policy"),
    ] {
        let error = loaded(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Would break if a reload left something of the state before it, or touched what had not changed.
    #[test]
    fn a_reload_ends_where_a_fresh_load_would(
        before in proptest::collection::btree_map(0u8..6, (0u8..3, any::<bool>()), 0..6),
        after in proptest::collection::btree_map(0u8..6, (0u8..3, any::<bool>()), 0..6),
    ) {
        let mesh = |entries: &std::collections::BTreeMap<u8, (u8, bool)>| {
            let mut text = "workloads: []\n".to_owned();
            let mut list = |title: &str, line: &dyn Fn(u8, u8, bool) -> String| {
                let lines: Vec<_> = entries.iter().map(|(n, (v, b))| line(*n, *v, *b)).collect();
                text.push_str(&format!("{title}: [{}]\n", lines.join(", ")));
            };
            list("services", &|n, v, _| format!("{{name: s, namespace: n, hostname: s{n}, vips: [/10.1.{n}.{v}]}}"));
            list("policies", &|n, _, b| {
                format!("{{name: p{n}, namespace: n, scope: {}, action: Deny}}", if b { "Global" } else { "Namespace" })
            });
            let lines: Vec<_> = entries
                .iter()
                .map(|(n, (v, _))| format!("{{uid: w{n}, namespace: n, workloadIps: [10.0.{n}.{v}], services: {{n/s{v}: {{}}}}}}"))
                .collect();
            text.replacen("workloads: []", &format!("workloads: [{}]", lines.join(", ")), 1)
        };
        let shared = SharedSnapshot::default();
        let path = Path::new("f");
        load(path, &mesh(&before), &trust_domain(), &shared).unwrap();
        let old = shared.load();
        let account = load(path, &mesh(&after), &trust_domain(), &shared).unwrap();
        prop_assert_eq!(&*shared.load(), &*loaded(&mesh(&after)).unwrap());
        prop_assert_eq!(account.changed == 0, *old == *shared.load());
        for workload in shared.load().workloads() {
            if let Some(same) = old.workload(&workload.uid).filter(|old| **old == *workload) {
                prop_assert!(Arc::ptr_eq(same, workload), "an unchanged object was made anew");
            }
        }
    }
}

const ONE: &str = "workloads:\n- {uid: one, namespace: a, workloadIps: [10.0.0.1]}\n";
const TWO: &str = "workloads:\n- {uid: two, namespace: a, workloadIps: [10.0.0.1]}\n";

struct Daemon {
    directory: tempfile::TempDir,
    shared: Arc<SharedSnapshot>,
    file: StateFile,
}

impl Daemon {
    /// `lay` puts the file of the given name in place.
    async fn start(lay: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        lay(directory.path());
        let shared = Arc::new(SharedSnapshot::default());
        let path = directory.path().join("state.yaml");
        let file = StateFile::start(&path, trust_domain(), Arc::clone(&shared)).await.unwrap();
        Self { directory, shared, file }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn uids(&self) -> Vec<String> {
        self.shared.load().workloads().map(|w| w.uid.to_string()).collect()
    }

    /// Waits for a status; the limit only keeps a broken test from hanging.
    async fn until(&self, what: impl FnMut(&FileStatus) -> bool) -> FileStatus {
        let mut status = self.file.status();
        let wait = tokio::time::timeout(Duration::from_secs(30), status.wait_for(what));
        wait.await.expect("the change was not noticed").unwrap().clone()
    }
}

#[tokio::test]
async fn a_bad_edit_keeps_the_last_good_state_and_says_so_until_it_is_mended() {
    let daemon = Daemon::start(|dir| fs::write(dir.join("state.yaml"), ONE).unwrap()).await;
    let good_since = daemon.file.status().borrow().loaded_at;
    assert!(good_since.is_some_and(|at| at <= SystemTime::now()));

    fs::write(daemon.path("state.yaml"), "workloads: nonsense\n").unwrap();
    let status = daemon.until(|status| status.problem.is_some()).await;
    assert_eq!((status.loads, status.failures, status.loaded_at), (1, 1, good_since));
    assert!(status.problem.as_ref().unwrap().error.contains("state.yaml:1:12"), "{status:?}");
    assert_eq!(daemon.uids(), ["one"]);
    let shown = serde_json::to_value(&status).unwrap();
    assert_eq!((&shown["problem"]["reason"], &shown["objects"]["workloads"]), (&"invalid".into(), &1.into()));

    fs::write(daemon.path("state.yaml"), TWO).unwrap();
    daemon.until(|status| status.problem.is_none() && status.loads == 2).await;
    assert_eq!(daemon.uids(), ["two"]);
}

#[tokio::test]
async fn a_file_renamed_into_place_or_gone_and_back_is_noticed() {
    let daemon = Daemon::start(|dir| fs::write(dir.join("state.yaml"), ONE).unwrap()).await;
    fs::write(daemon.path("new"), TWO).unwrap();
    fs::rename(daemon.path("new"), daemon.path("state.yaml")).unwrap();
    daemon.until(|status| status.loads == 2).await;
    assert_eq!(daemon.uids(), ["two"]);

    fs::remove_file(daemon.path("state.yaml")).unwrap();
    let status = daemon.until(|status| status.problem.is_some()).await;
    assert_eq!(status.problem.unwrap().reason, "unreadable");
    assert_eq!(daemon.uids(), ["two"], "a file that vanished empties nothing");
    fs::write(daemon.path("state.yaml"), ONE).unwrap();
    daemon.until(|status| status.problem.is_none()).await;
    assert_eq!(daemon.uids(), ["one"]);
}

#[tokio::test]
async fn the_swapped_links_of_a_config_map_are_followed() {
    let daemon = Daemon::start(|dir| {
        for (version, text) in [("..v1", ONE), ("..v2", TWO)] {
            fs::create_dir(dir.join(version)).unwrap();
            fs::write(dir.join(version).join("state.yaml"), text).unwrap();
        }
        symlink("..v1", dir.join("..data")).unwrap();
        symlink("..data/state.yaml", dir.join("state.yaml")).unwrap();
    })
    .await;
    assert_eq!(daemon.uids(), ["one"]);
    symlink("..v2", daemon.path("..new")).unwrap();
    fs::rename(daemon.path("..new"), daemon.path("..data")).unwrap();
    daemon.until(|status| status.loads == 2).await;
    assert_eq!(daemon.uids(), ["two"]);
    // The way leads elsewhere now, and that is watched too.
    fs::write(daemon.path("..v2/state.yaml"), ONE).unwrap();
    daemon.until(|status| status.loads == 3).await;
    assert_eq!(daemon.uids(), ["one"]);
}

#[tokio::test]
async fn a_daemon_does_not_start_on_a_bad_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.yaml");
    let start = || StateFile::start(&path, trust_domain(), Arc::default());
    assert_eq!(start().await.err().unwrap().reason(), "unreadable");
    fs::write(&path, "").unwrap();
    assert_eq!(start().await.err().unwrap().reason(), "invalid");
    fs::write(&path, "{}").unwrap();
    assert!(start().await.is_ok());
}
