//! The control plane's certificate, of a root made for it.

use std::{net::IpAddr, sync::Arc};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, crypto::aws_lc_rs};

pub(super) struct Certificate {
    pub(super) root_pem: String,
    pub(super) chain_pem: String,
    pub(super) key_pem: String,
    pub(super) tls: Arc<ServerConfig>,
}

impl Certificate {
    pub(super) fn of(ip: IpAddr) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_pem = parameters.self_signed(&key)?.pem();
        let issuer = Issuer::new(parameters, key);
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new([ip.to_string()])?.signed_by(&key, &issuer)?;
        let (chain_pem, key_pem) = (leaf.pem(), key.serialize_pem());
        let mut tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key.into())?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { root_pem, chain_pem, key_pem, tls: Arc::new(tls) })
    }
}
