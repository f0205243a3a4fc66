//! The redirection's own metrics.

use std::fmt::Write;

use metrics::{counter, describe_counter};
use model::WorkloadUid;
use redirect::{OlderConnection, VerdictCounts};

const VERDICTS: &str = "ztunnel_redirection_verdicts_total";
const TAMPERING: &str = "ztunnel_tampering_repaired_total";
const OLDER: &str = "ztunnel_plaintext_connections_before_enrolment";

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

/// In the Prometheus text format. Written from what there is now and not recorded, since a recorder remembers the
/// series of every pod that ever was.
pub(crate) fn older_connections(pods: &[(WorkloadUid, Vec<OlderConnection>)]) -> String {
    let help =
        "Open connections of a pod that are older than its enrolment and go past the mesh in plaintext.";
    let mut text = format!("# HELP {OLDER} {help}\n# TYPE {OLDER} gauge\n");
    for (workload, connections) in pods {
        let _ = writeln!(text, "{OLDER}{{workload=\"{}\"}} {}", escaped(workload), connections.len());
    }
    text
}

/// Prometheus text format 0.0.4: label values.
fn escaped(workload: &WorkloadUid) -> String {
    workload.as_str().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An unescaped quote would make the whole page unreadable to Prometheus.
    #[test]
    fn a_workload_of_any_name_is_one_label() {
        let text = older_connections(&[(WorkloadUid::new("a\"b\\c\nd"), Vec::new())]);
        assert_eq!(
            text.lines().last(),
            Some(r#"ztunnel_plaintext_connections_before_enrolment{workload="a\"b\\c\nd"} 0"#)
        );
    }
}
