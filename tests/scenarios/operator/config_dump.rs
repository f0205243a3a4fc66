//! The dump that Istio's tools read.

use std::collections::BTreeMap;

use serde_json::Value;
use testkit::{
    eventually,
    server::{Behaviour, Server},
};

use super::{PORT, mesh};
use crate::held::Held;

const ISTIO_KEYS: &str = include_str!("istio_keys.txt");
/// Their keys are names of things.
const MAPS: [&str; 4] = ["endpoints", "port", "ports", "workloadState"];

/// Every path of keys, with its type; `*` is any key of a map.
fn paths(value: &Value) -> BTreeMap<String, &'static str> {
    fn walk(path: &str, own: &str, value: &Value, found: &mut BTreeMap<String, &'static str>) {
        found.insert(path.to_owned(), type_of(value));
        match value {
            Value::Object(fields) => {
                for (key, field) in fields {
                    let key = if MAPS.contains(&own) { "*" } else { key };
                    walk(format!("{path}.{key}").trim_start_matches('.'), key, field, found);
                }
            }
            Value::Array(items) => {
                items.iter().for_each(|item| walk(&format!("{path}[]"), "[]", item, found));
            }
            _ => {}
        }
    }
    let mut found = BTreeMap::new();
    walk("", "", value, &mut found);
    found
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Catches: a key that istioctl looks for and does not find, or of another type; and a private key in a dump.
#[test]
fn the_dump_has_istios_keys_and_no_private_key() {
    let mesh = mesh();
    let _server = Server::start(mesh.pod("server"), PORT, Behaviour::Echo).unwrap();
    let _held = Held::open(mesh.pod("client"), mesh.address("server", 0, PORT));
    let mut found = BTreeMap::new();
    for node in [1, 2] {
        let dump = eventually("certificates are there", || {
            let dump = mesh.daemon(node).admin("/config_dump").unwrap();
            let all = dump["certificates"].as_array().unwrap();
            all.iter().all(|one| one["state"] == "Available").then(|| dump.clone())
        });
        let text = dump.to_string();
        // In clear, and as the base64 of "PRIVATE KEY" at each of its three places.
        for secret in ["PRIVATE", "UFJJVkFURSBLRV", "BSSVZBVEUgS0VZ", "QUklWQVRFIEtFW"] {
            assert!(!text.contains(secret), "a private key is in the dump of node {node}");
        }
        found.extend(paths(&dump));
    }
    let expected = ISTIO_KEYS.lines().filter(|line| !line.starts_with('#'));
    let wrong: Vec<_> = expected
        .filter_map(|line| line.split_once(' '))
        .filter(|(path, kind)| found.get(*path) != Some(kind))
        .map(|(path, kind)| format!("{path}: {kind}, found {:?}", found.get(path)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
