//! A root, and one certificate that all sidecars have: what they hold does not depend on whose it is.

use std::{fs, path::Path};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

pub(super) fn write(directory: &Path) -> Result<()> {
    let root_key = KeyPair::generate()?;
    let mut root = CertificateParams::default();
    root.distinguished_name.push(DnType::CommonName, "root of the benchmark");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root_pem = root.self_signed(&root_key)?.pem();
    let mut own = CertificateParams::new(vec!["sidecar".to_owned()])?;
    own.distinguished_name.push(DnType::CommonName, "sidecar");
    own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let own_key = KeyPair::generate()?;
    let chain = own.signed_by(&own_key, &Issuer::new(root, root_key))?.pem();
    let key = own_key.serialize_pem();
    for (name, text) in [
        ("root.pem", &root_pem),
        ("chain.pem", &chain),
        ("key.pem", &key),
        ("both.pem", &format!("{chain}{key}")),
    ] {
        fs::write(directory.join(name), text)?;
    }
    Ok(())
}
