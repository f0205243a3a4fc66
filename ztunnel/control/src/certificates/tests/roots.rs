//! How roots are made, kept and refused.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
};

use super::*;

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn key(&self) -> PathBuf {
        self.0.path().join("ca/key.pem")
    }

    fn certificate(&self) -> PathBuf {
        self.0.path().join("ca/root.pem")
    }

    fn open_at(&self, trust_domain: &str, clock: Clock) -> Result<EmbeddedCa, RootError> {
        let files = CaFiles::Root { key: self.key(), certificate: self.certificate() };
        EmbeddedCa::open(files, trust_domain.parse().unwrap(), LIFETIME, clock)
    }

    fn open(&self) -> Result<EmbeddedCa, RootError> {
        self.open_at("cluster.local", crate::system_clock())
    }

    fn refused(&self) -> &'static str {
        self.open().err().map_or("accepted", |error| error.reason())
    }
}

fn roots_of(ca: &EmbeddedCa) -> Vec<rustls_pki_types::CertificateDer<'static>> {
    ca.inner().signer().roots.clone()
}

fn mode(path: PathBuf) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_root_is_made_on_first_use_with_a_private_key_and_kept() {
    let files = Files::new();
    let first = files.open().unwrap();
    assert_eq!((mode(files.key()), mode(files.certificate())), (0o600, 0o644));
    assert_eq!(roots_of(&first), roots_of(&files.open().unwrap()));
    let left: Vec<_> =
        fs::read_dir(files.0.path().join("ca")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "key, certificate and lock, nothing half-made: {left:?}");
}

#[test]
fn daemons_that_start_at_once_agree_on_one_root() {
    let files = Files::new();
    let roots: Vec<_> = std::thread::scope(|scope| {
        let opening: Vec<_> = (0..8).map(|_| scope.spawn(|| roots_of(&files.open().unwrap()))).collect();
        opening.into_iter().map(|opening| opening.join().unwrap()).collect()
    });
    assert!(roots.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_daemon_that_died_between_key_and_certificate_left_no_harm() {
    let files = Files::new();
    files.open().unwrap();
    let key = fs::read(files.key()).unwrap();
    fs::remove_file(files.certificate()).unwrap();
    files.open().unwrap();
    assert_eq!(fs::read(files.key()).unwrap(), key);
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_cure() {
    let files = Files::new();
    files.open().unwrap();
    for exposed in [0o640, 0o604, 0o660] {
        fs::set_permissions(files.key(), fs::Permissions::from_mode(exposed)).unwrap();
        let error = files.open().err().unwrap();
        assert_eq!(error.reason(), "key_exposed");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
    fs::set_permissions(files.key(), fs::Permissions::from_mode(0o400)).unwrap();
    files.open().unwrap();
    if nix::unistd::geteuid().is_root() {
        chown(files.key(), Some(12345), None).unwrap();
        assert_eq!(files.refused(), "key_of_another_user");
    }
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let (files, other) = (Files::new(), Files::new());
    files.open().unwrap();
    other.open().unwrap();
    fs::copy(other.certificate(), files.certificate()).unwrap();
    assert_eq!(files.refused(), "key_mismatch");
    fs::remove_file(files.key()).unwrap();
    assert_eq!(files.refused(), "key_missing");
    fs::write(other.certificate(), "nonsense").unwrap();
    assert_eq!(other.refused(), "unfit");
    fs::write(other.key(), "nonsense").unwrap();
    let error = other.open().err().unwrap();
    assert_eq!(error.reason(), "unfit");
    assert!(!error.to_string().contains("nonsense"), "what a key file holds is never shown");
}

#[test]
fn a_root_of_another_time_or_trust_domain_is_refused() {
    let files = Files::new();
    files.open().unwrap();
    let later: Clock = Arc::new(|| SystemTime::now() + Duration::from_secs(11 * 365 * 24 * 3600));
    assert_eq!(files.open_at("cluster.local", later).err().unwrap().reason(), "not_valid_now");
    let error = files.open_at("elsewhere", crate::system_clock()).err().unwrap();
    assert_eq!(error.reason(), "other_trust_domain");
    assert!(error.to_string().contains("elsewhere"), "{error}");
}

#[test]
fn a_leaf_is_no_root() {
    let files = Files::new();
    files.open().unwrap();
    let key = rcgen::KeyPair::from_pem(&fs::read_to_string(files.key()).unwrap()).unwrap();
    let leaf =
        rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    fs::write(files.certificate(), leaf.pem()).unwrap();
    assert_eq!(files.refused(), "unfit");
}
