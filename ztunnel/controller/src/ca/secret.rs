//! What stands in the CA's Secret, and the CA that it makes.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use control::{CaMaterial, SigningCa};
use kubernetes::k8s_openapi::{ByteString, api::core::v1::Secret};
use model::TrustDomain;
use zeroize::Zeroizing;

use super::{Held, rotation::Rotation};
use crate::settings::Settings;

/// Of the root that is made here.
pub(super) const OWN: &str = "ztunnel-ca";
/// Of the certificate that signs.
pub(super) const KEY: &str = "ca.key";
/// All that are believed.
pub(super) const CERTIFICATES: &str = "ca.crt";
/// During a rotation: of the root that does not sign yet, or no longer.
pub(super) const OTHER_KEY: &str = "other.key";
/// During a rotation: its stage.
pub(super) const ROTATION: &str = "rotation";
/// The longest life, in seconds, of any certificate so far: replicas sign for no longer than it says, and never lower it.
pub(super) const LIFETIME: &str = "lifetime";

pub(super) type Data = BTreeMap<String, ByteString>;

/// The CA as the Secret has it. A rotation that cannot be read changes nothing about who signs.
pub(super) fn open(secret: &Secret, settings: &Settings) -> anyhow::Result<Held> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let place = format!("Secret {}/{name}", settings.namespace);
    let data = secret.data.as_ref().with_context(|| format!("{place} is empty"))?;
    if settings.intermediate_secret.is_none() {
        let ca = own(data, KEY, &settings.trust_domain, &place)?;
        let rotation = Rotation::read(data).unwrap_or_else(|error| {
            tracing::error!("{place}: {error:#}; `ztunnel controller rotate-root` needs it mended");
            None
        });
        return Ok(Held { longest: lifetime(data), rotation, ..Held::of(ca) });
    }
    let material = CaMaterial {
        key: Zeroizing::new(field(data, "tls.key", &place)?),
        certificates: field(data, "tls.crt", &place)?,
        roots: Some(field(data, "ca.crt", &place)?),
        place,
    };
    Ok(Held::of(SigningCa::open(&material, settings.trust_domain.clone(), SystemTime::now())?))
}

/// The CA of the root whose key has this name.
pub(super) fn own(
    data: &Data,
    key: &str,
    trust_domain: &TrustDomain,
    place: &str,
) -> anyhow::Result<SigningCa> {
    let material = CaMaterial {
        key: Zeroizing::new(field(data, key, place)?),
        certificates: field(data, CERTIFICATES, place)?,
        roots: None,
        place: place.to_owned(),
    };
    Ok(SigningCa::open(&material, trust_domain.clone(), SystemTime::now())?)
}

pub(super) fn lifetime(data: &Data) -> Option<Duration> {
    let text = std::str::from_utf8(&data.get(LIFETIME)?.0).ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

fn field(data: &Data, name: &str, place: &str) -> anyhow::Result<Vec<u8>> {
    match data.get(name) {
        Some(value) if !value.0.is_empty() => Ok(value.0.clone()),
        _ => bail!("{place} has no {name}"),
    }
}
