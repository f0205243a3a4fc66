//! The source of certificates as configured, and its metrics: what an alert needs to know long before one expires.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use control::{
    BundleFile, Bundles, CaWatch, CertificateEvent, CertificateSettings, CertificateStatus, Certificates,
    EmbeddedCa, FileStatus, IstioCa, system_clock,
};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, histogram};
use model::{SharedSnapshot, Snapshot, SvidSource, TrustDomain, TrustDomains};
use telemetry::metrics::Page;

use crate::config::Config;

const FETCH: &str = "ztunnel_certificate_fetch_seconds";
const FAILURES: &str = "ztunnel_certificate_fetch_failures_total";
const CHANGES: &str = "ztunnel_ca_configuration_changes_total";
const EXPIRY: &str = "ztunnel_certificate_expiry_seconds";
const LEFT: &str = "ztunnel_certificate_left_seconds";

pub(crate) fn describe() {
    describe_histogram!(FETCH, "How long the authority took to answer, in seconds, by result.");
    describe_counter!(FAILURES, "Certificates that the authority did not give, by reason.");
    describe_counter!(
        CHANGES,
        "Changes of what identities rest on: roots, an intermediate, a bundle of another trust domain."
    );
    describe_gauge!(EXPIRY, "When the certificate of an identity expires, in Unix seconds.");
    describe_gauge!(LEFT, "How long the certificate of an identity is still valid.");
}

/// The certificates, and the files that what they rest on comes from.
pub(crate) struct Source {
    certificates: Arc<Certificates>,
    bundles: BTreeMap<TrustDomain, BundleFile>,
    /// Of the embedded CA.
    ca: Option<CaWatch>,
}

impl Source {
    pub(crate) async fn start(config: &Config) -> anyhow::Result<Self> {
        let section = &config.certificates;
        let mut settings = CertificateSettings::new(config.trust_domain.clone());
        settings.trust_domains = section.trust_domains(&config.trust_domain);
        settings.events = Arc::new(|event| record(&event));
        let lifetime = config.certificate_lifetime.0;
        let (certificates, embedded) = match (section.files(config)?, section.channel(config)) {
            (Some(files), _) => {
                let ca = EmbeddedCa::open(files, config.trust_domain.clone(), lifetime, system_clock())?;
                (Certificates::start(ca.clone(), settings), Some(ca))
            }
            (None, Some(channel)) => (Certificates::start(IstioCa::new(channel, lifetime), settings), None),
            (None, None) => bail!("certificates.authority: is not set"),
        };
        let certificates = Arc::new(certificates);
        let mut bundles = BTreeMap::new();
        for (domain, path) in &section.bundles {
            let file = BundleFile::start(path, domain.clone(), Arc::clone(&certificates)).await;
            bundles.insert(domain.clone(), file.with_context(|| format!("certificates.bundles.{domain}"))?);
        }
        tracing::warn!(
            target: "audit",
            source = ?section.source, trust_domain = %config.trust_domain,
            trust_domains = ?settings_of(config), "CA configuration in force"
        );
        let ca = embedded.map(|ca| ca.follow(Arc::clone(&certificates)));
        Ok(Self { certificates, bundles, ca })
    }

    pub(crate) fn certificates(&self) -> &Arc<Certificates> {
        &self.certificates
    }

    /// Whose roots may sign revocation lists, whenever it is asked.
    pub(crate) fn trusted(&self) -> Bundles {
        let certificates = Arc::clone(&self.certificates);
        Arc::new(move || certificates.trust())
    }

    /// The accounts of the files, by what they are.
    pub(crate) fn files(&self) -> BTreeMap<String, FileStatus> {
        let bundles = self.bundles.iter().map(|(domain, file)| (format!("bundle:{domain}"), file.status()));
        let ca = self.ca.iter().map(|ca| ("ca".to_owned(), ca.status()));
        bundles.chain(ca).map(|(name, status)| (name, status.borrow().clone())).collect()
    }
}

/// The mesh before anything of it is known, but for the trust domains it may be of.
pub(crate) fn first_snapshot(config: &Config) -> SharedSnapshot {
    let mut snapshot = Snapshot::default();
    snapshot.set_trust_domains(settings_of(config));
    let shared = SharedSnapshot::default();
    shared.publish(snapshot);
    shared
}

fn settings_of(config: &Config) -> TrustDomains {
    config.certificates.trust_domains(&config.trust_domain)
}

fn record(event: &CertificateEvent) {
    match event {
        CertificateEvent::Issued { took, .. } => fetched("issued", *took),
        CertificateEvent::Failed { reason, took, .. } => {
            fetched("failed", *took);
            counter!(FAILURES, "reason" => *reason).increment(1);
        }
        CertificateEvent::Changed(what) => counter!(CHANGES, "change" => what.as_str()).increment(1),
    }
}

fn fetched(result: &'static str, took: Duration) {
    histogram!(FETCH, "result" => result).record(took.as_secs_f64());
}

/// One series for each identity that there is now. Not recorded: it is to leave with the identity.
pub(crate) fn write_lifetimes(page: &mut Page<'_>, statuses: &[CertificateStatus], now: SystemTime) {
    let ends: Vec<_> =
        statuses.iter().filter_map(|status| Some((status.identity.to_string(), status.not_after?))).collect();
    let series = |since: SystemTime| {
        let until = move |end: SystemTime| end.duration_since(since).unwrap_or_default().as_secs_f64();
        ends.iter().map(move |(identity, end)| ([("identity", identity.as_str())], until(*end)))
    };
    page.gauges(EXPIRY, series(SystemTime::UNIX_EPOCH));
    page.gauges(LEFT, series(now));
}

#[cfg(test)]
mod tests {
    use control::CertificateState;

    use super::*;

    #[test]
    fn what_is_left_is_told_for_each_identity_that_has_one() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let status = |account: &str, left: Option<u64>| CertificateStatus {
            identity: format!("spiffe://cluster.local/ns/default/sa/{account}").parse().unwrap(),
            state: CertificateState::Valid,
            serial: None,
            not_before: None,
            not_after: left.map(|left| now + Duration::from_secs(left)),
            due: now,
            failures: 0,
            error: None,
        };
        let (_, exporter) = telemetry::metrics::recorder();
        let statuses = [status("a", Some(5400)), status("none", None)];
        let text = exporter.render(|page| write_lifetimes(page, &statuses, now));
        let series = "{identity=\"spiffe://cluster.local/ns/default/sa/a\"}";
        assert!(text.contains(&format!("{LEFT}{series} 5400\n")), "{text}");
        assert!(text.contains(&format!("{EXPIRY}{series} 1005400\n")), "{text}");
        assert!(!text.contains("none"), "{text}");
    }
}
