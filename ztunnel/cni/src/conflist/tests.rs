use proptest::prelude::*;
use serde_json::json;

use super::*;

fn entry() -> Value {
    json!({ "type": PLUGIN, "socket": "/var/run/ztunnel/cni.sock" })
}

/// Numbers that JSON allows and a double cannot hold, unusual spacing, members twice: all of it is somebody's.
const LIST: &str = r#"{ "plugins" : [ {"type":"bridge",  "mtu": 1e2, "big": 12345678901234567890123, "a":1,"a":2 },
  {"type":"portmap"} ], "name": "pods", "cniVersion":"1.0.0", "x": {"y" : null}}"#;

fn plugins(text: &str) -> Vec<String> {
    let file: Members = serde_json::from_str(text).unwrap();
    file.plugins().unwrap().unwrap().iter().map(|plugin| plugin.get().to_owned()).collect()
}

fn others(text: &str) -> Vec<(String, String)> {
    let file: Members = serde_json::from_str(text).unwrap();
    let others = file.0.iter().filter(|(name, _)| name != "plugins");
    others.map(|(name, value)| (name.clone(), value.get().to_owned())).collect()
}

#[test]
fn a_list_gets_our_entry_at_its_end_and_keeps_all_else() {
    let added = with_entry(LIST, &entry()).unwrap().expect("it was not there");
    assert_eq!(others(&added), others(LIST));
    let before = plugins(LIST);
    let after = plugins(&added);
    assert_eq!(after[..before.len()], before, "another plugin's configuration was touched");
    assert_eq!(serde_json::from_str::<Value>(&after[before.len()]).unwrap(), entry());
    assert_eq!(with_entry(&added, &entry()).unwrap(), None, "it is there");
    let removed = without_entry(&added).unwrap().expect("it was there");
    assert_eq!((others(&removed), plugins(&removed)), (others(LIST), plugins(LIST)));
    assert_eq!(without_entry(LIST).unwrap(), None);
}

#[test]
fn an_entry_of_an_older_version_of_ours_is_replaced() {
    let old = with_entry(LIST, &json!({ "type": PLUGIN, "socket": "/elsewhere" })).unwrap().unwrap();
    let new = with_entry(&old, &entry()).unwrap().unwrap();
    assert_eq!(plugins(&new).len(), 3);
    assert!(!new.contains("/elsewhere"));
}

#[test]
fn a_single_plugin_becomes_a_list() {
    let single = r#"{"cniVersion":"0.3.1","name":"pods","type":"bridge","mtu":1e2}"#;
    let list = with_entry(single, &entry()).unwrap().unwrap();
    assert_eq!(plugins(&list)[0], single);
    assert_eq!(others(&list).len(), 2, "{list}");
    assert_eq!(with_entry(&list, &entry()).unwrap(), None);
}

/// With our entry in it, no pod of the node would start or end.
#[test]
fn a_version_that_the_plugin_refuses_is_left_alone() {
    for version in ["", r#""cniVersion":"0.2.0","#, r#""cniVersion":"","#, r#""cniVersion":"7.0.0","#] {
        let file = format!(r#"{{{version}"name":"pods","plugins":[{{"type":"bridge"}}]}}"#);
        let error = with_entry(&file, &entry()).unwrap_err();
        assert!(!error.is_nobodys() && error.to_string().contains("does not speak"), "{error}");
        assert!(with_entry(&format!(r#"{{{version}"type":"bridge"}}"#), &entry()).is_err());
    }
    // Runtimes pass over it; with ours it would be a network that has no plugin before us.
    let empty = with_entry(r#"{"cniVersion":"1.0.0","plugins":[]}"#, &entry()).unwrap_err();
    assert!(empty.is_nobodys(), "{empty}");
}

#[test]
fn what_is_no_configuration_is_left_alone() {
    for text in [
        "",
        "{",
        "[]",
        "7",
        "{}",
        r#"{"plugins": 7}"#,
        r#"{"plugins": {"type": "x"}}"#,
        "{\"a\":1} more",
        r#"{"plugins":[],"plugins":[]}"#,
    ] {
        assert!(with_entry(text, &entry()).is_err(), "{text}");
    }
    // An item that is no plugin is not ours to judge.
    assert_eq!(
        plugins(&with_entry(r#"{"cniVersion":"1.0.0","plugins":[7]}"#, &entry()).unwrap().unwrap())[0],
        "7"
    );
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever others have in there stays, adding is idempotent, and removing undoes it.
    #[test]
    fn others_are_never_touched(
        items in prop::collection::vec(json_value(), 1..5),
        extra in prop::collection::btree_map("[a-z]{1,6}", json_value(), 0..4),
    ) {
        let mut file: serde_json::Map<String, Value> = extra.into_iter().filter(|(name, _)| name != "plugins").collect();
        file.insert("plugins".to_owned(), items.into());
        file.insert("cniVersion".to_owned(), "1.0.0".into());
        let text = Value::Object(file).to_string();
        let added = with_entry(&text, &entry()).unwrap().unwrap();
        prop_assert_eq!(others(&added), others(&text));
        prop_assert_eq!(&plugins(&added)[..plugins(&added).len() - 1], &plugins(&text)[..]);
        prop_assert_eq!(with_entry(&added, &entry()).unwrap(), None);
        let removed = without_entry(&added).unwrap().unwrap();
        prop_assert_eq!((others(&removed), plugins(&removed)), (others(&text), plugins(&text)));
    }

    /// Any text at all: an answer or an error, never a panic.
    #[test]
    fn any_text_is_survived(text in ".{0,200}") {
        let _ = (with_entry(&text, &entry()), without_entry(&text));
    }
}
