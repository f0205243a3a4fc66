//! The lists of one file in PEM, each with an authority of the mesh behind it.
//!
//! What a list says is not trusted but for its signature: whoever could slip one in could cut off any workload. A list
//! that may speak of other issuers' certificates (indirect), of changes to another list (delta), or of anything else
//! that must be understood and is not, is refused, as RFC 5280, section 5.2, asks for.

use std::{cmp::Ordering, path::Path, sync::Arc, time::SystemTime};

use model::{Trust, TrustDomain, revocation::RevocationList, svid::TrustBundle};
use rustls_pki_types::{
    CertificateDer,
    pem::{PemObject, SectionKind},
};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{ParsedExtension, X509Extension},
    oid_registry::{Oid, asn1_rs::oid},
    prelude::FromDer,
    revocation_list::CertificateRevocationList,
};

use super::ListStatus;
use crate::{certificates::instant, file::FileError};

/// RFC 5280, section 5.2.4.
const DELTA: Oid<'static> = oid!(2.5.29.27);
/// Certificates of authorities in one file: each may be tried for each list.
const MAX_AUTHORITIES: usize = 64;
/// Of a file: some hundred thousand entries.
pub(super) const MAX_BYTES: u64 = 16 << 20;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct List {
    pub(super) list: Arc<RevocationList>,
    issuer: String,
    /// Of whom it speaks: those whose bundle its signer leads to, by all their names.
    pub(super) trust_domains: Vec<TrustDomain>,
    /// Of the authority: two of one name count their lists each for itself.
    key: Vec<u8>,
    /// Its digits to the base of 256, without leading zeros.
    number: Option<Vec<u8>>,
    this_update: SystemTime,
    next_update: Option<SystemTime>,
}

/// One section of the file.
struct Section {
    line: u64,
    kind: SectionKind,
    der: Vec<u8>,
}

/// All lists of the file, or what is wrong with the first that is no good.
pub(super) fn read(path: &Path, text: &str, trust: &Trust) -> Result<Vec<List>, FileError> {
    let invalid =
        |line: u64, message: String| FileError::Invalid { path: path.to_owned(), line, column: 1, message };
    if text.matches("-----BEGIN CERTIFICATE-----").nth(MAX_AUTHORITIES).is_some() {
        return Err(invalid(1, format!("more than {MAX_AUTHORITIES} certificates")));
    }
    let sections = sections(text).map_err(|line| {
        invalid(line, "expected a revocation list (X509 CRL) or a certificate, in PEM".to_owned())
    })?;
    let (lists, certificates): (Vec<_>, Vec<_>) =
        sections.iter().partition(|section| section.kind == SectionKind::Crl);
    if lists.is_empty() {
        let message = "there is no revocation list; one without entries revokes nothing".to_owned();
        return Err(invalid(1, message));
    }
    let authorities = authorities(&certificates, trust).map_err(|(line, message)| invalid(line, message))?;
    let list = |section: &&Section| {
        list(&section.der, &authorities).map_err(|message| invalid(section.line, message))
    };
    lists.iter().map(list).collect()
}

/// Or the line of what is none.
fn sections(text: &str) -> Result<Vec<Section>, u64> {
    let mut sections = Vec::new();
    let mut starts = text.match_indices("-----BEGIN ").map(|(at, _)| at).peekable();
    let (mut line, mut counted) = (1, 0);
    while let Some(start) = starts.next() {
        let end = starts.peek().copied().unwrap_or(text.len());
        line += text[counted..start].bytes().filter(|&byte| byte == b'\n').map(|_| 1_u64).sum::<u64>();
        counted = start;
        let (kind, der) = <(SectionKind, Vec<u8>)>::from_pem_slice(&text.as_bytes()[start..end])
            .ok()
            .filter(|(kind, _)| matches!(kind, SectionKind::Crl | SectionKind::Certificate))
            .ok_or(line)?;
        sections.push(Section { line, kind, der });
    }
    Ok(sections)
}

/// Who may sign lists about the certificates of one bundle's trust domain.
struct Authorities<'a> {
    trust_domains: Vec<TrustDomain>,
    certificates: Vec<X509Certificate<'a>>,
}

/// For each bundle its roots, and the authorities of the file that lead to one. Each must lead to one of some bundle.
fn authorities<'a>(given: &[&'a Section], trust: &'a Trust) -> Result<Vec<Authorities<'a>>, (u64, String)> {
    let mut certificates = Vec::new();
    for section in given {
        let parsed = X509Certificate::from_der(&section.der);
        let (_, certificate) = parsed.map_err(|_| (section.line, "not a certificate".to_owned()))?;
        certificates.push((section.line, certificate));
    }
    let mut stray: Vec<u64> = certificates.iter().map(|(line, _)| *line).collect();
    let mut all = Vec::new();
    for bundle in trust.bundles() {
        let (known, strangers) = leading_to(bundle, certificates.clone());
        stray.retain(|line| strangers.contains(line));
        let trust_domains = trust.domains().names(&bundle.trust_domain).cloned().collect();
        all.push(Authorities { trust_domains, certificates: known });
    }
    match certificates.iter().find(|(line, _)| stray.contains(line)) {
        Some((line, certificate)) => {
            let subject = certificate.subject();
            Err((*line, format!("`{subject}` is no authority that leads to a root of the mesh")))
        }
        None => Ok(all),
    }
}

/// The bundle's roots and those that lead to one; and the lines of those that do not.
fn leading_to<'a>(
    bundle: &'a TrustBundle,
    mut waiting: Vec<(u64, X509Certificate<'a>)>,
) -> (Vec<X509Certificate<'a>>, Vec<u64>) {
    let parse = |root: &'a CertificateDer<'_>| X509Certificate::from_der(root).ok();
    let mut known: Vec<_> =
        bundle.roots.iter().filter_map(parse).map(|(_, certificate)| certificate).collect();
    // Each round takes in those whose issuer is known by then.
    loop {
        let (ready, rest): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(_, certificate)| vouched_for(certificate, &known));
        if ready.is_empty() {
            return (known, rest.into_iter().map(|(line, _)| line).collect());
        }
        known.extend(ready.into_iter().map(|(_, certificate)| certificate));
        waiting = rest;
    }
}

fn vouched_for(certificate: &X509Certificate<'_>, known: &[X509Certificate<'_>]) -> bool {
    let signs = |authority: &X509Certificate<'_>| {
        authority.subject().as_raw() == certificate.issuer().as_raw()
            && certificate.verify_signature(Some(authority.public_key())).is_ok()
    };
    certificate.is_ca() && known.iter().any(signs)
}

fn list(der: &[u8], authorities: &[Authorities<'_>]) -> Result<List, String> {
    let (rest, list) =
        CertificateRevocationList::from_der(der).map_err(|_| "not a revocation list".to_owned())?;
    if !rest.is_empty() {
        return Err("something follows the revocation list".to_owned());
    }
    let issuer = list.issuer().to_string();
    let (key, trust_domains) =
        signer(&list, authorities).map_err(|problem| format!("the list of `{issuer}`: {problem}"))?;
    check_extensions(&list).map_err(|problem| format!("the list of `{issuer}`: {problem}"))?;
    let serials = list.iter_revoked_certificates().map(|entry| entry.raw_serial());
    Ok(List {
        list: Arc::new(RevocationList::new(trust_domains.iter().cloned(), list.issuer().as_raw(), serials)),
        key,
        number: list.crl_number().map(|number| number.to_bytes_be()),
        this_update: instant(list.last_update()),
        next_update: list.next_update().map(instant),
        trust_domains,
        issuer,
    })
}

const UNKNOWN_ISSUER: &str =
    "its issuer is no root of the mesh, and no certificate in this file leads from it to one";

/// The key that signed it, and of which trust domains it may speak.
fn signer(
    list: &CertificateRevocationList<'_>,
    authorities: &[Authorities<'_>],
) -> Result<(Vec<u8>, Vec<TrustDomain>), &'static str> {
    let (mut signed, mut problem) = (None, UNKNOWN_ISSUER);
    for Authorities { trust_domains, certificates } in authorities {
        match check_signature(list, certificates) {
            Ok(key) => {
                signed.get_or_insert((key, Vec::new())).1.extend(trust_domains.iter().cloned());
            }
            // What is closer to the mark is told.
            Err(found) if found != UNKNOWN_ISSUER => problem = found,
            Err(_) => {}
        }
    }
    signed.ok_or(problem)
}

/// The key that signed it. Names alone prove nothing: two roots of one name are not one authority.
fn check_signature(
    list: &CertificateRevocationList<'_>,
    authorities: &[X509Certificate<'_>],
) -> Result<Vec<u8>, &'static str> {
    let named = |authority: &&X509Certificate<'_>| authority.subject().as_raw() == list.issuer().as_raw();
    let mut named = authorities.iter().filter(named).peekable();
    if named.peek().is_none() {
        return Err(UNKNOWN_ISSUER);
    }
    let signer = named.find(|authority| list.verify_signature(authority.public_key()).is_ok());
    let signer = signer.ok_or("it is not signed with the key of that authority")?;
    let usage = signer.key_usage().map_err(|_| "the authority's key usage is not understood")?;
    match usage {
        Some(usage) if !usage.value.crl_sign() => Err("the authority's key usage lacks cRLSign"),
        _ => Ok(signer.public_key().raw.to_vec()),
    }
}

fn check_extensions(list: &CertificateRevocationList<'_>) -> Result<(), String> {
    for extension in list.extensions() {
        if extension.oid == DELTA {
            return Err("it tells only changes (delta); give a complete list".to_owned());
        }
        match extension.parsed_extension() {
            ParsedExtension::IssuingDistributionPoint(point) if !point.indirect_crl => {}
            ParsedExtension::IssuingDistributionPoint(_) => {
                return Err(
                    "it lists certificates of other issuers (indirect), which is not supported".to_owned()
                );
            }
            _ => refuse_critical(extension)?,
        }
    }
    let entries = list.iter_revoked_certificates();
    entries.flat_map(|entry| entry.extensions()).try_for_each(refuse_critical)
}

fn refuse_critical(extension: &X509Extension<'_>) -> Result<(), String> {
    match extension.critical {
        true => Err(format!("its critical extension {} is not understood", extension.oid)),
        false => Ok(()),
    }
}

/// What is wrong with putting `new` in the place of `old`, if an authority's newest list there is older.
pub(super) fn older(old: &[List], new: &[List]) -> Option<String> {
    let is_older = |list: &&List| {
        let known = old.iter().any(|known| list.age_against(known) == Some(Ordering::Less));
        known && !new.iter().any(|other| other != *list && list.age_against(other) == Some(Ordering::Less))
    };
    new.iter().find(is_older).map(|list| {
        format!("the revocation list of `{}` is older than the one in force; give the newest", list.issuer)
    })
}

impl List {
    /// `None`: they are not of one authority.
    fn age_against(&self, other: &Self) -> Option<Ordering> {
        let numbers = self.number.as_ref().zip(other.number.as_ref());
        let order = match numbers {
            Some((own, others)) => (own.len(), own).cmp(&(others.len(), others)),
            None => self.this_update.cmp(&other.this_update),
        };
        (self.issuer == other.issuer && self.key == other.key).then_some(order)
    }

    pub(super) fn is_expired(&self, now: SystemTime) -> bool {
        self.next_update.is_some_and(|next| next <= now)
    }

    pub(super) fn warning(&self, now: SystemTime) -> Option<String> {
        let Self { issuer, .. } = self;
        if self.next_update.is_none() {
            return Some(format!("the revocation list of `{issuer}` does not say when the next is due"));
        }
        self.is_expired(now).then(|| {
            format!(
                "the revocation list of `{issuer}` is past its time: what was revoked since is not known here; \
                 what it lists stays revoked"
            )
        })
    }

    pub(super) fn status(&self, now: SystemTime) -> ListStatus {
        ListStatus {
            issuer: self.issuer.clone(),
            trust_domains: self.trust_domains.iter().map(ToString::to_string).collect(),
            revoked: self.list.len(),
            this_update: self.this_update,
            next_update: self.next_update,
            expired: self.is_expired(now),
        }
    }
}
