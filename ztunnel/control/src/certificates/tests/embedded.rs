//! What the embedded CA signs, and for whom.

use rustls::{RootCertStore, pki_types::UnixTime, server::WebPkiClientVerifier};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::*;

async fn issued(ca: &EmbeddedCa, identity: &SpiffeId, now: SystemTime) -> Svid {
    let request = request::Request::new(identity).unwrap();
    let issued = ca.sign(identity, request.der()).await.unwrap();
    request.into_svid(issued, None, now).unwrap()
}

#[tokio::test]
async fn a_leaf_is_what_the_svid_specification_asks_for() {
    let clock = crate::system_clock();
    let (ca, _files) = embedded_ca(&clock);
    let now = clock();
    let svid = issued(&ca, &id("a"), now).await;
    let (_, leaf) = X509Certificate::from_der(&svid.chain[0]).unwrap();

    assert_eq!(leaf.subject().iter().count(), 0, "the name is the URI alone");
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical && names.value.general_names.len() == 1);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && usage.value.flags.count_ones() == 1);
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    assert!(!leaf.is_ca());
    let backdated = now.duration_since(svid.not_before).unwrap();
    assert!(backdated >= Duration::from_secs(59) && backdated < Duration::from_secs(120), "{backdated:?}");
    let left = svid.not_after.duration_since(now).unwrap();
    assert!(left > LIFETIME - Duration::from_secs(60) && left <= LIFETIME + Duration::from_secs(60));
    assert!(svid.serial.len() >= 28, "128 random bits: {}", svid.serial);
    assert_ne!(svid.serial, issued(&ca, &id("a"), now).await.serial);
}

#[tokio::test]
async fn a_peer_that_knows_the_root_accepts_the_leaf_and_one_of_another_root_does_not() {
    let clock = crate::system_clock();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let ((ours, _a), (other, _b)) = (embedded_ca(&clock), embedded_ca(&clock));
    let svid = issued(&ours, &id("a"), clock()).await;
    for (ca, accepted) in [(&ours, true), (&other, false)] {
        let mut store = RootCertStore::empty();
        store.add(ca.inner().signer().roots[0].clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
            .build()
            .unwrap();
        let verdict = verifier.verify_client_cert(&svid.chain[0], &[], UnixTime::now());
        assert_eq!(verdict.is_ok(), accepted, "{verdict:?}");
    }
}

#[tokio::test]
async fn no_leaf_outlives_the_root_and_a_dead_root_signs_nothing() {
    let offset = Arc::new(Mutex::new(Duration::ZERO));
    let shift = Arc::clone(&offset);
    let clock: Clock = Arc::new(move || SystemTime::now() + *shift.lock());
    let (ca, _files) = embedded_ca(&clock);
    *offset.lock() = Duration::from_secs(10 * 365 * 24 * 3600) - HOUR;
    let svid = issued(&ca, &id("a"), clock()).await;
    assert!(svid.not_after.duration_since(clock()).unwrap() <= HOUR);
    *offset.lock() += 2 * HOUR;
    let request = request::Request::new(&id("a")).unwrap();
    assert_eq!(ca.sign(&id("a"), request.der()).await.unwrap_err().reason(), "root_expired");
}

#[tokio::test]
async fn a_request_for_somebody_else_or_without_its_key_is_refused() {
    let clock = crate::system_clock();
    let (ca, _files) = embedded_ca(&clock);
    let request = request::Request::new(&id("a")).unwrap();
    assert_eq!(ca.sign(&id("b"), request.der()).await.unwrap_err().reason(), "refused");
    let foreign = "spiffe://elsewhere/ns/default/sa/a".parse().unwrap();
    assert_eq!(ca.sign(&foreign, request.der()).await.unwrap_err().reason(), "other_trust_domain");
    let mut forged = request.der().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(ca.sign(&id("a"), &forged.into()).await.unwrap_err().reason(), "refused");
}

#[tokio::test]
async fn an_answer_over_another_key_or_without_a_certificate_is_no_svid() {
    let clock = crate::system_clock();
    let (ca, _files) = embedded_ca(&clock);
    let (mine, other) = (request::Request::new(&id("a")).unwrap(), request::Request::new(&id("a")).unwrap());
    let issued = ca.sign(&id("a"), other.der()).await.unwrap();
    let refused = mine.into_svid(issued.clone(), None, clock()).unwrap_err();
    assert!(refused.to_string().contains("another key"), "{refused}");
    let dated = other.into_svid(issued.clone(), None, clock() + 2 * LIFETIME).unwrap_err();
    assert!(dated.to_string().contains("expired"), "{dated}");
    let nothing = Issued { chain: Vec::new(), ..issued };
    let refused = request::Request::new(&id("a")).unwrap().into_svid(nothing, None, clock()).unwrap_err();
    assert_eq!(refused.reason(), "bad_answer");
}
