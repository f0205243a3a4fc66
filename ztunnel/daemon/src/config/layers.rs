//! Trees of settings, one over the other.

use std::{fs, path::Path};

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Config;

/// Settings by name, as the configuration file has them.
pub(super) type Layer = Value;

/// The first that says something about a setting counts.
pub(crate) fn from_layers<const N: usize>(layers: [Layer; N]) -> anyhow::Result<Config> {
    let tree = layers.into_iter().fold(json!({}), merged);
    serde_json::from_value::<Config>(tree).context("as a configuration file")?.settle()
}

/// A file that is whole by itself: its errors name their line.
pub(super) fn read_config(path: &Path) -> anyhow::Result<Layer> {
    parse::<Config>(path)?;
    read_layer(path)
}

/// A file as it is, for somebody who knows more that belongs into it.
pub(crate) fn read_layer(path: &Path) -> anyhow::Result<Layer> {
    match parse(path)? {
        Value::Null => Ok(json!({})),
        tree @ Value::Object(_) => Ok(tree),
        _ => anyhow::bail!("{}: expected settings by name", path.display()),
    }
}

fn parse<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_saphyr::from_str(&text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
}

/// What `first` says goes before what `second` says, key by key.
fn merged(first: Layer, second: Layer) -> Layer {
    match (first, second) {
        (Value::Object(mut first), Value::Object(second)) => {
            for (key, value) in second {
                let value = match first.remove(&key) {
                    Some(before) => merged(before, value),
                    None => value,
                };
                first.insert(key, value);
            }
            Value::Object(first)
        }
        (first, _) => first,
    }
}
