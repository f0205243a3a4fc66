//! Certificates that their issuers have taken back before their time.
//!
//! A serial number means nothing without the issuer who gave it, and an issuer's name nothing without the trust domain
//! whose roots stand behind it, so all are looked up together. A look-up costs the same however long the lists are.

use std::{collections::HashSet, sync::Arc};

use crate::TrustDomain;

/// What a revocation list names a certificate by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateId {
    trust_domain: TrustDomain,
    issuer: Box<[u8]>,
    serial: Box<[u8]>,
}

/// What one issuer has revoked, of the trust domains whose bundle stands behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationList {
    trust_domains: Box<[TrustDomain]>,
    issuer: Box<[u8]>,
    serials: HashSet<Box<[u8]>>,
}

/// All lists in force.
#[derive(Clone, Debug, Default)]
pub struct Revoked(Vec<Arc<RevocationList>>);

impl CertificateId {
    /// The trust domain of the leaf; the issuer's name in DER, as it stands in the certificate; and the content of the
    /// serial number's INTEGER.
    pub fn new(trust_domain: &TrustDomain, issuer: &[u8], serial: &[u8]) -> Self {
        let (issuer, serial) = (issuer.into(), number(serial).into());
        Self { trust_domain: trust_domain.clone(), issuer, serial }
    }
}

impl RevocationList {
    /// The issuer's name in DER, and the content of each serial number's INTEGER.
    pub fn new<'a>(
        trust_domains: impl IntoIterator<Item = TrustDomain>,
        issuer: &[u8],
        serials: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        let serials = serials.into_iter().map(|serial| number(serial).into()).collect();
        Self { trust_domains: trust_domains.into_iter().collect(), issuer: issuer.into(), serials }
    }

    pub fn len(&self) -> usize {
        self.serials.len()
    }

    pub fn is_empty(&self) -> bool {
        self.serials.is_empty()
    }
}

impl Revoked {
    pub fn contains(&self, certificate: &CertificateId) -> bool {
        self.0.iter().any(|list| {
            list.issuer == certificate.issuer
                && list.serials.contains(&certificate.serial)
                && list.trust_domains.contains(&certificate.trust_domain)
        })
    }

    /// How many certificates are listed.
    pub fn count(&self) -> usize {
        self.0.iter().map(|list| list.len()).sum()
    }
}

impl FromIterator<Arc<RevocationList>> for Revoked {
    fn from_iter<T: IntoIterator<Item = Arc<RevocationList>>>(lists: T) -> Self {
        Self(lists.into_iter().collect())
    }
}

/// The same number may be written with zeros before it.
fn number(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    &serial[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str) -> TrustDomain {
        name.parse().unwrap()
    }

    fn revoked(lists: &[(&[u8], &[&[u8]])]) -> Revoked {
        let list = |(issuer, serials): &(&[u8], &[&[u8]])| {
            Arc::new(RevocationList::new([domain("td"), domain("alias")], issuer, serials.iter().copied()))
        };
        lists.iter().map(list).collect()
    }

    /// Fails if one issuer could revoke another's certificates, or one of the same name those of another trust domain, or a zero before a number hid it.
    #[test]
    fn a_serial_number_is_its_issuers() {
        let revoked = revoked(&[(b"a", &[&[0, 0x80], &[7]]), (b"b", &[&[9]])]);
        for (issuer, serial, expected) in [
            (b"a", &[7][..], true),
            (b"a", &[0, 7], true),
            (b"a", &[0x80], true),
            (b"b", &[7], false),
            (b"a", &[9], false),
            (b"b", &[9], true),
            (b"c", &[9], false),
        ] {
            for (name, is_of) in [("td", true), ("alias", true), ("other", false)] {
                let id = CertificateId::new(&domain(name), issuer, serial);
                assert_eq!(revoked.contains(&id), expected && is_of, "{name} {issuer:?} {serial:?}");
            }
        }
        assert_eq!(revoked.count(), 3);
    }
}
