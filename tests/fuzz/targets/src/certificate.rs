//! Certificates' names, and revocation lists.

use control::read_revocation_lists;
use model::svid::{Leaf, TrustBundle};

/// An identity is never made of anything but one name that stands in the certificate.
pub fn certificate(data: &[u8]) {
    let Ok(leaf) = Leaf::parse(data) else { return };
    let id = leaf.identity.as_str();
    let stands = |bytes: &[u8]| data.windows(bytes.len()).any(|window| window == bytes);
    assert!(stands(id.as_bytes()), "{id} is not in the certificate");
    assert!(stands(&leaf.public_key), "the key is not in the certificate");
}

/// Whose word nobody has asked for revokes nothing, whatever it looks like.
pub fn revocation_list(data: &[u8]) {
    let Some(text) = crate::text(data) else { return };
    let trust_domain = "cluster.local".parse().expect("a trust domain");
    let nobody = TrustBundle { trust_domain, roots: Vec::new() };
    let error = read_revocation_lists("crl.pem".as_ref(), text, &nobody).expect_err("nobody has signed it");
    assert!(error.to_string().len() < 1024 + text.len(), "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
}
