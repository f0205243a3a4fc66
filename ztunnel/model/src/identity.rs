//! Identities: SPIFFE IDs of the form `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
//!
//! The grammar is that of the SPIFFE ID specification, sections 2.1 and 2.2, narrowed to the path that
//! ambient meshes use. Anything else is not an identity to us.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// SPIFFE ID specification, section 2.3: at most 2048 bytes.
const MAX_SPIFFE_ID_BYTES: usize = 2048;
/// SPIFFE ID specification, section 2.1: at most 255 bytes.
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// The administrative domain whose roots vouch for an identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// What a mesh is called that nobody has named, as Istio has it.
impl Default for TrustDomain {
    fn default() -> Self {
        Self("cluster.local".into())
    }
}

impl TrustDomain {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who a workload is. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(Arc<Parts>);

#[derive(PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Parts {
    /// The whole, spelled once: identities are compared and printed far more often than made.
    uri: Box<str>,
    trust_domain: TrustDomain,
    namespace: Box<str>,
    service_account: Box<str>,
}

const SCHEME: &str = "spiffe://";

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidIdentity {
    #[error("`{0}` is not a trust domain: 1 to 255 of a-z, 0-9, '.', '-', '_'")]
    TrustDomain(String),
    #[error(
        "`{0}` is not a path segment: 1 or more of A-Z, a-z, 0-9, '.', '-', '_', and neither '.' nor '..'"
    )]
    Segment(String),
    #[error("`{0}` is not spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Shape(String),
    #[error("a SPIFFE ID of {0} bytes is longer than the {MAX_SPIFFE_ID_BYTES} allowed")]
    TooLong(usize),
}

impl SpiffeId {
    pub fn new(
        trust_domain: TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, InvalidIdentity> {
        check_segment(namespace)?;
        check_segment(service_account)?;
        let uri = format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}");
        if uri.len() > MAX_SPIFFE_ID_BYTES {
            return Err(InvalidIdentity::TooLong(uri.len()));
        }
        Ok(Self(Arc::new(Parts {
            uri: uri.into(),
            trust_domain,
            namespace: namespace.into(),
            service_account: service_account.into(),
        })))
    }

    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`
    pub fn as_str(&self) -> &str {
        &self.0.uri
    }

    /// The same without `spiffe://`: the spelling of policies and metrics.
    pub fn principal(&self) -> &str {
        self.0.uri.strip_prefix(SCHEME).unwrap_or(&self.0.uri)
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// The same workload's identity in another trust domain.
    pub fn in_trust_domain(&self, trust_domain: &TrustDomain) -> Result<Self, InvalidIdentity> {
        Self::new(trust_domain.clone(), self.namespace(), self.service_account())
    }

    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    pub fn service_account(&self) -> &str {
        &self.0.service_account
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        if text.is_empty() || text.len() > MAX_TRUST_DOMAIN_BYTES || !text.bytes().all(allowed) {
            return Err(InvalidIdentity::TrustDomain(text.to_owned()));
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_SPIFFE_ID_BYTES {
            return Err(InvalidIdentity::TooLong(text.len()));
        }
        let shape = || InvalidIdentity::Shape(text.to_owned());
        let rest = text.strip_prefix(SCHEME).ok_or_else(shape)?;
        let segments: Vec<&str> = rest.split('/').collect();
        let [trust_domain, "ns", namespace, "sa", service_account] = segments[..] else {
            return Err(shape());
        };
        Self::new(trust_domain.parse()?, namespace, service_account)
    }
}

fn check_segment(segment: &str) -> Result<(), InvalidIdentity> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if segment.is_empty() || segment == "." || segment == ".." || !segment.bytes().all(allowed) {
        return Err(InvalidIdentity::Segment(segment.to_owned()));
    }
    Ok(())
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_well_formed_id_survives_its_text_form() {
        let text = "spiffe://cluster.local/ns/default/sa/sleep";
        let id: SpiffeId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(id.principal(), "cluster.local/ns/default/sa/sleep");
        assert_eq!((id.namespace(), id.service_account()), ("default", "sleep"));
    }

    #[test]
    fn what_is_not_an_id_of_ours_is_refused() {
        for text in [
            "",
            "spiffe://cluster.local",
            "spiffe:///ns/default/sa/sleep",
            "spiffe://Cluster.local/ns/default/sa/sleep",
            "spiffe://cluster.local/ns/default/sa/",
            "spiffe://cluster.local/ns/default/sa/sleep/",
            "spiffe://cluster.local/ns/../sa/sleep",
            "spiffe://cluster.local/ns/default/sa/a%20b",
            "spiffe://cluster.local:80/ns/default/sa/sleep",
            "https://cluster.local/ns/default/sa/sleep",
            "spiffe://cluster.local/sa/sleep/ns/default",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
        assert!(format!("spiffe://d/ns/{}/sa/s", "n".repeat(2048)).parse::<SpiffeId>().is_err());
    }
}
