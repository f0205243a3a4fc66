//! Whom to believe: what comes with certificates, what files say, and what is told of changes.

use std::{fs, path::Path, slice::from_ref};

use model::{TrustDomain, TrustDomains, svid::TrustBundle};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;

use super::{
    super::trust::{MAX_ROOTS, TrustStore},
    *,
};

fn domain(text: &str) -> TrustDomain {
    text.parse().unwrap()
}

/// A self-signed authority, and what the test makes of it.
fn root_with(change: impl FnOnce(&mut CertificateParams)) -> rcgen::Certificate {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    change(&mut parameters);
    parameters.self_signed(&KeyPair::generate().unwrap()).unwrap()
}

fn root() -> CertificateDer<'static> {
    root_with(|_| ()).der().clone()
}

struct Watched {
    store: TrustStore,
    changes: Arc<Mutex<Vec<Change>>>,
}

impl Watched {
    fn new() -> Self {
        let changes = Arc::<Mutex<Vec<Change>>>::default();
        let sink = Arc::clone(&changes);
        let events: EventSink = Arc::new(move |event| {
            if let CertificateEvent::Changed(what) = event {
                sink.lock().push(what);
            }
        });
        let domains = TrustDomains::new(domain("own"), [], [domain("partner")]);
        Self { store: TrustStore::new(domain("own"), domains, events), changes }
    }

    fn roots(&self, name: &str) -> Vec<CertificateDer<'static>> {
        self.store.current().bundle(&domain(name)).map(|bundle| bundle.roots.clone()).unwrap_or_default()
    }

    fn changes(&self) -> Vec<Change> {
        std::mem::take(&mut self.changes.lock())
    }
}

/// Fails if a rotation leaves a moment in which one of two generations of peers is refused.
#[test]
fn a_root_is_believed_while_a_certificate_lives_that_came_with_it() {
    let (watched, old, new) = (Watched::new(), root(), root());
    let (now, store) = (SystemTime::now(), &watched.store);
    store.learn(from_ref(&old), now + HOUR, now);
    assert!(watched.changes().is_empty(), "to be known for the first time is no change");
    store.learn(from_ref(&new), now + 2 * HOUR, now + HOUR / 2);
    assert_eq!(watched.roots("own"), [old, new.clone()]);
    store.forget(now + HOUR / 2 + HOUR);
    assert_eq!(watched.roots("own"), *from_ref(&new));
    assert_eq!(watched.changes(), [Change::Root; 2]);
    store.forget(now + 10 * HOUR);
    assert_eq!(watched.roots("own"), [new], "the last is kept however long nothing was heard");
    assert!(watched.changes().is_empty());
}

#[test]
fn an_authority_with_a_new_root_each_time_does_not_fill_memory() {
    let (watched, now) = (Watched::new(), SystemTime::now());
    for number in 0..200u32 {
        let root = number.to_be_bytes().to_vec().into();
        watched.store.learn(&[root], now + HOUR + Duration::from_secs(number.into()), now);
    }
    assert_eq!(watched.roots("own").len(), MAX_ROOTS);
    assert_eq!(watched.roots("own")[0][..], 199u32.to_be_bytes(), "the newest stay");
}

/// Fails if what an authority hands out widens what a file says.
#[test]
fn a_file_s_bundle_goes_before_what_comes_with_certificates() {
    let (watched, given, other) = (Watched::new(), root(), root());
    let now = SystemTime::now();
    let bundle = |name: &str, root: &CertificateDer<'static>| TrustBundle {
        trust_domain: domain(name),
        roots: vec![root.clone()],
    };
    watched.store.give(bundle("own", &given));
    watched.store.learn(from_ref(&other), now + HOUR, now);
    assert_eq!(watched.roots("own"), [given]);
    assert!(watched.roots("partner").is_empty());
    watched.store.give(bundle("partner", &other));
    assert_eq!(watched.roots("partner"), [other]);
    assert!(watched.changes().is_empty());
    watched.store.give(bundle("partner", &root()));
    assert_eq!(watched.changes(), [Change::Bundle]);
}

fn read(text: &str) -> Result<(Vec<CertificateDer<'static>>, Vec<String>), crate::FileError> {
    bundle::roots(Path::new("bundle"), text, &domain("partner"), SystemTime::now())
}

fn base64(certificate: &rcgen::Certificate) -> String {
    certificate.pem().lines().filter(|line| !line.starts_with("-----")).collect()
}

#[test]
fn bundles_come_as_pem_and_as_spiffe_bundles() {
    let (one, two) = (root_with(|_| ()), root_with(|_| ()));
    let (both, _) = read(&format!("{}{}{}", one.pem(), two.pem(), one.pem())).unwrap();
    assert_eq!(both, [one.der().clone(), two.der().clone()]);
    let json = serde_json::json!({
        "spiffe_sequence": 12, "spiffe_refresh_hint": 600,
        "keys": [
            { "use": "x509-svid", "kty": "EC", "crv": "P-256", "x5c": [base64(&one)] },
            { "use": "jwt-svid", "kty": "EC", "kid": "a", "x": "..", "y": ".." },
            { "kty": "EC" },
        ],
    });
    assert_eq!(read(&json.to_string()).unwrap().0, [one.der().clone()]);
    assert!(read(r#"{"keys": []}"#).unwrap().0.is_empty(), "a trust domain may end");
    let expired = root_with(|p| p.not_after = rcgen::date_time_ymd(2000, 1, 1));
    assert!(read(&expired.pem()).unwrap().1[0].contains("expired"));
}

/// X509-SVID specification, sections 3.2, 4.1, 4.3 and 6.
#[test]
fn what_cannot_vouch_for_a_trust_domain_is_refused_with_the_cause() {
    let uri = |uri: &str| SanType::URI(uri.try_into().unwrap());
    let one = root_with(|_| ());
    for (text, cause) in [
        (String::new(), "neither"),
        ("nonsense".to_owned(), "neither"),
        (root_with(|p| p.is_ca = IsCa::ExplicitNoCa).pem(), "authority"),
        (root_with(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]).pem(), "keyCertSign"),
        (root_with(|p| p.subject_alt_names = vec![uri("spiffe://other")]).pem(), "trust domain other"),
        (root_with(|p| p.subject_alt_names = vec![uri("spiffe://partner/a")]).pem(), "without a path"),
        (r#"{"keys": [{"use": "x509-svid"}]}"#.to_owned(), "x5c"),
        (r#"{"keys": [{"use": "x509-svid", "x5c": ["AAAA"]}]}"#.to_owned(), "X.509"),
        (
            format!(r#"{{"keys": [{{"use": "x509-svid", "x5c": ["{0}", "{0}"]}}]}}"#, base64(&one)),
            "needs one",
        ),
        (r#"{"keys": 1}"#.to_owned(), "sequence"),
    ] {
        let error = read(&text).unwrap_err().to_string();
        assert!(error.contains(cause), "{error} should tell of {cause}");
    }
    read(&root_with(|p| p.subject_alt_names = vec![uri("spiffe://partner")]).pem()).unwrap();
}

/// Fails if a change of the file waits for a restart, or a bad edit takes trust away.
#[tokio::test]
async fn a_bundle_file_is_followed_and_a_bad_edit_changes_nothing() {
    let (ca, _files) = embedded_ca(&crate::system_clock());
    let mut settings = CertificateSettings::new(domain("cluster.local"));
    settings.trust_domains = TrustDomains::new(domain("cluster.local"), [], [domain("partner")]);
    let certificates = Arc::new(Certificates::start(ca, settings));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("partner.pem");
    assert!(BundleFile::start(&path, domain("partner"), Arc::clone(&certificates)).await.is_err());
    let (first, second) = (root_with(|_| ()), root_with(|_| ()));
    fs::write(&path, first.pem()).unwrap();
    let file = BundleFile::start(&path, domain("partner"), Arc::clone(&certificates)).await.unwrap();
    let believed = || certificates.trust().bundle(&domain("partner")).unwrap().roots.clone();
    assert_eq!(believed(), [first.der().clone()]);
    let mut status = file.status();
    fs::write(&path, "half a fi").unwrap();
    status.wait_for(|status| status.problem.is_some()).await.unwrap();
    assert_eq!(believed(), [first.der().clone()]);
    fs::write(&path, first.pem() + &second.pem()).unwrap();
    status.wait_for(|status| status.problem.is_none()).await.unwrap();
    assert_eq!(believed(), [first.der().clone(), second.der().clone()]);
}
