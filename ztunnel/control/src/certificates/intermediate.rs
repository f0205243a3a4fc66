//! An intermediate of an external PKI in files, as cert-manager and Vault agents write them.

use std::{path::Path, time::SystemTime};

use model::TrustDomain;
use rcgen::Issuer;
use rustls_pki_types::CertificateDer;

use super::{
    ca_files::{CaKey, RootError, not_a_signer, read_certificates, read_key, unfit},
    signer::Signer,
    signing,
};

pub(super) struct IntermediateFiles<'a> {
    pub(super) key: &'a Path,
    pub(super) certificate: &'a Path,
    pub(super) roots: &'a Path,
}

impl IntermediateFiles<'_> {
    /// The files are written one after the other: until all belong together, reading fails.
    pub(super) fn read(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Signer, RootError> {
        let [chain, roots] = [self.certificate, self.roots].map(read_certificates);
        self.signer(read_key(self.key)?, chain?, roots?, trust_domain, now)
    }

    /// Of what stands in the files, wherever it was read.
    pub(super) fn signer(
        &self,
        key: CaKey,
        mut chain: Vec<CertificateDer<'static>>,
        roots: Vec<CertificateDer<'static>>,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Signer, RootError> {
        for (number, root) in (1..).zip(&roots) {
            signing::check(root, Some(trust_domain))
                .map_err(|problem| not_a_signer(self.roots, number, problem, trust_domain))?;
        }
        // Some write the root at the end of the chain; peers have it.
        chain.retain(|certificate| !roots.contains(certificate));
        let mut ends = Vec::with_capacity(chain.len());
        for (number, certificate) in (1..).zip(&chain) {
            let signing = signing::check(certificate, None)
                .map_err(|problem| not_a_signer(self.certificate, number, problem, trust_domain))?;
            ends.push(signing);
        }
        let Some((first, signing)) = chain.first().zip(ends.first()) else {
            return Err(unfit(self.certificate, "there is nothing below the roots"));
        };
        if signing.public_key != key.public() {
            let (key, certificate) = (self.key.to_owned(), self.certificate.to_owned());
            return Err(RootError::Mismatch { key, certificate });
        }
        let unfit = |error: rcgen::Error| unfit(self.certificate, error.to_string());
        let issuer = Issuer::from_ca_cert_der(first, key).map_err(unfit)?;
        let not_after = ends.iter().map(|signing| signing.not_after).min().unwrap_or(now);
        let signer = Signer { issuer, certificate: first.clone(), chain, roots, not_after };
        signer.try_out(trust_domain, now).map_err(|problem| {
            super::ca_files::unfit(
                self.certificate,
                format!("what it signs would not be believed: {problem}"),
            )
        })?;
        Ok(signer)
    }
}
