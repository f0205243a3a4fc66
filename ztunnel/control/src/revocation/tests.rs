//! Which lists count, which are refused, and what becomes of a file that turns bad.

use std::fs;

use model::{TrustDomain, revocation::CertificateId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};

use super::*;
use crate::system_clock;

type Authority = CertifiedIssuer<'static, KeyPair>;

const HOUR: Duration = Duration::from_secs(3600);

fn parameters(name: &str, usages: &[KeyUsagePurpose]) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = usages.to_vec();
    parameters
}

const SIGNS: &[KeyUsagePurpose] = &[KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];

fn root(name: &str) -> Authority {
    CertifiedIssuer::self_signed(parameters(name, SIGNS), KeyPair::generate().unwrap()).unwrap()
}

fn below(issuer: &Authority, name: &str) -> Authority {
    CertifiedIssuer::signed_by(parameters(name, SIGNS), KeyPair::generate().unwrap(), issuer).unwrap()
}

/// A list of these serial numbers, due `left` from now.
fn crl(issuer: &Authority, serials: &[u64], left: i64) -> String {
    numbered(issuer, serials, left, 1)
}

fn numbered(issuer: &Authority, serials: &[u64], left: i64, number: u64) -> String {
    let now = time::OffsetDateTime::now_utc();
    let entry = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    };
    let parameters = CertificateRevocationListParams {
        this_update: now - time::Duration::days(7),
        next_update: now + time::Duration::seconds(left),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    parameters.signed_by(issuer).unwrap().pem().unwrap()
}

fn bundle(roots: &[&Authority]) -> Arc<TrustBundle> {
    let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
    let roots = roots.iter().map(|root| root.der().clone()).collect();
    Arc::new(TrustBundle { trust_domain, roots })
}

fn roots_of(authority: &Authority) -> Bundles {
    let trust = Arc::new(Trust::alone((*bundle(&[authority])).clone()));
    Arc::new(move || Arc::clone(&trust))
}

fn read(text: &str, roots: &[&Authority]) -> Result<Vec<List>, String> {
    lists::read(Path::new("crl.pem"), text, &Trust::alone((*bundle(roots)).clone()))
        .map_err(|error| error.to_string())
}

/// The limit only keeps a broken test from hanging.
async fn until(files: &RevocationFiles, what: impl FnMut(&FileStatus) -> bool) {
    let mut status = files.files[0].clone();
    let wait = tokio::time::timeout(Duration::from_secs(30), status.wait_for(what));
    wait.await.expect("the change was not noticed").unwrap();
}

fn is_revoked(revoked: &Revoked, issuer: &Authority, serial: u64) -> bool {
    is_revoked_in("cluster.local", revoked, issuer, serial)
}

/// Whether it is, for a certificate that is of this trust domain.
fn is_revoked_in(domain: &str, revoked: &Revoked, issuer: &Authority, serial: u64) -> bool {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, certificate) = X509Certificate::from_der(issuer.der()).unwrap();
    let domain = domain.parse().unwrap();
    revoked.contains(&CertificateId::new(&domain, certificate.subject().as_raw(), &serial.to_be_bytes()))
}

/// Fails if a list of several authorities, or of one between root and leaf, is not understood.
#[test]
fn lists_of_roots_and_of_authorities_that_lead_to_them_count() {
    let (a, b) = (root("a"), root("b"));
    let between = below(&a, "between");
    let below = below(&between, "below");
    // The authorities' own order does not matter.
    let text = [crl(&a, &[1], 60), crl(&b, &[2, 300], 60), below.pem(), between.pem(), crl(&below, &[4], 60)]
        .concat();
    let lists = read(&text, &[&a, &b]).unwrap();
    let revoked: Revoked = lists.iter().map(|list| Arc::clone(&list.list)).collect();
    for (issuer, serial, expected) in
        [(&a, 1, true), (&a, 2, false), (&b, 2, true), (&b, 300, true), (&below, 4, true), (&below, 1, false)]
    {
        assert_eq!(is_revoked(&revoked, issuer, serial), expected, "{serial}");
    }
    assert_eq!(revoked.count(), 4);
    assert_eq!(read(&crl(&a, &[], 60), &[&a]).unwrap()[0].list.len(), 0, "a list may be empty");
}

/// Fails if a partner's list revokes nothing, or can cut off somebody else's workload: of an authority of the same name, with
/// the same number.
#[test]
fn a_list_speaks_of_the_trust_domain_whose_bundle_stands_behind_it() {
    let (own, partner, shared) = (root("a root"), root("a root"), root("of both"));
    let [mesh, old, other]: [TrustDomain; 3] =
        ["mesh.example", "old.example", "partner.example"].map(|name| name.parse().unwrap());
    let of = |domain: &TrustDomain, roots: [&Authority; 2]| {
        let roots = roots.map(|root| root.der().clone()).into();
        Arc::new(TrustBundle { trust_domain: domain.clone(), roots })
    };
    let domains = model::TrustDomains::new(mesh.clone(), [old], [other.clone()]);
    let trust = Trust::new(Arc::new(domains), of(&mesh, [&own, &shared]), [of(&other, [&partner, &shared])]);
    let below = below(&partner, "below");
    let text = [
        crl(&own, &[1], 60),
        crl(&partner, &[2], 60),
        crl(&shared, &[3], 60),
        below.pem(),
        crl(&below, &[4], 60),
    ]
    .concat();
    let lists = lists::read(Path::new("crl.pem"), &text, &trust).unwrap();
    let revoked: Revoked = lists.iter().map(|list| Arc::clone(&list.list)).collect();
    for (issuer, serial, expected) in [
        (&own, 1, [true, true, false, false]),
        (&partner, 2, [false, false, true, false]),
        (&shared, 3, [true, true, true, false]),
        (&below, 4, [false, false, true, false]),
    ] {
        let of = ["mesh.example", "old.example", "partner.example", "stranger.example"];
        assert_eq!(of.map(|domain| is_revoked_in(domain, &revoked, issuer, serial)), expected, "{serial}");
    }
    assert_eq!(lists[1].status(SystemTime::now()).trust_domains, ["partner.example"]);
    let alone = Trust::alone((*of(&mesh, [&own, &shared])).clone());
    let error = lists::read(Path::new("crl.pem"), &crl(&partner, &[2], 60), &alone).unwrap_err().to_string();
    assert!(error.contains("not signed with the key"), "{error}");
}

/// Fails if anybody but an authority of the mesh can cut a workload off, or if a file says nothing without a word.
#[test]
fn what_no_root_stands_behind_is_refused_with_its_line() {
    let (ours, other, namesake) = (root("a"), root("other"), root("a"));
    let good = crl(&ours, &[1], 60);
    let lines = good.lines().count();
    // One key, with and without the leave to sign lists.
    let key_pem = KeyPair::generate().unwrap().serialize_pem();
    let key = || KeyPair::from_pem(&key_pem).unwrap();
    let mute = CertifiedIssuer::self_signed(parameters("mute", &[]), key()).unwrap();
    let silent = parameters("mute", &[KeyUsagePurpose::KeyCertSign]);
    let silenced = CertifiedIssuer::self_signed(silent, key()).unwrap();
    let mut broken = good.clone();
    broken.truncate(good.len() / 2);
    for (bad, expected) in [
        (crl(&other, &[1], 60), "no root of the mesh"),
        (crl(&namesake, &[1], 60), "not signed with the key"),
        (crl(&mute, &[1], 60), "lacks cRLSign"),
        (other.pem(), "no authority that leads"),
        (broken, "expected a revocation list"),
        (key_pem.clone(), "expected a revocation list"),
        ("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n".to_owned(), "not a revocation list"),
    ] {
        let error = read(&format!("{good}{bad}"), &[&ours, &silenced]).unwrap_err();
        assert!(error.contains(expected) && error.starts_with(&format!("crl.pem:{}:", lines + 1)), "{error}");
        assert!(!error.contains("MIG"), "a secret in {error}");
    }
    for nothing in ["", "garbage", &ours.pem()] {
        assert!(read(nothing, &[&ours]).unwrap_err().contains("there is no revocation list"));
    }
}

/// Fails if the end of a list's time un-revokes what it lists, or passes unnoticed.
#[tokio::test]
async fn a_list_past_its_time_still_revokes_and_is_told() {
    let authority = root("a");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("crl.pem");
    fs::write(&path, crl(&authority, &[7], -60)).unwrap();
    let files = RevocationFiles::start(&[path], roots_of(&authority), system_clock()).await.unwrap();
    assert!(is_revoked(&files.revoked().borrow(), &authority, 7));
    let status = &files.statuses()[0];
    assert!(status.lists[0].expired && status.file.problem.is_none());
    assert!(status.file.warnings[0].contains("past its time"), "{status:?}");
    let later: Clock = Arc::new(|| SystemTime::now() + HOUR);
    let list = &read(&crl(&authority, &[7], 60), &[&authority]).unwrap()[0];
    assert!(!list.is_expired(SystemTime::now()) && list.is_expired(later()));
}

/// Fails if a bad edit un-revokes, if one file's change touches another's lists, or if a daemon starts without what it
/// was told to heed.
#[tokio::test]
async fn a_bad_edit_keeps_what_was_revoked_and_a_good_one_takes_effect() {
    let authority = root("a");
    let directory = tempfile::tempdir().unwrap();
    let paths = ["one.pem", "two.pem"].map(|name| directory.path().join(name));
    fs::write(&paths[0], crl(&authority, &[1], 60)).unwrap();
    let start = || RevocationFiles::start(&paths, roots_of(&authority), system_clock());
    assert_eq!(start().await.err().unwrap().reason(), "unreadable");
    fs::write(&paths[1], crl(&authority, &[2], 60)).unwrap();
    let files = start().await.unwrap();
    let mut revoked = files.revoked();
    let of = |revoked: &Revoked| [1, 2, 3].map(|serial| is_revoked(revoked, &authority, serial));
    assert_eq!(of(&revoked.borrow_and_update()), [true, true, false]);

    fs::write(&paths[0], "garbage").unwrap();
    until(&files, |status| status.problem.is_some()).await;
    assert_eq!(of(&revoked.borrow_and_update()), [true, true, false]);

    fs::write(&paths[0], crl(&authority, &[3], 60)).unwrap();
    until(&files, |status| status.problem.is_none()).await;
    assert_eq!(of(&revoked.borrow_and_update()), [false, true, true]);
}

/// Fails if an older list, validly signed, gives back what a newer one revokes.
#[tokio::test]
async fn an_older_list_does_not_replace_a_newer_one() {
    let authority = root("a");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("crl.pem");
    fs::write(&path, numbered(&authority, &[1, 2], 60, 256)).unwrap();
    let files = RevocationFiles::start(std::slice::from_ref(&path), roots_of(&authority), system_clock())
        .await
        .unwrap();
    fs::write(&path, numbered(&authority, &[1], 60, 255)).unwrap();
    until(&files, |status| status.problem.is_some()).await;
    assert!(files.statuses()[0].file.problem.as_ref().unwrap().error.contains("older than the one in force"));
    assert!(is_revoked(&files.revoked().borrow(), &authority, 2));
    fs::write(&path, numbered(&authority, &[1], 60, 257)).unwrap();
    until(&files, |status| status.problem.is_none()).await;
    assert!(!is_revoked(&files.revoked().borrow(), &authority, 2), "a newer one may");
}

/// Fails if a file may be of any size, or hold any number of authorities.
#[tokio::test]
async fn a_file_has_bounds() {
    let authority = root("a");
    let file = tempfile::NamedTempFile::new().unwrap();
    // Not even text beyond the limit: it is not read.
    let large = [crl(&authority, &[1], 60).into_bytes(), b" ".repeat(16 << 20), vec![0xff; 1 << 20]].concat();
    fs::write(file.path(), large).unwrap();
    let paths = [file.path().to_owned()];
    let refused = RevocationFiles::start(&paths, roots_of(&authority), system_clock()).await.err().unwrap();
    assert_eq!(refused.reason(), "too_large");
    let text = format!("{}{}", crl(&authority, &[1], 60), authority.pem().repeat(65));
    assert!(read(&text, &[&authority]).unwrap_err().contains("more than 64"));
}
