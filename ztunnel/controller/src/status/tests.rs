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
    let unenforced = Verdict { unenforced: vec!["methods is of layer 7".into()], ..Verdict::default() };
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

/// Fails if one policy whose status is refused kept all others from theirs, or if what is gone were kept.
#[tokio::test(start_paused = true)]
async fn a_status_that_cannot_be_written_waits_alone() {
    let verdicts = Verdicts::default();
    let named = |name: &str| {
        let object = json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": { "name": name, "namespace": "shop" },
        });
        let policy = Policy::of(&serde_json::from_value(object).unwrap(), PolicyKind::Authorization);
        (PolicyKind::Authorization, Arc::new(policy), Verdict::default())
    };
    verdicts.put(vec![named("a"), named("b"), named("c")], []);
    let (id, mut task) = verdicts.next().unwrap_or_else(|_| panic!("nothing is to be done"));
    task.not_before = Instant::now() + RETRY;
    verdicts.pending.lock().insert(id, task);
    assert_eq!(verdicts.next().map(|(id, _)| id.1.1).unwrap(), "b");
    verdicts.put(vec![], [(PolicyKind::Authorization, ("shop".to_owned(), "c".to_owned()))]);
    assert_eq!(verdicts.next().map(|(id, _)| id).unwrap_err(), RETRY);
    tokio::time::advance(RETRY).await;
    assert_eq!(verdicts.next().map(|(id, _)| id.1.1).unwrap(), "a");
}
