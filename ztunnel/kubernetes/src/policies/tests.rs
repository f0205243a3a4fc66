//! What is read of policies, and that the CRDs are what an API server takes.
#![expect(clippy::needless_pass_by_value, reason = "values are written where they are handed over")]

use serde_json::json;

use super::*;

fn object(spec: Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": { "name": "p", "namespace": "shop" }, "spec": spec,
    }))
    .unwrap()
}

/// Fails if a condition that nobody here knows were dropped silently: the rule would match more than it says.
#[test]
fn unknown_fields_are_kept() {
    let spec: AuthorizationPolicySpec =
        read_spec(&object(json!({ "rules": [{ "from": [{ "source": { "planets": ["mars"] } }] }] })))
            .unwrap();
    assert_eq!(spec.rules[0].from[0].source.unknown["planets"], json!(["mars"]));
    assert_eq!(spec.action, Action::Allow);
    assert!(read_spec::<AuthorizationPolicySpec>(&object(json!({ "action": "PERHAPS" }))).is_err());
    assert!(read_spec::<AuthorizationPolicySpec>(&object(json!({ "rules": { "from": 1 } }))).is_err());
}

/// Fails if the API server would refuse a CRD, or not check what is written: structural schemas name the type of all.
#[test]
fn the_crds_have_schemas_status_and_columns() {
    for crd in crds() {
        let version = &crd.spec.versions[0];
        let schema = serde_json::to_value(version.schema.as_ref().unwrap()).unwrap();
        let spec = &schema["openAPIV3Schema"]["properties"]["spec"];
        assert_eq!(spec["type"], "object", "{schema}");
        assert_eq!(spec["properties"]["selector"]["properties"]["matchLabels"]["type"], "object", "{schema}");
        assert!(spec["properties"]["unknown"].is_null(), "{schema}");
        assert!(version.subresources.as_ref().unwrap().status.is_some());
        let columns = version.additional_printer_columns.as_ref().unwrap();
        assert!(columns.iter().any(|column| column.name == "Accepted"), "{columns:?}");
        assert!(!schema.to_string().contains("\"additionalProperties\":true"), "{schema}");
    }
}
