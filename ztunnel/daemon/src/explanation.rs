//! An explanation for people. Made of its JSON form, so that what a daemon answered and what was worked out here from
//! files look alike.

use serde_json::Value;

pub(crate) const NOTHING: &str = "nothing was explained";

/// One part for each way that the connection may take.
pub(crate) fn text(explanations: &Value) -> String {
    let parts = explanations.as_array().map(Vec::as_slice).unwrap_or_default();
    if parts.is_empty() {
        return format!("{NOTHING}\n");
    }
    parts.iter().map(one).collect::<Vec<_>>().join("\n")
}

pub(crate) fn is_allowed(explanations: &Value) -> bool {
    let parts = explanations.as_array().map(Vec::as_slice).unwrap_or_default();
    !parts.is_empty() && parts.iter().all(|part| part["refused"].is_null())
}

fn one(explanation: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let steps = explanation["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut text: String =
        steps.iter().map(|step| format!("{:<20}{}\n", word(&step["topic"]), word(&step["says"]))).collect();
    let verdict = match (&explanation["refused"], &explanation["mutualTls"]) {
        (Value::String(reason), _) => format!("refused: {reason}"),
        _ if explanation["direct"] == true => "allowed, directly on this node, without TLS".to_owned(),
        (_, Value::Bool(true)) => "allowed, over mutual TLS".to_owned(),
        (_, Value::Bool(false)) => "allowed, in plaintext".to_owned(),
        _ => "allowed".to_owned(),
    };
    text.push_str(&format!("{:<20}{verdict}\n", "=>"));
    text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_verdict_comes_last_and_an_empty_answer_allows_nothing() {
        let step = json!({ "topic": "source", "says": "a" });
        let told = json!([{ "steps": [step], "refused": null, "mutualTls": true }]);
        assert_eq!(text(&told), "source              a\n=>                  allowed, over mutual TLS\n");
        assert!(is_allowed(&told));
        let told = json!([{ "steps": [], "refused": null, "mutualTls": false, "direct": true }]);
        assert_eq!(text(&told), "=>                  allowed, directly on this node, without TLS\n");
        let told = json!([{ "steps": [], "refused": "not_allowed", "direct": true }]);
        assert_eq!(text(&told), "=>                  refused: not_allowed\n");
        assert!(!is_allowed(&told) && !is_allowed(&json!([])) && !is_allowed(&json!({})));
    }
}
