//! Each MUST of the X509-SVID specification that a validator of leaves has.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};

use super::*;

const ID: &str = "spiffe://cluster.local/ns/default/sa/a";

fn uris(uris: &[&str]) -> Vec<SanType> {
    uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect()
}

/// A good leaf, and what the test makes of it.
fn certificate(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.subject_alt_names = uris(&[ID]);
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut parameters);
    parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

#[track_caller]
fn assert_refused(why: &NotALeaf, change: impl FnOnce(&mut CertificateParams)) {
    assert_eq!(Leaf::parse(&certificate(change)).as_ref(), Err(why));
}

#[test]
fn a_good_leaf_says_who_it_is_and_for_how_long() {
    let leaf = Leaf::parse_own(&certificate(|_| ())).unwrap();
    assert_eq!(leaf.identity.as_str(), ID);
    assert!(leaf.not_before < leaf.not_after);
    assert!(!leaf.serial.is_empty() && !leaf.public_key.is_empty());
}

/// Section 2: exactly one URI name; section 5.2: more than one MUST be rejected, the scheme must be spiffe.
#[test]
fn exactly_one_uri_name_and_it_is_a_spiffe_id() {
    for (names, count) in [
        (&[][..], 0),
        (&[ID, "spiffe://cluster.local/ns/default/sa/b"], 2),
        (&[ID, ID], 2),
        (&[ID, "https://cluster.local/"], 2),
        (&["https://cluster.local/ns/default/sa/a"], 1),
        (&["SPIFFE://cluster.local/ns/default/sa/a"], 1),
    ] {
        assert_refused(&NotALeaf::NotOneSpiffeId { uris: count }, |p| p.subject_alt_names = uris(names));
    }
}

/// Section 2: names of other kinds may stand beside it.
#[test]
fn other_kinds_of_names_do_no_harm_and_prove_nothing() {
    let dns = SanType::DnsName("a.default.svc".try_into().unwrap());
    let beside = certificate(|p| p.subject_alt_names.insert(0, dns.clone()));
    assert_eq!(Leaf::parse(&beside).unwrap().identity.as_str(), ID);
    assert_refused(&NotALeaf::NotOneSpiffeId { uris: 0 }, |p| {
        p.subject_alt_names = vec![dns];
        p.distinguished_name.push(DnType::CommonName, ID);
    });
}

/// SPIFFE ID specification, section 2: a leaf's id has a path, no port, user, query or fragment.
#[test]
fn a_trust_domain_alone_is_no_workload() {
    for id in [
        "spiffe://cluster.local",
        "spiffe://cluster.local/",
        "spiffe://cluster.local:443/ns/default/sa/a",
        "spiffe://user@cluster.local/ns/default/sa/a",
        "spiffe://cluster.local/ns/default/sa/a?x=1",
        "spiffe://cluster.local/ns/default/sa/a#x",
        "spiffe:///ns/default/sa/a",
        "spiffe://cluster.local/ns//default/sa/a",
        "spiffe://cluster.local/ns/default/sa/..",
    ] {
        assert_refused(&NotALeaf::NotOneSpiffeId { uris: 1 }, |p| p.subject_alt_names = uris(&[id]));
    }
}

/// Sections 3.2 and 5.2: signing certificates MUST NOT be used for authentication.
#[test]
fn what_may_sign_proves_nobody() {
    assert_refused(&NotALeaf::Signing, |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_refused(&NotALeaf::Signing, |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    for signing in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
        assert_refused(&NotALeaf::Signing, |p| p.key_usages.push(signing));
    }
}

/// Section 4.3: leaves MUST set digitalSignature.
#[test]
fn a_leaf_that_may_not_sign_handshakes_is_none() {
    assert_refused(&NotALeaf::NoDigitalSignature, |p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement]);
}

/// Section 4.4: when included, serverAuth and clientAuth MUST be set.
#[test]
fn our_own_certificates_do_in_both_roles() {
    for one in [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth] {
        let der = certificate(|p| p.extended_key_usages = vec![one]);
        assert_eq!(Leaf::parse_own(&der), Err(NotALeaf::OneRole));
    }
    Leaf::parse_own(&certificate(|p| p.extended_key_usages = Vec::new())).unwrap();
}

#[test]
fn bytes_of_any_kind_are_refused_without_a_panic() {
    let good = certificate(|_| ());
    for end in 0..good.len() {
        assert!(Leaf::parse(&good[..end]).is_err());
    }
    for place in 0..good.len() {
        let mut bent = good.clone();
        bent[place] ^= 0x80;
        let _ = Leaf::parse(&bent);
    }
}
