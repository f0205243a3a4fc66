//! The trace that a peer says its connection belongs to.

use telemetry::TraceId;

/// It stands in our log, and goes on to the next node: 32 hexadecimal digits come of it, those of the header, or nothing.
pub fn traceparent(data: &[u8]) {
    let Some(text) = crate::text(data) else { return };
    let Some(trace) = TraceId::of(text) else { return };
    let told = trace.to_string();
    assert_eq!(text.get(3..35), Some(told.as_str()), "{text} is taken for another trace");
    assert!(told.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit)), "{told}");
    assert_ne!(told, "0".repeat(32), "the trace that is none");
    assert_eq!(
        TraceId::of(&format!("00-{told}-{:016x}-00", 1)),
        Some(trace),
        "{text}: it changes on its way"
    );
}
