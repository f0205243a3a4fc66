//! The mesh's own root in files: made once, checked whenever it is read.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use model::TrustDomain;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::{
    ca_files::{CaKey, RootError, at, not_a_signer, read_certificates, read_key, unfit},
    signer::{BACKDATED, Signer},
    signing,
};

const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Another daemon needs milliseconds to make a root.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct RootFiles<'a> {
    pub(super) key: &'a Path,
    pub(super) certificate: &'a Path,
}

impl RootFiles<'_> {
    /// Makes a root if neither file is there.
    pub(super) fn open(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Signer, RootError> {
        // Both are put in place whole, the certificate last. Given files may stand where nothing can be written.
        if !(self.key.exists() && self.certificate.exists()) {
            self.make(trust_domain, now)?;
        }
        self.read(trust_domain, now)
    }

    /// The certificate of the key signs; all of the file are believed.
    pub(super) fn read(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Signer, RootError> {
        self.signer(read_key(self.key)?, read_certificates(self.certificate)?, trust_domain, now)
    }

    /// Of what stands in the files, wherever it was read.
    pub(super) fn signer(
        &self,
        key: CaKey,
        roots: Vec<CertificateDer<'static>>,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Signer, RootError> {
        let path = self.certificate;
        let mut own = None;
        for (number, root) in (1..).zip(&roots) {
            let signing = signing::check(root, Some(trust_domain))
                .map_err(|problem| not_a_signer(path, number, problem, trust_domain))?;
            if !signing.is_self_signed {
                let cure =
                    "expected self-signed certificates; one of an external PKI belongs under `intermediate`";
                return Err(unfit(path, cure));
            }
            if signing.public_key == key.public() {
                own = Some((root.clone(), signing));
            }
        }
        let Some((own, signing)) = own else {
            return Err(RootError::Mismatch { key: self.key.to_owned(), certificate: path.to_owned() });
        };
        if now < signing.not_before || now >= signing.not_after {
            return Err(RootError::NotValidNow { path: path.to_owned() });
        }
        let issuer = Issuer::from_ca_cert_der(&own, key).map_err(|error| unfit(path, error.to_string()))?;
        Ok(Signer { issuer, certificate: own, chain: Vec::new(), roots, not_after: signing.not_after })
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
            let key = Zeroizing::new(key);
            place(self.key, Zeroizing::new(key.serialize_pem()).as_bytes(), 0o600)?;
        }
        if !self.certificate.exists() {
            // A daemon that died between the two left the key alone; its certificate is as good made later.
            let parameters = root_parameters(trust_domain, now)
                .map_err(|error| unfit(self.certificate, error.to_string()))?;
            let certificate = parameters.self_signed(&read_key(self.key)?);
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
}

/// A new root in PEM: the key, and the certificate.
pub(super) fn make_pem(
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(Zeroizing<String>, String), rcgen::Error> {
    let key = Zeroizing::new(KeyPair::generate()?);
    let certificate = root_parameters(trust_domain, now)?.self_signed(&*key)?;
    Ok((Zeroizing::new(key.serialize_pem()), certificate.pem()))
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
