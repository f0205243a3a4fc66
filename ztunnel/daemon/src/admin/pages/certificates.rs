//! `/certificates`: with the keys of Istio's dumps, and ours beside them. Certificates only: no key comes near.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use base64::{Engine, prelude::BASE64_STANDARD};
use control::{CertificateState, CertificateStatus};
use model::{SpiffeId, Svid, SvidSource, svid::TrustBundle};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use x509_parser::{parse_x509_certificate, time::ASN1Time};

use super::super::{Admin, Answer, request::Request};
use crate::table::{Row, span};

pub(in crate::admin) const PARAMETERS: &[&str] = &["namespace", "name", "limit", "offset"];

#[derive(Clone)]
pub(super) struct CertificateView {
    status: CertificateStatus,
    svid: Option<Arc<Svid>>,
    /// What identities of its trust domain chain to.
    bundle: Option<Arc<TrustBundle>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    identity: &'a SpiffeId,
    /// Istio's word, with the error if there is one.
    state: String,
    cert_chain: Vec<Certificate>,
    root_certs: Vec<Certificate>,
    /// Ours, which tells more of them apart.
    lifecycle: CertificateState,
    serial: Option<&'a str>,
    /// When it will be issued, renewed or tried again.
    due: String,
    failures: u32,
    error: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    /// PEM, in base64 once more, as Istio has it.
    pem: String,
    /// Decimal.
    serial_number: String,
    valid_from: String,
    expiration_time: String,
}

pub(in crate::admin) fn page(admin: &Admin, request: &Request) -> Answer {
    let wanted = |certificate: &CertificateView| {
        let identity = &certificate.status.identity;
        request.matches(&[
            ("namespace", &|namespace| identity.namespace() == namespace),
            ("name", &|name| identity.service_account().contains(name)),
        ])
    };
    let views: Vec<_> = views(admin).filter(wanted).collect();
    Answer::list(request, views, CertificateView::clone)
}

/// By identity.
pub(super) fn views(admin: &Admin) -> impl Iterator<Item = CertificateView> + use<> {
    let svids = admin.certificates.svids().into_iter().map(|svid| (svid.identity.clone(), svid));
    let svids: HashMap<_, _> = svids.collect();
    let statuses = admin.certificates.statuses().into_iter();
    let trust = admin.certificates.trust();
    statuses.map(move |status| CertificateView {
        svid: svids.get(&status.identity).cloned(),
        bundle: trust.bundle(status.identity.trust_domain()).cloned(),
        status,
    })
}

impl CertificateView {
    fn state(&self) -> String {
        let error = self.status.error.as_deref().unwrap_or("it could not be renewed");
        match self.status.state {
            CertificateState::Valid | CertificateState::Renewing | CertificateState::Stale => {
                "Available".to_owned()
            }
            CertificateState::Initializing => "Initializing".to_owned(),
            CertificateState::Failing | CertificateState::Expired => format!("Unavailable: {error}"),
        }
    }
}

impl Serialize for CertificateView {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let chain = self.svid.iter().flat_map(|svid| &svid.chain);
        let roots = self.bundle.iter().flat_map(|bundle| &bundle.roots);
        let fields = Fields {
            identity: &self.status.identity,
            state: self.state(),
            cert_chain: chain.filter_map(|der| Certificate::of(der)).collect(),
            root_certs: roots.filter_map(|der| Certificate::of(der)).collect(),
            lifecycle: self.status.state,
            serial: self.status.serial.as_deref(),
            due: rfc3339(self.status.due.into()),
            failures: self.status.failures,
            error: self.status.error.as_deref(),
        };
        fields.serialize(serializer)
    }
}

impl Row for CertificateView {
    const HEADER: &'static [&'static str] =
        &["IDENTITY", "STATE", "SERIAL", "EXPIRES IN", "RENEWED IN", "ERROR"];

    fn cells(&self) -> Vec<String> {
        let CertificateStatus { identity, state, serial, not_after, due, error, .. } = &self.status;
        vec![
            identity.to_string(),
            format!("{state:?}").to_lowercase(),
            serial.clone().unwrap_or_default(),
            not_after.map(until).unwrap_or_default(),
            until(*due),
            error.clone().unwrap_or_default(),
        ]
    }
}

impl Certificate {
    fn of(der: &[u8]) -> Option<Self> {
        let (_, parsed) = parse_x509_certificate(der).ok()?;
        let time = |time: ASN1Time| rfc3339(time.to_datetime());
        Some(Self {
            pem: BASE64_STANDARD.encode(pem(der)),
            serial_number: parsed.serial.to_string(),
            valid_from: time(parsed.validity().not_before),
            expiration_time: time(parsed.validity().not_after),
        })
    }
}

/// RFC 7468, section 5.
fn pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn rfc3339(time: OffsetDateTime) -> String {
    time.replace_nanosecond(0).ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

fn until(time: SystemTime) -> String {
    let left = time.duration_since(SystemTime::now());
    left.map_or_else(|_| "now".to_owned(), |left| span(left.as_secs()))
}
