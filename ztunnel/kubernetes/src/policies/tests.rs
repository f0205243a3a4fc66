//! What is read of policies, and that the CRDs are what an API server takes.
#![expect(clippy::needless_pass_by_value, reason = "values are written where they are handed over")]

use kube::CustomResourceExt;
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

fn parsed(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// The chart's CRDs, each with what our type would be as one.
fn both() -> [(Value, Value); 2] {
    let [authorization, peers] = crds().map(parsed);
    [(authorization, json!(AuthorizationPolicy::crd())), (peers, json!(PeerAuthentication::crd()))]
}

/// Fails if the API server dropped or refused what is read here, or took what nobody reads: each field of the chart's CRDs is
/// one of the types', with the same type and values, and what is known to neither reaches us.
#[test]
fn the_chart_s_crds_are_the_types() {
    for (chart, types) in both() {
        for name in ["group", "scope"] {
            assert_eq!(chart["spec"][name], types["spec"][name]);
        }
        for name in ["kind", "plural", "singular", "shortNames", "categories"] {
            assert_eq!(chart["spec"]["names"][name], types["spec"]["names"][name], "{name}");
        }
        let of_version = |crd: &Value, pointer: &str| {
            let version = &crd["spec"]["versions"][0];
            version.pointer(pointer).unwrap_or_else(|| panic!("no {pointer}: {version}")).clone()
        };
        for crd in [&chart, &types] {
            assert_eq!(of_version(crd, "/name"), "v1");
            assert_eq!(of_version(crd, "/subresources/status"), json!({}));
        }
        let spec = "/schema/openAPIV3Schema/properties/spec";
        same("spec", &of_version(&chart, spec), &of_version(&types, spec));
        let columns = of_version(&chart, "/additionalPrinterColumns");
        let accepted =
            columns.as_array().unwrap().iter().find(|column| column["name"] == "Accepted").unwrap();
        assert!(accepted["jsonPath"].as_str().unwrap().contains(&format!("\"{CONDITION}\"")), "{accepted}");
    }
}

fn same(path: &str, chart: &Value, types: &Value) {
    assert_eq!(chart["type"], types["type"], "{path}");
    let values = |schema: &Value| {
        let mut values: Vec<String> = schema["enum"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        values.sort();
        values
    };
    assert_eq!(values(chart), values(types), "{path}");
    match chart["type"].as_str().unwrap() {
        "array" => same(&format!("{path}[]"), &chart["items"], &types["items"]),
        "object" if chart["properties"].is_object() => {
            let names = |schema: &Value| -> BTreeMap<String, Value> {
                serde_json::from_value(schema["properties"].clone()).unwrap_or_default()
            };
            let (ours, theirs) = (names(types), names(chart));
            assert_eq!(theirs.keys().collect::<Vec<_>>(), ours.keys().collect::<Vec<_>>(), "{path}");
            assert_eq!(chart["x-kubernetes-preserve-unknown-fields"], true, "{path}: dropped without a word");
            theirs.iter().for_each(|(name, schema)| same(&format!("{path}.{name}"), schema, &ours[name]));
        }
        "object" => {
            same(&format!("{path}{{}}"), &chart["additionalProperties"], &types["additionalProperties"]);
        }
        _ => {}
    }
}
