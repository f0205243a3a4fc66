//! Whose certificates a control plane may show.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncReadExt, task::spawn_blocking};

/// Hundreds of roots fit.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// As text: `system`, PEM itself, or the path of a PEM file, which is read anew for each connection.
#[derive(Clone, PartialEq, Eq)]
pub enum RootCertificates {
    File(PathBuf),
    Pem(String),
    System,
}

/// Why nobody can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    #[error("the control plane's roots: {path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the control plane's roots: {0}: no certificate in PEM that could be a root")]
    NoneFound(RootCertificates),
}

impl RootCertificates {
    pub(super) async fn load(&self) -> Result<RootCertStore, RootsError> {
        let certificates = match self {
            Self::File(path) => {
                let pem = read(path).await;
                pem_certificates(&pem.map_err(|source| RootsError::File { path: path.clone(), source })?)
            }
            Self::Pem(pem) => pem_certificates(pem.as_bytes()),
            // A whole directory, on a disk. What cannot be read of it is missing, and shows if it is needed.
            Self::System => {
                spawn_blocking(|| rustls_native_certs::load_native_certs().certs).await.unwrap_or_default()
            }
        };
        let mut store = RootCertStore::empty();
        let (added, _) = store.add_parsable_certificates(certificates);
        if added == 0 { Err(RootsError::NoneFound(self.clone())) } else { Ok(store) }
    }
}

async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut pem = Vec::new();
    tokio::fs::File::open(path).await?.take(MAX_FILE_BYTES + 1).read_to_end(&mut pem).await?;
    // Cut off in silence, the roots at its end would be missing.
    if pem.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("expected at most {MAX_FILE_BYTES} bytes")));
    }
    Ok(pem)
}

/// Roots rotate by appending: what cannot be read of a file must not cost those that can.
fn pem_certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).flatten().collect()
}

impl FromStr for RootCertificates {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "system" => Self::System,
            pem if pem.trim_start().starts_with("-----BEGIN") => Self::Pem(pem.to_owned()),
            path => Self::File(path.into()),
        })
    }
}

impl fmt::Display for RootCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Pem(_) => f.write_str("the PEM that was given"),
            Self::System => f.write_str("system"),
        }
    }
}

impl fmt::Debug for RootCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for RootCertificates {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RootCertificates {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
