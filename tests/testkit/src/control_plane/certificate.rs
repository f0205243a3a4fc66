//! A server's certificate, of a root made for it.

use std::{net::IpAddr, sync::Arc};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, crypto::aws_lc_rs};

pub(crate) struct Certificate {
    pub(crate) root_pem: String,
    pub(crate) chain_pem: String,
    pub(crate) key_pem: String,
    pub(crate) tls: Arc<ServerConfig>,
}

impl Certificate {
    /// For this address, with what it speaks (ALPN).
    pub(crate) fn of(ip: IpAddr, speaks: &[&[u8]]) -> Result<Self> {
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
        tls.alpn_protocols = speaks.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Self { root_pem, chain_pem, key_pem, tls: Arc::new(tls) })
    }
}
