//! A certificate authority inside the daemon, for use on one machine: whoever has the root key is the mesh.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use model::{SpiffeId, TrustDomain, svid::TrustBundle};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateSigningRequestDer;

use super::{
    AuthorityError, CertificateAuthority, Issued,
    root::{Root, RootError, RootFiles},
};
use crate::instant::Clock;

/// Clocks of two machines differ by this much without anybody noticing.
pub(super) const BACKDATED: Duration = Duration::from_secs(60);

/// Signs with the root key itself.
pub struct EmbeddedCa {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    roots: Arc<TrustBundle>,
    root_not_after: SystemTime,
    lifetime: Duration,
    clock: Clock,
}

impl EmbeddedCa {
    /// The root of the given files. Where neither file is there, a root is made and kept in them: once, however
    /// many daemons start at the same time. `lifetime` is that of the certificates it will sign.
    pub fn open(
        key: &Path,
        certificate: &Path,
        trust_domain: TrustDomain,
        lifetime: Duration,
        clock: Clock,
    ) -> Result<Self, RootError> {
        let Root { issuer, certificate, not_after } =
            RootFiles { key, certificate }.open(&trust_domain, clock())?;
        let roots = Arc::new(TrustBundle { trust_domain: trust_domain.clone(), roots: vec![certificate] });
        Ok(Self { trust_domain, issuer, roots, root_not_after: not_after, lifetime, clock })
    }

    pub fn roots(&self) -> &Arc<TrustBundle> {
        &self.roots
    }
}

impl CertificateAuthority for EmbeddedCa {
    async fn sign(
        &self,
        identity: &SpiffeId,
        request: &CertificateSigningRequestDer<'static>,
    ) -> Result<Issued, AuthorityError> {
        if *identity.trust_domain() != self.trust_domain {
            return Err(AuthorityError::OtherTrustDomain(self.trust_domain.clone()));
        }
        let now = (self.clock)();
        let not_after = (now + self.lifetime).min(self.root_not_after);
        if not_after <= now {
            return Err(AuthorityError::RootExpired);
        }
        let refused = |error: rcgen::Error| AuthorityError::Refused(error.to_string());
        // Parsing checks the signature: the asker has the key. All but the key is ours to say.
        let mut request = CertificateSigningRequestParams::from_der(request).map_err(refused)?;
        let name = SanType::URI(identity.as_str().try_into().map_err(refused)?);
        if request.params.subject_alt_names != [name.clone()] {
            return Err(AuthorityError::Refused("the request names somebody else".to_owned()));
        }
        request.params = leaf(name, now - BACKDATED, not_after);
        let certificate = request.signed_by(&self.issuer).map_err(refused)?;
        Ok(Issued { chain: vec![certificate.der().clone()], roots: self.roots.roots.clone() })
    }
}

/// X.509-SVID, section 4 and 5: one URI name, critical as the subject is empty; may sign handshakes and nothing else.
fn leaf(name: SanType, not_before: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.subject_alt_names = vec![name];
    parameters.serial_number = Some(SerialNumber::from_slice(&rand::random::<[u8; 16]>()));
    parameters.not_before = not_before.into();
    parameters.not_after = not_after.into();
    parameters.is_ca = rcgen::IsCa::ExplicitNoCa;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    parameters.use_authority_key_identifier_extension = true;
    parameters
}
