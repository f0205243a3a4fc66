//! Layers, defaults and errors.

use std::fs;

use super::*;

const COMPLETE: &str = "stateFile: /s\npodsFile: /p\ncaKey: /k\ncaCertificate: /c\ncgroupRoot: /g\n";

fn load_text(text: &str, flags: &Flags) -> anyhow::Result<Config> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    load(Some(file.path()), flags)
}

#[test]
fn what_is_given_goes_before_the_file_and_the_file_before_the_defaults() {
    let text = format!("{COMPLETE}drainDeadline: 5s\nnodeName: from-file\n");
    let flags = Flags { node_name: Some("given".to_owned()), ..Flags::default() };
    let config = load_text(&text, &flags).unwrap();
    assert_eq!(config.node_name, "given");
    assert_eq!(config.drain_deadline, Span(Duration::from_secs(5)));
    assert_eq!(config.certificate_lifetime, Span(Duration::from_secs(86400)));
}

/// If not, pods whose port 53 a CNI redirects would resolve nothing.
#[test]
fn dns_is_on_behind_a_cni_unless_it_is_turned_off() {
    let enabled = |text: &str| load_text(text, &Flags::default()).unwrap().dns.enabled();
    assert!(!enabled(COMPLETE));
    let cni = COMPLETE.replace("podsFile: /p\n", "cni: {zdsSocket: /z}\n");
    assert!(enabled(&cni));
    assert!(!enabled(&format!("{cni}dns: {{enabled: false}}\n")));
}

/// Two lists of pods would each let go of what the other has.
#[test]
fn one_source_names_the_pods() {
    let error = |text: &str| format!("{:#}", load_text(text, &Flags::default()).unwrap_err());
    let kubernetes = COMPLETE.replace("podsFile: /p\n", "podSource: kubernetes\n");
    assert!(error(&kubernetes).contains("nodeName is not set"));
    let complete = format!("{kubernetes}nodeName: node1\n");
    load_text(&format!("{complete}cni: {{plugin: {{install: {{}}}}}}\n"), &Flags::default()).unwrap();
    assert!(error(&format!("{complete}podsFile: /p\n")).contains("more than one of podsFile"));
    assert!(error(&format!("{complete}cni: {{zdsSocket: /z}}\n")).contains("more than one of podsFile"));
    let cni = COMPLETE.replace("podsFile: /p\n", "cni: {zdsSocket: /z}\n");
    assert!(error(&format!("{cni}sameNode: direct\n")).contains("does not vouch"));
    assert!(error(&format!("{COMPLETE}cni: {{plugin: {{}}}}\n")).contains("set podSource: kubernetes"));
    assert!(error(&format!("{complete}cni: {{plugin: {{timeoutSeconds: 0}}}}\n")).contains("1 to 100"));
    assert!(error(&format!("{complete}cni: {{plugin: {{socket: s}}}}\n")).contains("cni.plugin.socket"));
}

#[test]
fn errors_name_the_place_and_the_cure() {
    let error = |text: &str| format!("{:#}", load_text(text, &Flags::default()).unwrap_err());
    assert!(error("stateFile: /s\n").contains("podsFile is not set"), "missing");
    let section = "controlPlane: {address: 'istiod:15012', rootCertificates: system";
    let both = error(&format!("{COMPLETE}{section}}}\n"));
    assert!(both.contains("give one"), "{both}");
    let neither = error(&COMPLETE.replace("stateFile: /s\n", ""));
    assert!(neither.contains("stateFile is not set") && neither.contains("controlPlane"), "{neither}");
    let plain = error(&format!("{COMPLETE}{}}}\n", section.replace("'istiod", "'http://istiod")));
    assert!(plain.contains("TLS"), "{plain}");
    let zero = error(&COMPLETE.replace("stateFile: /s", &format!("{section}, patience: 0s}}")));
    assert!(zero.contains("controlPlane.patience"), "{zero}");
    let ca = COMPLETE.replace("caKey: /k\n", "");
    assert!(error(&ca).contains("caKey is not set"), "{}", error(&ca));
    let nobody = error(&format!("{ca}certificates: {{source: istio}}\n"));
    assert!(nobody.contains("certificates.authority"), "{nobody}");
    let both = error(&format!("{COMPLETE}certificates: {{trustDomainAliases: [a], bundles: {{a: /a}}}}\n"));
    assert!(both.contains("alias"), "{both}");
    let authority = "authority: {address: 'ca:15012', rootCertificates: system}";
    load_text(&format!("{ca}certificates: {{source: istio, {authority}}}\n"), &Flags::default()).unwrap();
    let unknown = error(&format!("{COMPLETE}drainDeadlin: 5s\n"));
    assert!(unknown.contains("drainDeadlin") && unknown.contains('6'), "{unknown}");
    assert!(error(&format!("{COMPLETE}drainDeadline: soon\n")).contains("drainDeadline"));
    assert!(error(&format!("{COMPLETE}workerThreads: 0\n")).contains("1 to 1024"));
    for open in ["0.0.0.0:15000", "[::]:15000", "10.0.0.1:15000"] {
        let open = error(&format!("{COMPLETE}adminAddress: '{open}'\n"));
        assert!(open.contains("adminAddress") && open.contains("127.0.0.1:15000"), "{open}");
    }
    assert!(error(&format!("{COMPLETE}trustDomain: Not Valid\n")).contains("trust domain"));
    let sample = error(&format!("{COMPLETE}accessLog: {{sample: 1.5}}\n"));
    assert!(sample.contains("expected a fraction from 0 to 1, found 1.5"), "{sample}");
}

/// If not, the example with everything commented out would be refused.
#[test]
fn a_file_that_says_nothing_changes_nothing() {
    let flags = Flags {
        state_file: Some("/s".into()),
        pods_file: Some("/p".into()),
        ca_key: Some("/k".into()),
        ca_certificate: Some("/c".into()),
        ..Flags::default()
    };
    let config = load_text("# nodeName: later\n", &flags).unwrap();
    assert_eq!(config.trust_domain.as_str(), "cluster.local");
}
