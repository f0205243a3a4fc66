//! The embedded CA for others: a control plane that holds its key and certificates in memory, as a Secret had them, and
//! signs what daemons ask for.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use model::{SpiffeId, TrustDomain, svid::SvidKey};
use rcgen::KeyPair;
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject,
};
use zeroize::Zeroizing;

use super::{
    AuthorityError, Issued,
    ca_files::{RootError, parse_certificates, parse_key},
    intermediate::IntermediateFiles,
    root::{self, RootFiles},
    signer::Signer,
};

/// In PEM, as it was kept.
pub struct CaMaterial {
    pub key: Zeroizing<Vec<u8>>,
    /// The root and those that are believed beside it; or an intermediate and those above it.
    pub certificates: Vec<u8>,
    /// Of an intermediate.
    pub roots: Option<Vec<u8>>,
    /// Where it was kept, for errors.
    pub place: String,
}

/// By which a server is known.
pub struct ServerCertificate {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: SvidKey,
}

/// Signs for one trust domain. Its key is never shown, and zeroed when another takes its place.
pub struct SigningCa {
    trust_domain: TrustDomain,
    signer: ArcSwap<Signer>,
}

impl SigningCa {
    pub fn open(
        material: &CaMaterial,
        trust_domain: TrustDomain,
        now: SystemTime,
    ) -> Result<Self, RootError> {
        let signer = ArcSwap::from_pointee(signer(material, &trust_domain, now)?);
        Ok(Self { trust_domain, signer })
    }

    /// Signs with this from now on. What is bad changes nothing.
    pub fn replace(&self, material: &CaMaterial, now: SystemTime) -> Result<(), RootError> {
        self.signer.store(Arc::new(signer(material, &self.trust_domain, now)?));
        Ok(())
    }

    /// The request is in PEM.
    pub fn sign(
        &self,
        identity: &SpiffeId,
        request: &[u8],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        if *identity.trust_domain() != self.trust_domain {
            return Err(AuthorityError::OtherTrustDomain(self.trust_domain.clone()));
        }
        let request = CertificateSigningRequestDer::from_pem_slice(request)
            .map_err(|_| AuthorityError::Refused("the signing request is not PEM".to_owned()))?;
        self.signer.load().sign(identity, &request, lifetime, now)
    }

    /// Of a server of the control plane itself; names are DNS names and IP addresses.
    pub fn server_certificate(
        &self,
        names: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<ServerCertificate, AuthorityError> {
        let refused = |error: rcgen::Error| AuthorityError::Refused(error.to_string());
        let key = Zeroizing::new(KeyPair::generate().map_err(refused)?);
        let chain = self.signer.load().sign_server(names, &key, lifetime, now).map_err(refused)?;
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(ServerCertificate { chain, key: SvidKey::new(secret) })
    }

    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.signer.load().roots.clone()
    }

    /// What signs now.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.signer.load().certificate.clone()
    }

    pub fn not_after(&self) -> SystemTime {
        self.signer.load().not_after
    }
}

fn signer(material: &CaMaterial, trust_domain: &TrustDomain, now: SystemTime) -> Result<Signer, RootError> {
    let place = Path::new(&material.place);
    let key = parse_key(&material.key, place)?;
    let certificates = parse_certificates(&material.certificates, place)?;
    match &material.roots {
        None => RootFiles { key: place, certificate: place }.signer(key, certificates, trust_domain, now),
        Some(roots) => {
            let roots = parse_certificates(roots, place)?;
            let files = IntermediateFiles { key: place, certificate: place, roots: place };
            files.signer(key, certificates, roots, trust_domain, now)
        }
    }
}

/// A new root of a mesh in PEM: its key, and its certificate.
pub fn new_root(
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(Zeroizing<String>, String), AuthorityError> {
    root::make_pem(trust_domain, now).map_err(|error| AuthorityError::Request(error.to_string()))
}

/// As in certificate tools: SHA-256 in hexadecimal.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    super::audit::fingerprint(certificate)
}
