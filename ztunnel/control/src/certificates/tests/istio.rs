//! The client of Istio's CA against a real one that misbehaves, over real TLS.

use std::{fs, path::Path};

use proto::{certificates::IstioCertificateRequest, prost::Message, tonic::Code};
use testkit::ca::{Behaviour, Ca};
use x509_parser::{certification_request::X509CertificationRequest, prelude::*};

use super::*;
use crate::{ChannelSettings, IstioCa};

struct Node {
    ca: Ca,
    certificates: Certificates,
}

fn channel(ca: &Ca, token_file: Option<&Path>) -> ChannelSettings {
    ChannelSettings {
        address: ca.address().to_string().parse().unwrap(),
        roots: ca.tls_root_pem().parse().unwrap(),
        token_file: token_file.map(Into::into),
        cluster_id: "Kubernetes".to_owned(),
        headers: crate::RequestHeaders::default(),
        connect_deadline: Duration::from_secs(5),
    }
}

fn node(token_file: Option<&Path>) -> Node {
    let ca = Ca::start_here(3).unwrap();
    let authority = IstioCa::new(channel(&ca, token_file), LIFETIME);
    let mut settings = CertificateSettings::new("cluster.local".parse().unwrap());
    settings.issue_deadline = Duration::from_secs(3);
    Node { certificates: Certificates::start(authority, settings), ca }
}

impl Node {
    fn roots(&self) -> Vec<String> {
        let trust = self.certificates.trust();
        let bundle = trust.bundle(&"cluster.local".parse().unwrap()).unwrap();
        bundle.roots.iter().map(|root| format!("{root:?}")).collect()
    }

    async fn until_there_is_one(&self, identity: &SpiffeId) -> Arc<Svid> {
        let trying = async {
            loop {
                if let Ok(svid) = self.certificates.svid(identity).await {
                    return svid;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), trying).await.expect("no certificate came")
    }
}

/// The request is the one that Istio's own proxy was recorded to make (fixture `ca.txt`, `ca-csr.txt`).
#[tokio::test]
async fn a_request_is_what_istio_s_proxy_sends() {
    let token = tempfile::NamedTempFile::new().unwrap();
    fs::write(token.path(), "fixture-token\n").unwrap();
    let node = node(Some(token.path()));
    let svid = node.certificates.svid(&id("sa-c2")).await.unwrap();
    assert_eq!(svid.identity, id("sa-c2"));
    let [asked] = &node.ca.asked()[..] else { panic!("one request is enough") };
    assert_eq!(asked.identity, "spiffe://cluster.local/ns/default/sa/sa-c2");
    assert_eq!(asked.authorization.as_deref(), Some("Bearer fixture-token"));
    assert_eq!((asked.cluster_id.as_deref(), asked.seconds), (Some("Kubernetes"), 86400));
    assert!(asked.csr.lines().all(|line| line.len() <= 64), "{}", asked.csr);
    let (_, pem) = parse_x509_pem(asked.csr.as_bytes()).unwrap();
    assert_eq!(pem.label, "CERTIFICATE REQUEST");
    let (_, csr) = X509CertificationRequest::from_der(&pem.contents).unwrap();
    csr.verify_signature().unwrap();
    assert_eq!(csr.certification_request_info.subject.iter().count(), 0);
    assert_eq!(
        csr.certification_request_info.subject_pki.algorithm.algorithm.to_string(),
        "1.2.840.10045.2.1"
    );
    let extensions: Vec<_> = csr.requested_extensions().unwrap().collect();
    let [ParsedExtension::SubjectAlternativeName(names)] = &extensions[..] else { panic!("{extensions:?}") };
    assert!(matches!(names.general_names[..], [GeneralName::URI(uri)] if uri == asked.identity));
}

const RECORDED: &str = include_str!("../../../tests/fixtures/istio/ca.txt");
const RECORDED_CSR: &str = include_str!("../../../tests/fixtures/istio/ca-csr.pem");

/// But for the key and its signature, nothing may differ: a CA of Istio's reads it, and its policy may look at all of it.
#[tokio::test]
async fn requests_are_those_that_were_recorded() {
    let recorded = RECORDED.lines().filter(|line| line.contains("protobuf hex") && line.len() > 1000);
    let recorded: Vec<_> = recorded
        .map(|line| {
            let hex = line.trim().trim_start_matches("protobuf hex ");
            let bytes: Vec<u8> = (0..hex.len() / 2)
                .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
                .collect();
            IstioCertificateRequest::decode(&bytes[..])
        })
        // Answers of the recorder among them.
        .filter_map(|decoded| decoded.ok().filter(|request| request.csr.contains("REQUEST")))
        .collect();
    assert_eq!(recorded.len(), 6, "one, four that it made again, and a renewal");
    let identity = id("sa-c2");
    let request = request::Request::new(&identity).unwrap();
    let mut ours = crate::certificates::istio::message(&identity, request.der(), LIFETIME);
    let our_csr = std::mem::take(&mut ours.csr);
    for mut theirs in recorded {
        let their_csr = std::mem::take(&mut theirs.csr);
        assert_eq!(theirs, ours);
        assert_eq!(without_key(&their_csr), without_key(&our_csr));
    }
    assert_eq!(without_key(RECORDED_CSR), without_key(&our_csr));
}

/// Everything that a request says but its key and signature, in DER.
fn without_key(csr: &str) -> [Vec<u8>; 4] {
    let (_, pem) = parse_x509_pem(csr.as_bytes()).unwrap();
    let (_, csr) = X509CertificationRequest::from_der(&pem.contents).unwrap();
    let info = &csr.certification_request_info;
    let attributes = info.iter_attributes().map(|attribute| attribute.value).collect::<Vec<_>>().concat();
    let algorithm = &info.subject_pki.algorithm;
    let curve = algorithm.parameters.as_ref().unwrap().data;
    [info.subject.as_raw().to_vec(), attributes, curve.to_vec(), vec![u8::try_from(info.version.0).unwrap()]]
}

/// Fails if an answer is believed that a peer would not believe, or one bad answer spoils the next good one.
#[tokio::test]
async fn whatever_a_ca_answers_is_checked_before_use_and_tried_again() {
    let other = id("other").to_string();
    for (behaviour, reason, told) in [
        (Behaviour::AnotherIdentity(other), "bad_answer", "another identity"),
        (Behaviour::AnotherKey, "bad_answer", "another key"),
        (Behaviour::Expired, "bad_answer", "expired"),
        (Behaviour::NotValidYet, "bad_answer", "chain does not hold"),
        (Behaviour::WrongRoot, "bad_answer", "chain does not hold"),
        (Behaviour::Signing, "bad_answer", "signing certificate"),
        (Behaviour::EmptyChain, "bad_answer", "an empty chain"),
        (Behaviour::NoRoot, "bad_answer", "chain does not hold"),
        (Behaviour::Garbage, "bad_answer", "PEM"),
        (Behaviour::Flood, "refused", "OutOfRange"),
        (Behaviour::Refuse(Code::PermissionDenied), "refused", "PermissionDenied"),
        (Behaviour::Refuse(Code::Unauthenticated), "unauthenticated", "token"),
        (Behaviour::Refuse(Code::Unavailable), "unreachable", "not today"),
        (Behaviour::Silent, "deadline", "in time"),
    ] {
        let failures = Arc::<Mutex<Vec<&'static str>>>::default();
        let mut node = node(None);
        let mut settings = CertificateSettings::new("cluster.local".parse().unwrap());
        settings.issue_deadline = Duration::from_secs(2);
        let sink = Arc::clone(&failures);
        settings.events = Arc::new(move |event| {
            if let CertificateEvent::Failed { reason, .. } = event {
                sink.lock().push(reason);
            }
        });
        node.certificates = Certificates::start(IstioCa::new(channel(&node.ca, None), LIFETIME), settings);
        node.ca.change(|mood| mood.behaviour = behaviour.clone());
        let error = node.certificates.svid(&id("a")).await.unwrap_err().to_string();
        assert!(error.contains(told), "{behaviour:?}: {error}");
        assert_eq!(failures.lock()[0], reason, "{behaviour:?}: {error}");
        assert!(node.roots().is_empty(), "{behaviour:?}: roots of a bad answer are believed");
        node.ca.change(|mood| mood.behaviour = Behaviour::Good);
        node.until_there_is_one(&id("a")).await;
    }
}

/// Fails if a CA that takes its time is given up, or is asked again for what it is about to give.
#[tokio::test]
async fn a_slow_ca_is_waited_for_and_asked_once() {
    let node = node(None);
    node.ca.change(|mood| mood.delay = Duration::from_secs(1));
    let identity = id("a");
    let both = tokio::join!(node.certificates.svid(&identity), node.certificates.svid(&identity));
    assert!(Arc::ptr_eq(&both.0.unwrap(), &both.1.unwrap()));
    assert_eq!(node.ca.asked().len(), 1);
}

/// Fails if the token is read but once, or a refusal ends the attempts.
#[tokio::test]
async fn an_expired_token_is_read_anew_with_each_attempt() {
    let token = tempfile::NamedTempFile::new().unwrap();
    fs::write(token.path(), "old").unwrap();
    let node = node(Some(token.path()));
    node.ca.change(|mood| mood.token = Some("new".to_owned()));
    let error = node.certificates.svid(&id("a")).await.unwrap_err().to_string();
    assert!(error.contains("token") && !error.contains("old"), "{error}");
    fs::write(token.path(), "new").unwrap();
    node.until_there_is_one(&id("a")).await;
}

#[tokio::test]
async fn many_fetches_share_a_connection_and_one_that_is_gone_is_replaced() {
    let mut node = node(None);
    for name in ["a", "b", "c"] {
        node.certificates.svid(&id(name)).await.unwrap();
    }
    assert!(node.ca.asked().iter().all(|asked| asked.connection == 1));
    let tls = channel(&node.ca, None);
    drop(node.ca);
    let error = node.certificates.svid(&id("d")).await.unwrap_err();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    // Another one, that is to be found elsewhere and has other roots for its TLS.
    node.ca = Ca::start_here(1).unwrap();
    let elsewhere =
        IstioCa::new(ChannelSettings { address: tls.address, ..channel(&node.ca, None) }, LIFETIME);
    let request = request::Request::new(&id("d")).unwrap();
    assert_eq!(elsewhere.sign(&id("d"), request.der()).await.unwrap_err().reason(), "unreachable");
    let there = IstioCa::new(channel(&node.ca, None), LIFETIME);
    there.sign(&id("d"), request.der()).await.unwrap();
}

/// Fails if a rotation of roots at the CA takes trust away from peers that still have certificates of the old.
#[tokio::test]
async fn roots_overlap_while_the_ca_goes_from_one_to_the_next() {
    let node = node(None);
    node.certificates.svid(&id("a")).await.unwrap();
    let old = node.roots();
    assert_eq!(old.len(), 1);
    node.ca.change(|mood| mood.announced = vec![0, 1]);
    node.certificates.svid(&id("b")).await.unwrap();
    assert_eq!(node.roots().len(), 2);
    node.ca.change(|mood| (mood.signing, mood.announced) = (1, vec![1]));
    node.certificates.svid(&id("c")).await.unwrap();
    assert_eq!(node.roots().len(), 2, "a certificate lives that came with the old root");
    assert!(node.roots().contains(&old[0]));
}
