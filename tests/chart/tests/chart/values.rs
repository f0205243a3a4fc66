//! The schema takes what the chart understands, and refuses the rest before anything is installed.

use chart::{Chart, merged};
use jsonschema::Validator;
use serde_json::{Value, json};

use super::variants;

fn schema() -> (Chart, Validator) {
    let chart = Chart::ours().unwrap();
    let schema = jsonschema::validator_for(&chart.schema().unwrap()).unwrap();
    (chart, schema)
}

#[test]
fn what_the_tests_render_is_valid() {
    let (chart, schema) = schema();
    for (variant, values) in variants() {
        let all = merged(chart.defaults(), &values);
        let errors: Vec<_> = schema.iter_errors(&all).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{variant}: {errors:?}");
    }
}

#[test]
fn what_is_misspelt_or_senseless_is_refused() {
    let (chart, schema) = schema();
    let wrong: [Value; 14] = [
        json!({"mode": "sidecar"}),
        json!({"daemom": {}}),
        json!({"daemon": {"tolerations": {}}}),
        json!({"daemon": {"drainDeadline": "half a minute"}}),
        json!({"daemon": {"seccompProfile": {"type": "Localhost"}}}),
        json!({"daemon": {"kubeletCgroup": "/absolute"}}),
        json!({"daemon": {"kubeletCgroup": ""}}),
        json!({"daemon": {"kubeletDirectory": "relative"}}),
        json!({"controller": {"replicas": 0}}),
        json!({"controller": {"replicas": "2"}}),
        json!({"istio": {"xdsAddress": "http://istiod:15010"}}),
        json!({"image": {"digest": "sha256:short"}}),
        json!({"networkPolicy": {"allow": [{"namespace": "shop"}]}}),
        json!({"trustDomain": "Cluster Local"}),
    ];
    for values in wrong {
        assert!(!schema.is_valid(&merged(chart.defaults(), &values)), "taken: {values}");
    }
}

/// A value that the schema does not describe cannot be set, so each default must be in it.
#[test]
fn the_schema_has_every_default() {
    let (chart, _) = schema();
    let schema = chart.schema().unwrap();
    for (key, value) in chart.defaults().as_object().unwrap() {
        let described = &schema["properties"][key];
        assert!(described.is_object(), "{key}");
        for inner in value.as_object().into_iter().flat_map(serde_json::Map::keys) {
            assert!(described["properties"][inner].is_object(), "{key}.{inner}");
        }
    }
}
