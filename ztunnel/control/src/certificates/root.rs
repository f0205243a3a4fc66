//! The root's key and certificate in files: made once, checked at every start.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use model::TrustDomain;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};
use zeroize::Zeroizing;

use super::{embedded::BACKDATED, signing};

const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const MAX_FILE_BYTES: u64 = 64 << 10;
/// Another daemon needs milliseconds to make a root.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error("{path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{path} is readable for others than its owner (mode {mode:o}); cure: `chmod 600 {path}`", path = path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{path} belongs to user {owner}, who could read it; cure: `chown {user} {path}`", path = path.display())]
    Foreign { path: PathBuf, owner: u32, user: u32 },
    #[error("{certificate} is there but its key {key} is not; cure: put the key back, or move the certificate away to \
             have a new root made", certificate = certificate.display(), key = key.display())]
    KeyMissing { key: PathBuf, certificate: PathBuf },
    #[error("{path}: {problem}", path = path.display())]
    Unfit { path: PathBuf, problem: String },
    #[error("the key {key} is not that of the certificate {certificate}", key = key.display(), certificate = certificate.display())]
    Mismatch { key: PathBuf, certificate: PathBuf },
    #[error("{path}: the root certificate is not valid now; cure: move it and its key away to have a new root made, \
             which ends trust in all certificates of the old", path = path.display())]
    NotValidNow { path: PathBuf },
}

impl RootError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Exposed { .. } => "key_exposed",
            Self::Foreign { .. } => "key_of_another_user",
            Self::KeyMissing { .. } => "key_missing",
            Self::Unfit { .. } => "unfit",
            Self::Mismatch { .. } => "key_mismatch",
            Self::NotValidNow { .. } => "not_valid_now",
        }
    }
}

pub(super) struct Root {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) not_after: SystemTime,
}

pub(super) struct RootFiles<'a> {
    pub(super) key: &'a Path,
    pub(super) certificate: &'a Path,
}

impl RootFiles<'_> {
    pub(super) fn open(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Root, RootError> {
        // Both are put in place whole, the certificate last. Given files may stand where nothing can be written.
        if !(self.key.exists() && self.certificate.exists()) {
            self.make(trust_domain, now)?;
        }
        let key = self.read_key()?;
        self.read_certificate(key, trust_domain, now)
    }

    /// Under a lock, as another daemon may be doing the same.
    fn make(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<(), RootError> {
        for file in [self.key, self.certificate] {
            let directory = parent(file);
            fs::create_dir_all(directory).map_err(at(directory))?;
        }
        let lock = self.lock()?;
        if !self.key.exists() {
            if self.certificate.exists() {
                let (key, certificate) = (self.key.to_owned(), self.certificate.to_owned());
                return Err(RootError::KeyMissing { key, certificate });
            }
            let key = KeyPair::generate().map_err(|error| unfit(self.key, error.to_string()))?;
            place(self.key, Zeroizing::new(key.serialize_pem()).as_bytes(), 0o600)?;
        }
        if !self.certificate.exists() {
            // A daemon that died between the two left the key alone; its certificate is as good made later.
            let parameters = root_parameters(trust_domain, now)
                .map_err(|error| unfit(self.certificate, error.to_string()))?;
            let certificate = parameters.self_signed(&self.read_key()?);
            let certificate = certificate.map_err(|error| unfit(self.certificate, error.to_string()))?;
            place(self.certificate, certificate.pem().as_bytes(), 0o644)?;
            tracing::info!(certificate = %self.certificate.display(), %trust_domain, "a new root was made");
        }
        drop(lock);
        Ok(())
    }

    fn lock(&self) -> Result<Flock<File>, RootError> {
        let mut name = self.key.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        let mut file = File::create(&path).map_err(at(&path))?;
        let patience = Instant::now() + LOCK_PATIENCE;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((back, Errno::EWOULDBLOCK)) if Instant::now() < patience => file = back,
                Err((_, error)) => return Err(at(&path)(error.into())),
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn read_key(&self) -> Result<KeyPair, RootError> {
        let file = File::open(self.key).map_err(at(self.key))?;
        let metadata = file.metadata().map_err(at(self.key))?;
        let path = || self.key.to_owned();
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(RootError::Exposed { path: path(), mode });
        }
        let (owner, user) = (metadata.uid(), nix::unistd::geteuid().as_raw());
        if owner != user && owner != 0 {
            return Err(RootError::Foreign { path: path(), owner, user });
        }
        let pem = Zeroizing::new(read(&file, self.key)?);
        // The error of a parser may quote what it parsed.
        KeyPair::from_pem(&pem).map_err(|_| unfit(self.key, "expected a private key in PEM (PKCS #8)"))
    }

    fn read_certificate(
        &self,
        key: KeyPair,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Root, RootError> {
        let path = self.certificate;
        let pem = read(&File::open(path).map_err(at(path))?, path)?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        let certificates: Vec<CertificateDer<'static>> =
            certificates.map_err(|error| unfit(path, error.to_string()))?;
        let [certificate] = &certificates[..] else {
            return Err(unfit(
                path,
                format!("expected one certificate in PEM, found {}", certificates.len()),
            ));
        };
        let not_after = self.check(certificate, &key, trust_domain, now)?;
        let issuer =
            Issuer::from_ca_cert_der(certificate, key).map_err(|error| unfit(path, error.to_string()))?;
        Ok(Root { issuer, certificate: certificate.clone(), not_after })
    }

    fn check(
        &self,
        certificate: &CertificateDer<'static>,
        key: &KeyPair,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<SystemTime, RootError> {
        let path = self.certificate;
        let parsed = X509Certificate::from_der(certificate);
        let (_, parsed) = parsed.map_err(|_| unfit(path, "not an X.509 certificate"))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            let (key, certificate) = (self.key.to_owned(), path.to_owned());
            return Err(RootError::Mismatch { key, certificate });
        }
        let signing =
            signing::check(certificate, Some(trust_domain)).map_err(|problem| unfit(path, problem))?;
        if !signing.is_self_signed {
            return Err(unfit(
                path,
                "expected a self-signed certificate; one of an external PKI belongs under `intermediate`",
            ));
        }
        if now < signing.not_before || now >= signing.not_after {
            return Err(RootError::NotValidNow { path: path.to_owned() });
        }
        Ok(signing.not_after)
    }
}

fn root_parameters(trust_domain: &TrustDomain, now: SystemTime) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
    parameters.distinguished_name.push(DnType::CommonName, "Mesh root");
    parameters.subject_alt_names = vec![SanType::URI(root_name(trust_domain).try_into()?)];
    parameters.serial_number = Some(rcgen::SerialNumber::from_slice(&rand::random::<[u8; 16]>()));
    parameters.not_before = (now - BACKDATED).into();
    parameters.not_after = (now + LIFETIME).into();
    // Signs leaves only.
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(parameters)
}

/// X.509-SVID, section 3.2: an authority's name is its trust domain, without a path.
fn root_name(trust_domain: &TrustDomain) -> String {
    format!("spiffe://{trust_domain}")
}

fn read(file: &File, path: &Path) -> Result<String, RootError> {
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(at(path))?;
    Ok(text)
}

/// Whole or not at all, and never over a file that is there. Made with mode 0600 under another name.
fn place(path: &Path, content: &[u8], mode: u32) -> Result<(), RootError> {
    let directory = parent(path);
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(at(directory))?;
    file.write_all(content).map_err(at(path))?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode)).map_err(at(path))?;
    file.as_file().sync_all().map_err(at(path))?;
    file.persist_noclobber(path).map_err(|error| at(path)(error.error))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(at(directory))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn at(path: &Path) -> impl Fn(io::Error) -> RootError + '_ {
    move |source| RootError::File { path: path.to_owned(), source }
}

fn unfit(path: &Path, problem: impl Into<String>) -> RootError {
    RootError::Unfit { path: path.to_owned(), problem: problem.into() }
}
