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

/// Of all ways together. Where one is refused, nothing better can be said of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    Refused,
    /// Somebody else decides, or what it depends on is not known here.
    Undecided,
}

pub(crate) fn verdict(explanations: &Value) -> Verdict {
    let parts = explanations.as_array().map(Vec::as_slice).unwrap_or_default();
    if parts.is_empty() || parts.iter().any(|part| !part["refused"].is_null()) {
        return Verdict::Refused;
    }
    let undecided = parts.iter().any(|part| !part["undecided"].is_null());
    if undecided { Verdict::Undecided } else { Verdict::Allowed }
}

fn one(explanation: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let steps = explanation["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut text: String =
        steps.iter().map(|step| format!("{:<20}{}\n", word(&step["topic"]), word(&step["says"]))).collect();
    let verdict = match (&explanation["refused"], &explanation["mutualTls"]) {
        (Value::String(reason), _) => format!("refused: {reason}"),
        _ if explanation["undecided"].is_string() => {
            format!("not decided here: {}", word(&explanation["undecided"]))
        }
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
        assert_eq!(verdict(&told), Verdict::Allowed);
        let told = json!([{ "steps": [], "refused": null, "mutualTls": false, "direct": true }]);
        assert_eq!(text(&told), "=>                  allowed, directly on this node, without TLS\n");
        let told = json!([{ "steps": [], "refused": "not_allowed", "direct": true }]);
        assert_eq!(text(&told), "=>                  refused: not_allowed\n");
        for nothing in [told, json!([]), json!({})] {
            assert_eq!(verdict(&nothing), Verdict::Refused);
        }
    }

    /// Would break if a gate in front of a deployment took for allowed what only the waypoint decides.
    #[test]
    fn what_is_not_decided_here_is_neither_allowed_nor_refused() {
        let open =
            json!({ "steps": [], "refused": null, "mutualTls": true, "undecided": "waypoint_decides" });
        assert_eq!(text(&json!([open])), "=>                  not decided here: waypoint_decides\n");
        let [allowed, refused] = [json!(null), json!("not_allowed")].map(|word| json!({ "refused": word }));
        assert_eq!(verdict(&json!([allowed, open])), Verdict::Undecided);
        assert_eq!(verdict(&json!([open, refused])), Verdict::Refused);
    }
}
