//! The bundle of a trust domain from a file, in PEM or in the SPIFFE bundle format (SPIFFE Trust Domain and Bundle
//! specification, section 4; X509-SVID specification, section 6).

use std::{path::Path, sync::Arc, time::SystemTime};

use model::{TrustDomain, svid::TrustBundle};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::Deserialize;
use serde_saphyr::Location;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{Certificates, signing, trust::MAX_ROOTS};
use crate::file::{FileError, FileStatus, Loaded, Place, follow_at_most, parse};

const MAX_BYTES: u64 = 1 << 20;

/// Whom to believe of one trust domain, as its file says for as long as this lives.
pub struct BundleFile {
    status: watch::Receiver<FileStatus>,
    _watching: AbortOnDropHandle<()>,
}

impl BundleFile {
    /// Loads `path`, which must be good, and follows its changes. Identities of `trust_domain` are believed by the roots in
    /// it alone.
    pub async fn start(
        path: &Path,
        trust_domain: TrustDomain,
        certificates: Arc<Certificates>,
    ) -> Result<Self, FileError> {
        let load = move |path: &Path, text: &str| {
            let (roots, warnings) = roots(path, text, &trust_domain, SystemTime::now())?;
            let objects = [("roots", roots.len())].into();
            certificates.give_bundle(TrustBundle { trust_domain: trust_domain.clone(), roots });
            Ok(Loaded { objects, changed: 1, warnings, ..Loaded::default() })
        };
        let (status, watching) = follow_at_most(path, MAX_BYTES, Arc::new(load)).await?;
        Ok(Self { status, _watching: watching })
    }

    pub fn status(&self) -> watch::Receiver<FileStatus> {
        self.status.clone()
    }
}

/// A JWK Set; what else a bundle says is for others.
#[derive(Deserialize)]
struct Document {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    #[serde(rename = "use")]
    purpose: Option<String>,
    #[serde(default)]
    x5c: Vec<String>,
}

type Roots = Vec<CertificateDer<'static>>;

/// The roots, and what is wrong with some that does no harm.
pub(super) fn roots(
    path: &Path,
    text: &str,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(Roots, Vec<String>), FileError> {
    let found =
        if text.trim_start().starts_with('{') { of_document(path, text)? } else { of_pem(path, text)? };
    let mut roots: Roots = Vec::with_capacity(found.len());
    let mut warnings = Vec::new();
    for (number, root) in (1..).zip(found) {
        let named = |problem: &str| format!("certificate {number}: {problem}");
        let signing = signing::check(&root, Some(trust_domain))
            .map_err(|problem| at(path, &named(&problem.to_string())))?;
        if signing.not_after <= now {
            warnings.push(named("it has expired"));
        }
        if !roots.contains(&root) {
            roots.push(root);
        }
    }
    if roots.len() > MAX_ROOTS {
        return Err(at(path, &format!("{} roots are more than the {MAX_ROOTS} allowed", roots.len())));
    }
    Ok((roots, warnings))
}

fn of_pem(path: &Path, text: &str) -> Result<Roots, FileError> {
    let found: Result<Roots, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let found = found.map_err(|error| at(path, &error.to_string()))?;
    if found.is_empty() {
        return Err(at(path, "expected certificates in PEM, or a SPIFFE bundle; found neither"));
    }
    Ok(found)
}

/// Keys of other uses must be ignored; without any key, the trust domain believes nobody.
fn of_document(path: &Path, text: &str) -> Result<Roots, FileError> {
    let document: Document = parse(path, text)?;
    let keys = document.keys.into_iter().filter(|key| key.purpose.as_deref() == Some("x509-svid"));
    keys.map(|key| match &key.x5c[..] {
        [certificate] => decoded(certificate).ok_or_else(|| at(path, "an `x5c` is no certificate in base64")),
        other => Err(at(path, &format!("a key has {} values in `x5c` and needs one", other.len()))),
    })
    .collect()
}

fn decoded(base64: &str) -> Option<CertificateDer<'static>> {
    let pem = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
    CertificateDer::from_pem_slice(pem.as_bytes()).ok()
}

fn at(path: &Path, message: &str) -> FileError {
    Place { path, location: Location::UNKNOWN }.error(message)
}
