//! The section `certificates`: who signs for this node's workloads, and whom they believe.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use anyhow::bail;
use control::{CaFiles, ChannelSettings, ControlPlaneAddress, RequestHeaders, RootCertificates};
use model::{TrustDomain, TrustDomains};
use serde::{Deserialize, Serialize};

use super::Config;

/// Changes of these take a restart; changes of the files that they name do not.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct CertificatesSection {
    pub(crate) source: Source,
    /// Embedded: signs instead of `caKey` and `caCertificate`.
    intermediate: Option<Intermediate>,
    /// Istio: left out, the control plane is asked.
    authority: Option<Authority>,
    /// Whom to believe of each trust domain: PEM, or a SPIFFE bundle. That of the mesh's own goes before what comes with
    /// certificates.
    pub(crate) bundles: BTreeMap<TrustDomain, PathBuf>,
    /// Other names of the mesh's trust domain.
    trust_domain_aliases: BTreeSet<TrustDomain>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Source {
    /// The CA inside the daemon.
    #[default]
    Embedded,
    /// `istio.v1.auth.IstioCertificateService`.
    Istio,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Intermediate {
    key: PathBuf,
    /// The intermediate's first, then what leads to the roots.
    certificate: PathBuf,
    roots: PathBuf,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Authority {
    address: ControlPlaneAddress,
    root_certificates: RootCertificates,
    token_file: Option<PathBuf>,
    /// As those of `controlPlane`.
    #[serde(default)]
    headers: RequestHeaders,
}

impl CertificatesSection {
    pub(super) fn check(&self, config: &Config) -> anyhow::Result<()> {
        match self.source {
            Source::Embedded if self.authority.is_some() => {
                bail!("certificates.authority: is for `source: istio`; remove one of them")
            }
            Source::Istio if self.intermediate.is_some() => {
                bail!("certificates.intermediate: is for `source: embedded`; remove one of them")
            }
            Source::Istio if self.authority.is_none() && config.control_plane.is_none() => {
                bail!(
                    "certificates.authority: is not set, and there is no controlPlane that could be asked instead"
                )
            }
            Source::Istio
                if !config.revocation_lists.is_empty()
                    && !self.bundles.contains_key(&config.trust_domain) =>
            {
                bail!(
                    "revocationLists: who may sign them is not known before the first certificate; give the roots of {own} \
                     under certificates.bundles",
                    own = config.trust_domain
                )
            }
            _ => {}
        }
        match self.trust_domain_aliases.iter().find(|alias| self.bundles.contains_key(alias)) {
            Some(alias) => bail!(
                "certificates.bundles: {alias} is an alias of {own}, whose bundle counts; give {own}'s",
                own = config.trust_domain
            ),
            None => Ok(()),
        }
    }

    pub(crate) fn trust_domains(&self, own: &TrustDomain) -> TrustDomains {
        TrustDomains::new(own.clone(), self.trust_domain_aliases.clone(), self.bundles.keys().cloned())
    }

    /// What the embedded CA signs with; `None` where there is no embedded CA.
    pub(crate) fn files(&self, config: &Config) -> anyhow::Result<Option<CaFiles>> {
        let needed = |value: &Option<PathBuf>, name, flag| super::needed(value.as_ref(), name, flag).cloned();
        Ok(match (self.source, &self.intermediate) {
            (Source::Istio, _) => None,
            (Source::Embedded, Some(Intermediate { key, certificate, roots })) => {
                Some(CaFiles::Intermediate {
                    key: key.clone(),
                    certificate: certificate.clone(),
                    roots: roots.clone(),
                })
            }
            (Source::Embedded, None) => Some(CaFiles::Root {
                key: needed(&config.ca_key, "caKey", "--ca-key")?,
                certificate: needed(&config.ca_certificate, "caCertificate", "--ca-certificate")?,
            }),
        })
    }

    /// How Istio's CA is reached.
    pub(crate) fn channel(&self, config: &Config) -> Option<ChannelSettings> {
        let Some(Authority { address, root_certificates, token_file, headers }) = &self.authority else {
            return Some(config.control_plane.as_ref()?.channel(config));
        };
        Some(ChannelSettings {
            address: address.clone(),
            roots: root_certificates.clone(),
            token_file: token_file.clone(),
            cluster_id: config.cluster_id.clone(),
            headers: headers.clone(),
            connect_deadline: config.connect_deadline.0,
        })
    }
}
