//! The watched files' metrics: what an alert needs to know of an edit that was refused.

use std::time::SystemTime;

use control::{FileStatus, RevocationStatus};
use metrics::{Label, counter, describe_counter, describe_gauge, gauge};
use telemetry::metrics::Page;

const PROBLEM: &str = "ztunnel_file_problem";
const LOADS: &str = "ztunnel_file_loads_total";
const FAILURES: &str = "ztunnel_file_failures_total";
const LOADED_AT: &str = "ztunnel_file_loaded_timestamp_seconds";
const VERSION: &str = "ztunnel_file_version_info";
const REVOKED: &str = "ztunnel_revoked_certificates";
const LISTS_EXPIRED: &str = "ztunnel_revocation_lists_expired";
const NOT_ENFORCED: &str = "ztunnel_policies_not_fully_enforced";

pub(crate) fn describe() {
    describe_gauge!(
        NOT_ENFORCED,
        "Policies with a part of layer 7 or a mistake, which is not enforced and never widens access."
    );
    describe_gauge!(REVOKED, "Certificates that a file of revocation lists names.");
    describe_gauge!(
        LISTS_EXPIRED,
        "Revocation lists of a file that are past their time: what was revoked since is not known."
    );
    describe_gauge!(
        PROBLEM,
        "1 while a watched file is refused as it stands and the last good load is in force."
    );
    describe_counter!(LOADS, "Good loads of a watched file.");
    describe_counter!(FAILURES, "Refused loads of a watched file.");
    describe_gauge!(
        VERSION,
        "1, with the start of the SHA-256 of what is in force as a label: the same on nodes that agree."
    );
    describe_gauge!(LOADED_AT, "When what is in force was loaded, in Unix seconds.");
}

/// The file's account counts; this only copies.
pub(crate) fn record(file: &str, status: &FileStatus) {
    let label = || vec![Label::new("file", file.to_owned())];
    gauge!(PROBLEM, label()).set(if status.problem.is_some() { 1.0 } else { 0.0 });
    counter!(LOADS, label()).absolute(status.loads);
    counter!(FAILURES, label()).absolute(status.failures);
    if let Some(count) = status.objects.get("policiesNotFullyEnforced") {
        gauge!(NOT_ENFORCED).set(number(*count));
    }
    if let Some(at) = status.loaded_at {
        let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        gauge!(LOADED_AT, label()).set(at.as_secs_f64());
    }
}

/// Not recorded: a version's series is to leave with it.
pub(crate) fn write_versions(page: &mut Page<'_>, files: &[(String, FileStatus)]) {
    let versions = files.iter().filter_map(|(file, status)| {
        let version = status.version.as_deref()?;
        Some(([("file", file.as_str()), ("version", version)], 1.0))
    });
    page.gauges(VERSION, versions);
}

/// Of these there may be several, so they are told apart by their paths.
pub(crate) fn record_revocation(files: &[RevocationStatus]) {
    for RevocationStatus { file, lists } in files {
        let path = file.path.display().to_string();
        record(&path, file);
        let expired = lists.iter().filter(|list| list.expired).count();
        gauge!(LISTS_EXPIRED, "file" => path.clone()).set(number(expired));
        gauge!(REVOKED, "file" => path).set(number(lists.iter().map(|list| list.revoked).sum()));
    }
}

fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}
