//! The redirection's own metrics.

use metrics::{counter, describe_counter};
use redirect::VerdictCounts;

const VERDICTS: &str = "ztunnel_redirection_verdicts_total";
const TAMPERING: &str = "ztunnel_tampering_repaired_total";

pub(crate) fn describe() {
    describe_counter!(VERDICTS, "What the eBPF programs decided, by verdict, since their maps were made.");
    describe_counter!(
        TAMPERING,
        "What was found undone in a pod's network namespace and put right, by finding."
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
