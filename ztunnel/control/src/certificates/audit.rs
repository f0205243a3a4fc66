//! Changes of whom the mesh's identities rest on, for the record: who looks into an incident asks for these first.

use model::{Trust, svid::TrustBundle};
use rustls_pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{CertificateEvent, EventSink};

/// What of the configuration of certificate authorities changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Of the mesh's own trust domain.
    Root,
    /// The certificate that the embedded CA signs with.
    Intermediate,
    /// The bundle of another trust domain.
    Bundle,
    /// What the embedded CA's files name is another trust domain.
    TrustDomain,
}

impl Change {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
            Self::Bundle => "bundle",
            Self::TrustDomain => "trust_domain",
        }
    }
}

/// Told once for each trust domain whose roots differ. What is known for the first time is recorded and not counted: that
/// is no change.
pub(super) fn trust_changed(what: Change, before: &Trust, after: &Trust, events: &EventSink) {
    for bundle in after.bundles() {
        let old = before.bundle(&bundle.trust_domain).map(|old| old.roots.as_slice()).unwrap_or_default();
        if old != bundle.roots {
            changed(what, bundle, old, events);
        }
    }
}

/// The embedded CA signs with another certificate from now on.
pub(super) fn signer_changed(
    what: Change,
    before: &CertificateDer<'_>,
    after: &CertificateDer<'_>,
    events: &EventSink,
) {
    let (before, after) = (fingerprint(before), fingerprint(after));
    tracing::warn!(target: "audit", change = what.as_str(), before, after, "the CA signs with another certificate");
    events(CertificateEvent::Changed(what));
}

/// Somebody tried to; what was before stays in force.
pub(super) fn refused(what: Change, error: &dyn std::error::Error, events: &EventSink) {
    tracing::warn!(target: "audit", change = what.as_str(), %error, "a change of the CA's configuration was refused");
    events(CertificateEvent::Changed(what));
}

fn changed(what: Change, bundle: &TrustBundle, old: &[CertificateDer<'static>], events: &EventSink) {
    let missing = |from: &[CertificateDer<'_>], roots: &[CertificateDer<'_>]| -> Vec<String> {
        from.iter().filter(|root| !roots.contains(root)).map(fingerprint).collect()
    };
    let (added, removed) = (missing(&bundle.roots, old), missing(old, &bundle.roots));
    let (trust_domain, roots) = (&bundle.trust_domain, bundle.roots.len());
    tracing::warn!(
        target: "audit",
        change = what.as_str(), %trust_domain, ?added, ?removed, roots, first = old.is_empty(),
        "CA configuration changed"
    );
    if !old.is_empty() {
        events(CertificateEvent::Changed(what));
    }
}

/// As in certificate tools: the SHA-256 of the whole certificate, in hexadecimal, and whose it is.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    let hexadecimal: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    match X509Certificate::from_der(certificate) {
        Ok((_, certificate)) => format!("{hexadecimal} ({})", certificate.subject()),
        Err(_) => hexadecimal,
    }
}
