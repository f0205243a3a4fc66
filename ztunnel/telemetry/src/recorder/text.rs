//! The Prometheus text format 0.0.4, as far as names and labels go.

use ::metrics::{Key, Label};

/// Labels whose values are words of ours: they stay when a family has no room for more.
const VOCABULARY: [&str; 9] = [
    "reporter",
    "response_flags",
    "request_protocol",
    "connection_security_policy",
    "reason",
    "role",
    "decision",
    "audit",
    "family",
];

const UNKNOWN: &str = "unknown";

/// `name{label="value",...}`
pub(super) fn series(key: &Key) -> String {
    written(key, Label::value)
}

/// The same with `unknown` for all that others have a say in.
pub(super) fn folded(key: &Key) -> String {
    written(key, |label| if VOCABULARY.contains(&label.key()) { label.value() } else { UNKNOWN })
}

fn written<'k>(key: &'k Key, value: impl Fn(&'k Label) -> &'k str) -> String {
    let mut text = String::with_capacity(64);
    text.push_str(key.name());
    labels(&mut text, key.labels().map(|label| (label.key(), value(label))));
    text
}

/// Nothing for none.
pub(super) fn labels<'n, 'v>(text: &mut String, labels: impl IntoIterator<Item = (&'n str, &'v str)>) {
    let mut opening = '{';
    for (name, value) in labels {
        text.push(opening);
        opening = ',';
        text.push_str(name);
        text.push_str("=\"");
        value.chars().for_each(|c| match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        });
        text.push('"');
    }
    if opening == ',' {
        text.push('}');
    }
}

/// The two lines that come before a family's series.
pub(super) fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    for part in ["# HELP ", name, " ", &help, "\n# TYPE ", name, " ", kind, "\n"] {
        text.push_str(part);
    }
}

pub(super) fn seconds(nanoseconds: u64) -> f64 {
    std::time::Duration::from_nanos(nanoseconds).as_secs_f64()
}
