//! A certificate authority inside the daemon: whoever has its key is the mesh. It signs with the mesh's own root, or with
//! an intermediate that an external PKI hands it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use model::{SpiffeId, TrustDomain};
use rustls_pki_types::CertificateSigningRequestDer;

use super::{
    AuthorityError, CertificateAuthority, Issued,
    ca_files::{CaFiles, RootError},
    intermediate::IntermediateFiles,
    root::RootFiles,
    signer::Signer,
};
use crate::instant::Clock;

/// Clones sign with the same key.
#[derive(Clone)]
pub struct EmbeddedCa(Arc<Inner>);

pub(super) struct Inner {
    pub(super) files: CaFiles,
    pub(super) trust_domain: TrustDomain,
    pub(super) lifetime: Duration,
    clock: Clock,
    signer: ArcSwap<Signer>,
}

impl EmbeddedCa {
    /// Signs with what is in `files`. Where a root and its key are both missing they are made and kept there: once, however
    /// many daemons start at the same time. `lifetime` is that of the certificates it will sign.
    pub fn open(
        files: CaFiles,
        trust_domain: TrustDomain,
        lifetime: Duration,
        clock: Clock,
    ) -> Result<Self, RootError> {
        let now = clock();
        let signer = match &files {
            CaFiles::Root { key, certificate } => RootFiles { key, certificate }.open(&trust_domain, now)?,
            CaFiles::Intermediate { .. } => read(&files, &trust_domain, now)?,
        };
        let signer = ArcSwap::from_pointee(signer);
        Ok(Self(Arc::new(Inner { files, trust_domain, lifetime, clock, signer })))
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }
}

impl Inner {
    pub(super) fn signer(&self) -> Arc<Signer> {
        self.signer.load_full()
    }

    /// Signs with what the files hold now, and yields what it signed with before. What is bad changes nothing. Makes
    /// nothing: files that are gone for a moment are no reason for a new root.
    pub(super) fn reload(&self) -> Result<Arc<Signer>, RootError> {
        let signer = read(&self.files, &self.trust_domain, self.now())?;
        Ok(self.signer.swap(Arc::new(signer)))
    }

    pub(super) fn now(&self) -> SystemTime {
        (self.clock)()
    }
}

fn read(files: &CaFiles, trust_domain: &TrustDomain, now: SystemTime) -> Result<Signer, RootError> {
    match files {
        CaFiles::Root { key, certificate } => RootFiles { key, certificate }.read(trust_domain, now),
        CaFiles::Intermediate { key, certificate, roots } => {
            IntermediateFiles { key, certificate, roots }.read(trust_domain, now)
        }
    }
}

impl CertificateAuthority for EmbeddedCa {
    async fn sign(
        &self,
        identity: &SpiffeId,
        request: &CertificateSigningRequestDer<'static>,
    ) -> Result<Issued, AuthorityError> {
        let Inner { trust_domain, lifetime, .. } = &*self.0;
        if identity.trust_domain() != trust_domain {
            return Err(AuthorityError::OtherTrustDomain(trust_domain.clone()));
        }
        self.0.signer().sign(identity, request, *lifetime, self.0.now())
    }
}
