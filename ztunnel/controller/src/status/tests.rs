//! What policies are told.
#![expect(clippy::needless_pass_by_value, reason = "values are written where they are handed over")]

use serde_json::json;

use super::*;

fn policy(conditions: Value) -> Policy {
    let object = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": { "name": "p", "namespace": "shop", "generation": 3 }, "status": { "conditions": conditions },
    });
    Policy::of(&serde_json::from_value(object).unwrap(), PolicyKind::Authorization)
}

/// Fails if others' conditions were lost, if the time changed without the status, or if the same were written for ever.
#[test]
fn conditions_are_written_once_and_beside_others() {
    let unenforced = Verdict { unenforced: vec!["methods is of layer 7".into()], wrong: Vec::new() };
    let other = json!({ "type": "Other", "status": "True" });
    let first = policy(json!([other]));
    assert!(!is_written(&first, &unenforced));
    let written = conditions(&first, &unenforced);
    assert_eq!(written[0], other);
    assert_eq!((&written[1]["status"], &written[1]["reason"]), (&json!("False"), &json!("UnsupportedValue")));
    assert_eq!(written[1]["observedGeneration"], 3);
    let mut earlier = written;
    earlier[1]["lastTransitionTime"] = json!("2020-01-01T00:00:00Z");
    let second = policy(json!(earlier));
    assert!(is_written(&second, &unenforced));
    let wrong = Verdict { wrong: vec!["`x` is not a port".into()], ..unenforced };
    assert!(!is_written(&second, &wrong));
    let rewritten = conditions(&second, &wrong);
    assert_eq!(rewritten[1]["reason"], "Invalid");
    assert_eq!(rewritten[1]["lastTransitionTime"], "2020-01-01T00:00:00Z", "it was False before");
    assert_eq!(rewritten.len(), 2);
}
