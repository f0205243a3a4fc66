//! TokenReview: who a token stands for, as the test has said.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Whom a token stands for, and for whom it is meant.
#[derive(Clone, Debug, Default)]
pub struct Reviewed {
    pub username: String,
    pub audiences: Vec<String>,
    /// As in `status.user.extra`.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Reviewed {
    /// The projected token of a pod's service account.
    pub fn pod(namespace: &str, service_account: &str, pod: &str, node: &str, audience: &str) -> Self {
        let extra = [("pod-name", pod), ("node-name", node)]
            .map(|(name, value)| (format!("authentication.kubernetes.io/{name}"), vec![value.to_owned()]));
        Self {
            username: format!("system:serviceaccount:{namespace}:{service_account}"),
            audiences: vec![audience.to_owned()],
            extra: extra.into(),
        }
    }
}

/// The review with its status.
pub(super) fn answer(mut review: Value, known: impl Fn(&str) -> Option<Reviewed>) -> Value {
    let wanted: Vec<&str> =
        review["spec"]["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let status = match known(review["spec"]["token"].as_str().unwrap_or_default()) {
        None => json!({ "authenticated": false, "error": "[invalid bearer token]" }),
        Some(reviewed) => {
            let shared: Vec<&String> =
                reviewed.audiences.iter().filter(|audience| wanted.contains(&audience.as_str())).collect();
            if shared.is_empty() {
                json!({ "authenticated": false, "error": "token audiences are not among those asked for" })
            } else {
                let user = json!({ "username": reviewed.username, "extra": reviewed.extra });
                json!({ "authenticated": true, "user": user, "audiences": shared })
            }
        }
    };
    review["status"] = status;
    review
}

/// SelfSubjectAccessReview: whoever asks may do all that is not forbidden, by resource.
pub(super) fn access(mut review: Value, forbidden: &[String]) -> Value {
    let resource = review["spec"]["resourceAttributes"]["resource"].as_str().unwrap_or_default();
    let allowed = !forbidden.iter().any(|name| name == resource);
    review["status"] = json!({ "allowed": allowed });
    review
}
