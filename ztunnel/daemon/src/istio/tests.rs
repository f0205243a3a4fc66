//! Each variable, and what holds without it.

use super::*;

/// What the chart sets, as an operator's Helm values would leave it.
const CHART: &[(&str, &str)] = &[
    ("CA_ADDRESS", "istiod.mesh.svc:15012"),
    ("XDS_ADDRESS", "istiod.mesh.svc:15012"),
    ("CLUSTER_ID", "overridden"),
    ("ISTIO_META_CLUSTER_ID", "east"),
    ("INPOD_ENABLED", "true"),
    ("TERMINATION_GRACE_PERIOD_SECONDS", "30"),
    ("RUST_LOG", "info"),
    ("RUST_BACKTRACE", "1"),
    ("POD_NAME", "ztunnel-abcde"),
    ("POD_NAMESPACE", "istio-system"),
    ("NODE_NAME", "node7"),
    ("INSTANCE_IP", "10.0.0.7"),
    ("SERVICE_ACCOUNT", "ztunnel"),
    ("ZTUNNEL_CPU_LIMIT", "8"),
    ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
];

fn variables(more: &[(&str, &str)]) -> Variables {
    CHART.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn without(name: &str) -> Variables {
    CHART
        .iter()
        .filter(|(other, _)| *other != name)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn loaded(more: &[(&str, &str)]) -> Value {
    let (config, _) = load(None, &Flags::default(), &variables(more)).unwrap();
    serde_json::to_value(config).unwrap()
}

#[track_caller]
fn error(more: &[(&str, &str)]) -> String {
    error_of(&variables(more))
}

#[track_caller]
fn error_of(variables: &Variables) -> String {
    format!("{:#}", load(None, &Flags::default(), variables).expect_err("it was taken"))
}

/// If a name were not understood, a node would join another mesh than the DaemonSet says, or none.
#[test]
fn the_environment_of_the_chart_is_a_whole_configuration() {
    let config = loaded(&[]);
    let section = |name: &str, address: &str| {
        assert_eq!(config.pointer(&format!("{name}/address")).unwrap(), address);
        assert_eq!(config.pointer(&format!("{name}/rootCertificates")).unwrap(), ROOTS);
        assert_eq!(config.pointer(&format!("{name}/tokenFile")).unwrap(), TOKEN);
    };
    section("/controlPlane", "istiod.mesh.svc:15012");
    section("/certificates/authority", "istiod.mesh.svc:15012");
    for (place, expected) in [
        ("/nodeName", json!("node7")),
        ("/clusterId", json!("east")),
        ("/trustDomain", json!("cluster.local")),
        ("/cni/zdsSocket", json!(ZDS_SOCKET)),
        ("/dns/enabled", json!(true)),
        ("/dns/clusterDomain", json!("cluster.local")),
        ("/certificates/source", json!("istio")),
        ("/certificateLifetime", json!("1day")),
        ("/controlPlane/mode", json!("full")),
        ("/controlPlane/node/pod", json!("ztunnel-abcde")),
        ("/controlPlane/node/namespace", json!("istio-system")),
        ("/controlPlane/node/ip", json!("10.0.0.7")),
        ("/controlPlane/node/metadata", json!({"CLUSTER_ID": "east"})),
        ("/drainDeadline", json!("25s")),
        ("/logLevel", json!("info")),
        ("/logFormat", json!("plain")),
        ("/adminAddress", json!("127.0.0.1:15000")),
        ("/adminSocket", json!("/var/run/ztunnel/admin.sock")),
        ("/metricsAddress", json!("[::]:15020")),
        ("/readinessAddress", json!("[::]:15021")),
        ("/podsFile", json!(null)),
        ("/stateFile", json!(null)),
    ] {
        assert_eq!(config.pointer(place), Some(&expected), "{place}");
    }
    let (_, ignored) = load(None, &Flags::default(), &variables(&[])).unwrap();
    assert_eq!(ignored, ["RUST_BACKTRACE", "SERVICE_ACCOUNT", "ZTUNNEL_CPU_LIMIT"]);
}

#[test]
fn each_variable_says_its_setting() {
    for (name, value, place, expected) in [
        ("XDS_ADDRESS", "https://here:443", "/controlPlane/address", json!("here:443")),
        ("XDS_ROOT_CA", "SYSTEM", "/controlPlane/rootCertificates", json!("system")),
        ("XDS_ROOT_CA", "/r.pem", "/controlPlane/rootCertificates", json!("/r.pem")),
        ("XDS_ROOT_CA", "-----BEGIN", "/controlPlane/rootCertificates", json!("the PEM that was given")),
        ("XDS_ON_DEMAND", "true", "/controlPlane/mode", json!("onDemand")),
        ("CA_ADDRESS", "there:1", "/certificates/authority/address", json!("there:1")),
        ("CA_ROOT_CA", "SYSTEM", "/certificates/authority/rootCertificates", json!("system")),
        ("AUTH_TOKEN", "/token", "/controlPlane/tokenFile", json!("/token")),
        ("AUTH_TOKEN", "/token", "/certificates/authority/tokenFile", json!("/token")),
        ("SECRET_TTL", "3600", "/certificateLifetime", json!("1h")),
        ("SECRET_TTL", "12h0m0s", "/certificateLifetime", json!("12h")),
        ("TRUST_DOMAIN", "example.org", "/trustDomain", json!("example.org")),
        ("CLUSTER_DOMAIN", "corp.local", "/dns/clusterDomain", json!("corp.local")),
        ("CLUSTER_DOMAIN", "corp.local", "/controlPlane/node/clusterDomain", json!("corp.local")),
        ("INPOD_UDS", "/z.sock", "/cni/zdsSocket", json!("/z.sock")),
        ("INPOD_UDS", "/here/z.sock", "/adminSocket", json!("/here/admin.sock")),
        ("ISTIO_META_DNS_CAPTURE", "false", "/dns/enabled", json!(false)),
        ("ISTIO_META_DNS_CAPTURE", "TRUE", "/dns/enabled", json!(true)),
        ("ISTIO_META_NETWORK", "n1", "/controlPlane/node/metadata/NETWORK", json!("n1")),
        ("ISTIO_METAJSON_L", "{\"a\": 1}", "/controlPlane/node/metadata/L/a", json!(1)),
        ("RUST_LOG", "access=warn", "/logLevel", json!("access=warn")),
        ("LOG_LEVEL", "debug", "/logLevel", json!("info")),
        ("LOG_FORMAT", "json", "/logFormat", json!("json")),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "5", "/drainDeadline", json!("4s")),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "0", "/drainDeadline", json!("1s")),
        ("CONNECTION_TERMINATION_DEADLINE", "90s", "/drainDeadline", json!("1m 30s")),
        ("ADMIN_ADDR", "localhost:1", "/adminAddress", json!("127.0.0.1:1")),
        ("STATS_ADDR", "0.0.0.0:2", "/metricsAddress", json!("0.0.0.0:2")),
        ("READINESS_ADDR", "[::1]:3", "/readinessAddress", json!("[::1]:3")),
        ("IPV6_ENABLED", "false", "/metricsAddress", json!("0.0.0.0:15020")),
        ("IPV6_ENABLED", "false", "/readinessAddress", json!("0.0.0.0:15021")),
        ("PROXY_MODE", "shared", "/nodeName", json!("node7")),
        ("PACKET_MARK", "1337", "/nodeName", json!("node7")),
    ] {
        assert_eq!(loaded(&[(name, value)]).pointer(place), Some(&expected), "{name}={value}: {place}");
    }
}

#[test]
fn what_is_not_set_is_as_istio_has_it() {
    let both = without("CA_ADDRESS");
    let (config, _) = load(None, &Flags::default(), &both).unwrap();
    let config = serde_json::to_value(config).unwrap();
    let istiod = "istiod.istio-system.svc:15012";
    assert_eq!(config["certificates"]["authority"]["address"], istiod);
    let (config, _) = load(None, &Flags::default(), &without("XDS_ADDRESS")).unwrap();
    assert_eq!(serde_json::to_value(config).unwrap()["controlPlane"]["address"], istiod);
    let (config, _) = load(None, &Flags::default(), &without("TERMINATION_GRACE_PERIOD_SECONDS")).unwrap();
    assert_eq!(config.drain_deadline.to_string(), DRAIN);
}

#[test]
fn proxy_config_gives_what_no_variable_does() {
    let text = "{discoveryAddress: 'other:1', concurrency: 3, proxyAdminPort: 4, statusPort: 5, binaryPath: /envoy, \
                proxyMetadata: {ISTIO_META_DNS_CAPTURE: 'false', A: b, ISTIO_META_CLUSTER_ID: west}}";
    let config = loaded(&[("PROXY_CONFIG", text), ("XDS_ADDRESS", "istiod.mesh.svc:15012")]);
    assert_eq!(config["controlPlane"]["address"], "istiod.mesh.svc:15012");
    assert_eq!(config["workerThreads"], 3);
    assert_eq!(config["adminAddress"], "127.0.0.1:4");
    assert_eq!(config["metricsAddress"], "[::]:5");
    assert_eq!(config["dns"]["enabled"], false);
    let metadata = json!({"DNS_CAPTURE": "false", "A": "b", "CLUSTER_ID": "east"});
    assert_eq!(config["controlPlane"]["node"]["metadata"], metadata);
    let mut unsaid: Vec<_> = CHART.to_vec();
    unsaid.retain(|(name, _)| *name != "XDS_ADDRESS");
    unsaid.push(("PROXY_CONFIG", text));
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let tree = translate(&unsaid.iter().map(owned).collect(), MeshFile::default()).unwrap();
    assert_eq!(tree["controlPlane"]["address"], "other:1");
}

/// If the order were another, a DaemonSet's own settings would lose against the mesh's defaults.
#[test]
fn the_mesh_configuration_gives_what_neither_variables_nor_proxy_config_do() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "rootNamespace: mesh-root\naccessLogFile: /dev/stdout\ndefaultConfig:\n  concurrency: 3\n  statusPort: 5\n  \
                tracing: {}\n  proxyMetadata: {A: mesh, B: mesh, CLUSTER_ID: west}\n";
    std::fs::write(file.path(), text).unwrap();
    let own = [("PROXY_CONFIG", "{concurrency: 4, proxyMetadata: {B: own}}")];
    let tree = translate(&variables(&own), MeshFile::read(file.path()).unwrap()).unwrap();
    assert_eq!((&tree["workerThreads"], &tree["metricsAddress"]), (&json!(4), &json!("[::]:5")));
    assert_eq!(tree["controlPlane"]["rootNamespace"], "mesh-root");
    let metadata = json!({"A": "mesh", "B": "own", "CLUSTER_ID": "east"});
    assert_eq!(tree["controlPlane"]["node"]["metadata"], metadata);
    // Taken for a name, it would be nobody's, and the real one's broken policies would close nothing but their own.
    for text in ["defaultConfig:\n", "rootNamespace: \"\"\n"] {
        std::fs::write(file.path(), text).unwrap();
        assert_eq!(MeshFile::read(file.path()).unwrap().root_namespace, None);
    }
    std::fs::write(file.path(), format!("#{}\n", " ".repeat(1 << 20))).unwrap();
    let said = format!("{:#}", MeshFile::read(file.path()).unwrap_err());
    assert!(said.contains("at most"), "half of it would be read: {said}");
    std::fs::write(file.path(), "defaultConfig: {concurrency: many}").unwrap();
    let said = format!("{:#}", MeshFile::read(file.path()).unwrap_err());
    assert!(said.contains(file.path().to_str().unwrap()), "{said}");
    assert!(MeshFile::read(Path::new("/nowhere/mesh")).unwrap().root_namespace.is_none());
}

/// Values are credentials as often as not.
#[test]
fn headers_are_taken_and_their_values_shown_nowhere() {
    let given =
        [("XDS_HEADER_X-Tenant", "hunter2 one"), ("CA_HEADER_x_route", "hunter2 two"), ("XDS_HEADER_E", "")];
    let (config, ignored) = load(None, &Flags::default(), &variables(&given)).unwrap();
    assert!(!ignored.iter().any(|name| name.contains("HEADER")), "{ignored:?}");
    let shown = serde_json::to_value(&config).unwrap();
    assert_eq!(shown["controlPlane"]["headers"], json!({"x-tenant": "(hidden)"}));
    assert_eq!(shown["certificates"]["authority"]["headers"], json!({"x_route": "(hidden)"}));
    assert!(!format!("{config:?} {shown}").contains("hunter2"));
    for (name, value, cure) in [
        ("XDS_HEADER_authorization", "Bearer hunter2", "ours to set"),
        ("CA_HEADER_ClusterId", "hunter2", "ours to set"),
        ("XDS_HEADER_grpc-timeout", "hunter2", "ours to set"),
        ("XDS_HEADER_a b", "hunter2", "not the name of a header"),
        ("XDS_HEADER_a", "hunter2\nb: c", "visible ASCII"),
    ] {
        let said = error(&[(name, value)]);
        assert!(said.contains(cure) && !said.contains("hunter2"), "{name}: {said}");
    }
}

#[test]
fn the_mesh_may_be_a_file_and_the_ca_the_daemon_s_own() {
    let local = [("XDS_ADDRESS", ""), ("LOCAL_XDS_PATH", "/mesh.yaml"), ("FAKE_CA", "true")];
    let said = error(&local);
    assert!(said.contains("FAKE_CA=true") && said.contains("--ca-key"), "{said}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{caKey: /k, caCertificate: /c, cni: {zdsSocket: /z}, drainDeadline: 7s}")
        .unwrap();
    let (config, _) = load(Some(file.path()), &Flags::default(), &variables(&local)).unwrap();
    let config = serde_json::to_value(config).unwrap();
    assert_eq!(config["stateFile"], "/mesh.yaml");
    assert_eq!(config["controlPlane"], json!(null));
    assert_eq!(config["certificates"]["source"], "embedded");
    assert_eq!(config["cni"]["zdsSocket"], "/z", "the file goes before Istio's default");
    assert_eq!(config["drainDeadline"], "25s", "the environment goes before the file");
}

/// If a file's part of a section were lost, what an operator made strict would be lenient.
#[test]
fn a_file_adds_to_the_sections_that_the_environment_makes() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "controlPlane: {settings: {mtls: strict}, unusedAfter: 3m}\nlimits: {turns: 9}\n";
    std::fs::write(file.path(), text).unwrap();
    let (config, _) = load(Some(file.path()), &Flags::default(), &variables(&[])).unwrap();
    let config = serde_json::to_value(config).unwrap();
    assert_eq!(config["controlPlane"]["settings"]["mtls"], "strict");
    assert_eq!(config["controlPlane"]["unusedAfter"], "3m");
    assert_eq!(config["controlPlane"]["address"], "istiod.mesh.svc:15012");
    assert_eq!(config["limits"]["turns"], 9);
    std::fs::write(file.path(), "drainDeadlin: 1s").unwrap();
    let unknown = load(Some(file.path()), &Flags::default(), &variables(&[])).unwrap_err();
    assert!(format!("{unknown:#}").contains("drainDeadlin"), "{unknown:#}");
}

#[test]
fn what_would_weaken_or_break_is_refused_with_its_cure() {
    for (name, value, cure) in [
        ("PROXY_MODE", "dedicated", "set `shared`"),
        ("PROXY_MODE", "sidecar", "expected `shared`"),
        ("INPOD_ENABLED", "false", "pods' own namespaces"),
        ("ENABLE_PROXY", "false", "nowhere to go"),
        ("TRANSPARENT_NETWORK_POLICIES", "true", "15008"),
        ("PACKET_MARK", "7", "1337"),
        ("LOCAL_XDS", "workloads: []", "LOCAL_XDS_PATH"),
        ("LOCAL_XDS_PATH", "/mesh.yaml", "set XDS_ADDRESS to nothing"),
        ("ALT_XDS_HOSTNAME", "other", "XDS_ADDRESS"),
        ("ALT_CA_HOSTNAME", "other", "CA_ADDRESS"),
        ("XDS_ADDRESS", "http://istiod:15010", "TLS"),
        ("XDS_ADDRESS", "", "LOCAL_XDS_PATH"),
        ("CA_ADDRESS", "istiod", "TLS"),
        ("CA_ADDRESS", "", "FAKE_CA"),
        ("AUTH_TOKEN", "eyJhbGciOi", "into a file"),
        ("POD_NAME", "", "downward API"),
        ("POD_NAMESPACE", "", "downward API"),
        ("INSTANCE_IP", "", "downward API"),
        ("NODE_NAME", "", "downward API"),
        ("SECRET_TTL", "soon", "SECRET_TTL"),
        ("SECRET_TTL", "5", "at least 1m"),
        ("TRUST_DOMAIN", "Not Valid", "trust domain"),
        ("XDS_ON_DEMAND", "perhaps", "true or false"),
        ("FAKE_CA", "perhaps", "true or false"),
        ("LOG_FORMAT", "xml", "json or plain"),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "long", "TERMINATION_GRACE_PERIOD_SECONDS"),
        ("STATS_ADDR", "15020", "IP:PORT"),
        ("PROXY_CONFIG", "concurrency: many", "PROXY_CONFIG"),
        ("ISTIO_METAJSON_L", "{", "ISTIO_METAJSON_L"),
    ] {
        let said = error(&[(name, value)]);
        assert!(said.contains(cure), "{name}={value}: {said}");
        assert!(!said.contains("eyJhbGciOi"), "a token was told: {said}");
    }
}

/// The table is what operators read before they switch.
#[test]
fn the_table_has_every_variable() {
    let table = include_str!("../../../../docs/ISTIO.md");
    let sources =
        [include_str!("../istio.rs"), include_str!("unsupported.rs"), include_str!("proxy_config.rs")];
    let is_name = |text: &&str| {
        text.contains('_')
            && text.bytes().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'_' | b'0'..=b'9'))
    };
    let names: Vec<_> = sources.iter().flat_map(|source| source.split('"')).filter(is_name).collect();
    assert!(names.len() > 50, "{names:?}");
    // Those of one word, and what tools of Istio's look for.
    let others =
        ["NETWORK", "PROXY_MODE", "FAKE_CA", "RUST_LOG", "LOG_FORMAT", "rootNamespace", "defaultConfig"];
    for name in names.into_iter().chain(others) {
        assert!(table.contains(&format!("`{name}")), "docs/ISTIO.md does not say what becomes of {name}");
    }
}
