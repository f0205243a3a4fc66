//! A certificate authority's key and certificates in files: read within bounds, and the key only if it is private.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use model::{TrustDomain, svid::SvidKey};
use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use zeroize::Zeroizing;

use super::signing::NotASigner;

const MAX_FILE_BYTES: usize = 64 << 10;

/// Where the embedded CA finds what it signs with.
#[derive(Clone, Debug)]
pub enum CaFiles {
    /// The mesh's root, self-signed; made if neither is there. Beside it, the certificate's file may hold roots that are to
    /// be believed as well.
    Root { key: PathBuf, certificate: PathBuf },
    /// An intermediate of an external PKI: the certificate's file holds it first and then those above it, up to the
    /// roots, which are in the third.
    Intermediate { key: PathBuf, certificate: PathBuf, roots: PathBuf },
}

/// Why the embedded CA cannot sign with its files.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error("{path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{path} is readable for others than its owner (mode {mode:o}); cure: `chmod 600 {path}`; of a Secret's volume, `defaultMode: 0400` and no `fsGroup`", path = path.display())]
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
    #[error("{path}: {certificate} is of trust domain {found}, not of {own}", path = path.display())]
    OtherTrustDomain { path: PathBuf, certificate: String, found: String, own: TrustDomain },
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
            Self::OtherTrustDomain { .. } => "other_trust_domain",
            Self::NotValidNow { .. } => "not_valid_now",
        }
    }
}

/// A key that signs certificates: never shown, and zeroed on drop.
pub(super) struct CaKey(Zeroizing<KeyPair>);

impl CaKey {
    /// SubjectPublicKeyInfo, DER.
    pub(super) fn public(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

impl CaFiles {
    pub(super) fn all(&self) -> Vec<&Path> {
        match self {
            Self::Root { key, certificate } => vec![key, certificate],
            Self::Intermediate { key, certificate, roots } => vec![key, certificate, roots],
        }
    }
}

pub(super) fn read_key(path: &Path) -> Result<CaKey, RootError> {
    let file = File::open(path).map_err(at(path))?;
    let metadata = file.metadata().map_err(at(path))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(RootError::Exposed { path: path.to_owned(), mode });
    }
    let (owner, user) = (metadata.uid(), nix::unistd::geteuid().as_raw());
    if owner != user && owner != 0 {
        return Err(RootError::Foreign { path: path.to_owned(), owner, user });
    }
    parse_key(&Zeroizing::new(read(file, path)?), path)
}

/// `path` is where it comes from, for errors.
pub(super) fn parse_key(pem: &[u8], path: &Path) -> Result<CaKey, RootError> {
    // The error of a parser may quote what it parsed.
    let unfit = || unfit(path, "expected a private key in PEM (PKCS #8, SEC 1 or PKCS #1)");
    let key = SvidKey::new(PrivateKeyDer::from_pem_slice(pem).map_err(|_| unfit())?);
    KeyPair::try_from(key.expose()).map(|key| CaKey(Zeroizing::new(key))).map_err(|_| unfit())
}

/// At least one.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RootError> {
    parse_certificates(&read(File::open(path).map_err(at(path))?, path)?, path)
}

/// `path` is where they come from, for errors.
pub(super) fn parse_certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, RootError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| unfit(path, error.to_string()))?;
    if found.is_empty() { Err(unfit(path, "expected certificates in PEM, found none")) } else { Ok(found) }
}

/// All of it at once: a buffer that grows would leave parts of a key behind in memory.
fn read(file: File, path: &Path) -> Result<Vec<u8>, RootError> {
    let mut bytes = Vec::with_capacity(MAX_FILE_BYTES + 1);
    let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX);
    file.take(limit + 1).read_to_end(&mut bytes).map_err(at(path))?;
    if bytes.len() > MAX_FILE_BYTES {
        return Err(unfit(path, format!("expected at most {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> RootError + '_ {
    move |source| RootError::File { path: path.to_owned(), source }
}

pub(super) fn unfit(path: &Path, problem: impl Into<String>) -> RootError {
    RootError::Unfit { path: path.to_owned(), problem: problem.into() }
}

/// What is wrong with the certificate `number` of a file.
pub(super) fn not_a_signer(path: &Path, number: usize, problem: NotASigner, own: &TrustDomain) -> RootError {
    let certificate = format!("certificate {number}");
    match problem {
        NotASigner::OfAnother(found) => {
            RootError::OtherTrustDomain { path: path.to_owned(), certificate, found, own: own.clone() }
        }
        other => unfit(path, format!("{certificate}: {other}")),
    }
}
