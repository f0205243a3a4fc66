//! CNI configurations, which others write and we add to.

use serde_json::{Value, json};
use ztunnel_cni::conflist::{with_entry, without_entry};

/// What is taken for a configuration keeps what others have in it, and is as it was when our entry has gone.
pub fn cni_configuration(data: &[u8]) {
    let Some(text) = crate::text(data) else { return };
    let entry = json!({ "type": ztunnel_cni::PLUGIN });
    let Ok(Some(added)) = with_entry(text, &entry) else { return };
    assert!(matches!(with_entry(&added, &entry), Ok(None)), "adding twice is adding once: {added}");
    let removed = without_entry(&added).expect("our own").expect("our entry was there");
    let plugins = |text: &str| serde_json::from_str::<Value>(text).expect("JSON")["plugins"].clone();
    let (before, after) = (plugins(text), plugins(&removed));
    if let Value::Array(before) = before {
        let others = |plugins: &[Value]| {
            let is_other = |plugin: &&Value| plugin["type"] != ztunnel_cni::PLUGIN;
            plugins.iter().filter(is_other).cloned().collect::<Vec<_>>()
        };
        assert_eq!(Some(&others(&before)), after.as_array(), "another's plugin was touched");
    }
}
