//! Values: YAML in, merged as helm merges them, YAML out.

use anyhow::{Result, anyhow};
use serde_json::Value;

pub fn parse(text: &str) -> Result<Value> {
    serde_saphyr::from_str(text).map_err(|error| anyhow!("{error}"))
}

/// Maps are merged, anything else is replaced; `null` takes a default away.
pub fn merged(under: &Value, over: &Value) -> Value {
    let (Value::Object(under), Value::Object(over)) = (under, over) else {
        return over.clone();
    };
    let mut all = under.clone();
    for (key, value) in over {
        match (value, under.get(key)) {
            (Value::Null, _) => drop(all.remove(key)),
            (value, Some(below)) => drop(all.insert(key.clone(), merged(below, value))),
            (value, None) => drop(all.insert(key.clone(), value.clone())),
        }
    }
    Value::Object(all)
}

/// As helm's `toYaml`: keys in order, block style, no end of line.
pub(crate) fn to_yaml(value: &Value) -> String {
    let mut lines = Vec::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(value, 0, &mut lines),
        Value::Array(list) if !list.is_empty() => block(value, 0, &mut lines),
        _ => lines.push(scalar(value)),
    }
    lines.join("\n")
}

fn block(value: &Value, depth: usize, lines: &mut Vec<String>) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            for (key, value) in entries {
                let key = scalar(&Value::String(key.clone()));
                if is_leaf(value) {
                    lines.push(format!("{indent}{key}: {}", scalar(value)));
                } else {
                    lines.push(format!("{indent}{key}:"));
                    block(value, depth + usize::from(value.is_object()), lines);
                }
            }
        }
        Value::Array(list) => {
            for value in list {
                let mut inner = Vec::new();
                if is_leaf(value) {
                    inner.push(scalar(value));
                } else {
                    block(value, 0, &mut inner);
                }
                for (number, line) in inner.into_iter().enumerate() {
                    lines.push(format!("{indent}{}{line}", if number == 0 { "- " } else { "  " }));
                }
            }
        }
        leaf => lines.push(format!("{indent}{}", scalar(leaf))),
    }
}

fn is_leaf(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => true,
    }
}

/// What could be read as something else than text is in quotes. JSON is YAML.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_plain(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| plain(c) || c == ':')
        && !text.ends_with(':')
        && !words.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What a template writes by `toYaml` must come back as it was: otherwise a manifest says something else.
    #[test]
    fn yaml_that_is_written_reads_as_it_was() {
        let value = json!({
            "a": [], "b": {}, "list": [{"x": 1, "y": ["z", {"deep": true}]}, ["n", "1"], "on", null, ""],
            "text": "two: words # no comment", "number": "0123", "lines": "a\nb", "colon": "a: b", "end": "a:",
        });
        assert_eq!(parse(&to_yaml(&value)).unwrap(), value);
    }

    #[test]
    fn values_are_merged_as_helm_does() {
        let under = json!({"a": {"b": 1, "c": [1, 2]}, "d": 2, "gone": 1});
        let over = json!({"a": {"c": [3]}, "e": 4, "gone": null});
        assert_eq!(merged(&under, &over), json!({"a": {"b": 1, "c": [3]}, "d": 2, "e": 4}));
    }
}
