//! What the embedded CA signs with, and how: a key, its certificate, and what leads from there to the roots.

use std::time::{Duration, SystemTime};

use model::{SpiffeId, TrustDomain};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};

use super::{AuthorityError, Issued, ca_files::CaKey, chain, request::Request};

/// Clocks of two machines differ by this much without anybody noticing.
pub(super) const BACKDATED: Duration = Duration::from_secs(60);

pub(super) struct Signer {
    pub(super) issuer: Issuer<'static, CaKey>,
    /// Of the key.
    pub(super) certificate: CertificateDer<'static>,
    /// From there up to, and without, the root.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) roots: Vec<CertificateDer<'static>>,
    pub(super) not_after: SystemTime,
}

impl Signer {
    pub(super) fn sign(
        &self,
        identity: &SpiffeId,
        request: &CertificateSigningRequestDer<'_>,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        let not_after = (now + lifetime).min(self.not_after);
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
        request.params = leaf(vec![name], now - BACKDATED, not_after);
        let certificate = request.signed_by(&self.issuer).map_err(refused)?;
        let chain = [certificate.der().clone()].into_iter().chain(self.chain.iter().cloned()).collect();
        Ok(Issued { chain, roots: self.roots.clone() })
    }

    /// A certificate by which a server of the control plane is known under these names.
    pub(super) fn sign_server(
        &self,
        names: &[String],
        key: &KeyPair,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, rcgen::Error> {
        let names: Result<Vec<SanType>, rcgen::Error> = names
            .iter()
            .map(|name| match name.parse() {
                Ok(address) => Ok(SanType::IpAddress(address)),
                Err(_) => name.as_str().try_into().map(SanType::DnsName),
            })
            .collect();
        let mut parameters = leaf(names?, now - BACKDATED, (now + lifetime).min(self.not_after));
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = parameters.signed_by(key, &self.issuer)?;
        Ok([certificate.der().clone()].into_iter().chain(self.chain.iter().cloned()).collect())
    }

    /// Signs one certificate for nobody and looks at it as a peer would.
    pub(super) fn try_out(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<(), String> {
        let nobody =
            SpiffeId::new(trust_domain.clone(), "none", "none").map_err(|error| error.to_string())?;
        let request = Request::new(&nobody).map_err(|error| error.to_string())?;
        let issued = self.sign(&nobody, request.der(), BACKDATED, now).map_err(|error| error.to_string())?;
        chain::verify(&issued.chain, &issued.roots, now).map_err(|error| error.to_string())
    }
}

/// X.509-SVID, section 4 and 5, for one URI name: critical as the subject is empty; may sign handshakes and nothing else.
fn leaf(names: Vec<SanType>, not_before: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.subject_alt_names = names;
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
