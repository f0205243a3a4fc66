//! The embedded CA below an external PKI, whose agents replace its files.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use model::svid::Leaf;
use testkit::ca::Root;

use super::*;

struct Pki {
    directory: tempfile::TempDir,
    root: Root,
}

impl Pki {
    fn new() -> Self {
        let pki = Self { directory: tempfile::tempdir().unwrap(), root: Root::new("external root") };
        pki.issue("first", &pki.root);
        fs::write(pki.at("ca.crt"), pki.root.pem()).unwrap();
        pki
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A new intermediate in the place of the last, key and certificate one after the other.
    fn issue(&self, name: &str, root: &Root) {
        let (certificate, key) = root.intermediate(name);
        place(&self.at("tls.key"), &key, 0o600);
        place(&self.at("tls.crt"), &certificate, 0o644);
    }

    fn open(&self) -> Result<EmbeddedCa, RootError> {
        let files = CaFiles::Intermediate {
            key: self.at("tls.key"),
            certificate: self.at("tls.crt"),
            roots: self.at("ca.crt"),
        };
        EmbeddedCa::open(files, "cluster.local".parse().unwrap(), LIFETIME, crate::system_clock())
    }

    fn refused(&self) -> String {
        self.open().err().map_or("accepted".to_owned(), |error| error.to_string())
    }
}

fn place(path: &Path, text: &str, mode: u32) {
    let staged = path.with_extension("new");
    fs::write(&staged, text).unwrap();
    fs::set_permissions(&staged, fs::Permissions::from_mode(mode)).unwrap();
    fs::rename(staged, path).unwrap();
}

fn issuer_of(svid: &Svid) -> String {
    let (_, leaf) = x509_parser::parse_x509_certificate(&svid.chain[0]).unwrap();
    leaf.issuer().to_string()
}

fn settings(changes: &Arc<Mutex<Vec<Change>>>) -> CertificateSettings {
    let mut settings = CertificateSettings::new("cluster.local".parse().unwrap());
    let sink = Arc::clone(changes);
    settings.events = Arc::new(move |event| {
        if let CertificateEvent::Changed(what) = event {
            sink.lock().push(what);
        }
    });
    settings
}

#[tokio::test]
async fn what_an_intermediate_signs_comes_with_it_and_chains_to_the_external_root() {
    let certificates = Certificates::start(Pki::new().open().unwrap(), settings(&Arc::default()));
    let svid = certificates.svid(&id("a")).await.unwrap();
    assert_eq!(svid.chain.len(), 2, "leaf and intermediate, never the root");
    assert!(issuer_of(&svid).contains("first"));
    Leaf::parse_own(&svid.chain[0]).unwrap();
    let trust = certificates.trust();
    assert_eq!(trust.bundle(&"cluster.local".parse().unwrap()).unwrap().roots.len(), 1);
}

/// Fails if a new intermediate waits for a restart, or half-written files end what worked.
#[tokio::test]
async fn a_replaced_intermediate_signs_from_then_on_and_is_recorded() {
    let pki = Pki::new();
    let changes = Arc::<Mutex<Vec<Change>>>::default();
    let ca = pki.open().unwrap();
    let certificates = Arc::new(Certificates::start(ca.clone(), settings(&changes)));
    let watch = ca.follow(Arc::clone(&certificates));
    let mut status = watch.status();
    certificates.svid(&id("a")).await.unwrap();
    // A key of which the certificate is not there yet.
    let (certificate, key) = pki.root.intermediate("second");
    place(&pki.at("tls.key"), &key, 0o600);
    status.wait_for(|status| status.problem.is_some()).await.unwrap();
    assert!(issuer_of(&certificates.svid(&id("b")).await.unwrap()).contains("first"));
    place(&pki.at("tls.crt"), &certificate, 0o644);
    status.wait_for(|status| status.problem.is_none()).await.unwrap();
    assert!(issuer_of(&certificates.svid(&id("c")).await.unwrap()).contains("second"));
    assert_eq!(*changes.lock(), [Change::Intermediate]);
    // Another root with an intermediate of its own: the old stays believed beside it.
    let other = Root::new("the next external root");
    place(&pki.at("ca.crt"), other.pem(), 0o644);
    pki.issue("third", &other);
    status.wait_for(|status| status.problem.is_none() && status.loads > 2).await.unwrap();
    assert!(issuer_of(&certificates.svid(&id("d")).await.unwrap()).contains("third"));
    let trust = certificates.trust();
    assert_eq!(trust.bundle(&"cluster.local".parse().unwrap()).unwrap().roots.len(), 2);
    assert!(changes.lock().contains(&Change::Root), "{:?}", changes.lock());
}

#[test]
fn an_intermediate_that_would_not_be_believed_is_refused_with_the_cause() {
    let pki = Pki::new();
    assert_eq!(pki.refused(), "accepted");
    let (other, _) = pki.root.intermediate("other");
    place(&pki.at("tls.crt"), &other, 0o644);
    assert!(pki.refused().contains("is not that of the certificate"), "{}", pki.refused());
    pki.issue("stray", &Root::new("another PKI"));
    assert!(pki.refused().contains("would not be believed"), "{}", pki.refused());
    pki.issue("good", &pki.root);
    fs::set_permissions(pki.at("tls.key"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(pki.refused().contains("chmod 600"), "{}", pki.refused());
    pki.issue("good", &pki.root);
    place(&pki.at("ca.crt"), "nothing", 0o644);
    assert!(pki.refused().contains("found none"), "{}", pki.refused());
}
