//! The redirection's own metrics.

use metrics::{counter, describe_counter, describe_gauge};
use model::WorkloadUid;
use redirect::{OlderConnection, VerdictCounts};
use telemetry::metrics::Page;

use crate::metrics::as_float;

const VERDICTS: &str = "ztunnel_redirection_verdicts_total";
const TAMPERING: &str = "ztunnel_tampering_repaired_total";
const OLDER: &str = "ztunnel_plaintext_connections_before_enrolment";

pub(crate) fn describe() {
    describe_counter!(VERDICTS, "What the eBPF programs decided, by verdict, since their maps were made.");
    describe_counter!(
        TAMPERING,
        "What was found undone in a pod's network namespace and put right, by finding."
    );
    describe_gauge!(
        OLDER,
        "Open connections of a pod that are older than its enrolment and go past the mesh in plaintext."
    );
}

/// The kernel counts; this only copies.
pub(crate) fn record(verdicts: VerdictCounts) {
    for (verdict, count) in verdicts {
        counter!(VERDICTS, "verdict" => verdict).absolute(count);
    }
}

pub(crate) fn tampered(finding: &'static str) {
    counter!(TAMPERING, "finding" => finding).increment(1);
}

/// Written from what there is now and not recorded: a pod's series is to leave with it.
pub(crate) fn write_older_connections(page: &mut Page<'_>, pods: &[(WorkloadUid, Vec<OlderConnection>)]) {
    let series =
        pods.iter().map(|(pod, connections)| ([("workload", pod.as_str())], as_float(connections.len())));
    page.gauges(OLDER, series);
}
