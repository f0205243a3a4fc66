//! Our entry in a CNI configuration. Whatever is not ours is written back as it stood, byte for byte.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::{Value, value::RawValue};

use crate::{PLUGIN, plugin::VERSIONS};

#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    #[error("not a CNI configuration: {0}")]
    Json(#[from] serde_json::Error),
    #[error("not a CNI configuration: it has neither `plugins` nor `type`")]
    Neither,
    #[error("`plugins` is there twice: which of them counts is anybody's guess")]
    Twice,
    #[error("a list without plugins")]
    Empty,
    #[error(
        "its cniVersion is {0}, which {PLUGIN} does not speak (it does {VERSIONS:?}): with it in the chain, no pod would start"
    )]
    Version(String),
}

impl ConfigurationError {
    /// Whether runtimes make no network of it either, and go on to the next file.
    pub fn is_nobodys(&self) -> bool {
        !matches!(self, Self::Version(_))
    }
}

/// The configuration with `entry` as its last plugin, as a list even if it was a single plugin. `None` if it has just
/// that entry already, wherever: somebody else may want to be the last, too.
///
/// # Errors
/// If it is not a CNI configuration. Then nobody should touch it.
pub fn with_entry(text: &str, entry: &Value) -> Result<Option<String>, ConfigurationError> {
    let mut file: Members = serde_json::from_str(text)?;
    let plugins = file.plugins()?;
    if plugins.is_none() {
        file.get("type").ok_or(ConfigurationError::Neither)?;
    }
    if plugins.as_ref().is_some_and(|plugins| plugins.iter().all(|plugin| is_ours(plugin))) {
        return Err(ConfigurationError::Empty);
    }
    file.check_version()?;
    let Some(plugins) = plugins else { return Ok(Some(as_list(text, &file, entry)?)) };
    let ours: Vec<_> = plugins.iter().filter(|plugin| is_ours(plugin)).collect();
    if let [only] = ours.as_slice()
        && serde_json::from_str::<Value>(only.get())? == *entry
    {
        return Ok(None);
    }
    let mut plugins: Vec<_> = plugins.into_iter().filter(|plugin| !is_ours(plugin)).collect();
    plugins.push(serde_json::value::to_raw_value(entry)?);
    file.set_plugins(&plugins)?;
    Ok(Some(serde_json::to_string_pretty(&file)?))
}

/// The configuration without our entry; `None` if it has none.
///
/// # Errors
/// If it is not a CNI configuration. Then nobody should touch it.
pub fn without_entry(text: &str) -> Result<Option<String>, ConfigurationError> {
    let mut file: Members = serde_json::from_str(text)?;
    let Some(plugins) = file.plugins()? else { return Ok(None) };
    let before = plugins.len();
    let plugins: Vec<_> = plugins.into_iter().filter(|plugin| !is_ours(plugin)).collect();
    if plugins.len() == before {
        return Ok(None);
    }
    file.set_plugins(&plugins)?;
    Ok(Some(serde_json::to_string_pretty(&file)?))
}

/// A single plugin's configuration becomes a list of it and ours, under its name and version.
fn as_list(text: &str, file: &Members, entry: &Value) -> Result<String, ConfigurationError> {
    let shared = ["cniVersion", "name"];
    let mut members: Vec<_> =
        file.0.iter().filter(|(name, _)| shared.contains(&name.as_str())).cloned().collect();
    let plugins = [RawValue::from_string(text.trim().to_owned())?, serde_json::value::to_raw_value(entry)?];
    members.push(("plugins".to_owned(), serde_json::value::to_raw_value(&plugins)?));
    Ok(serde_json::to_string_pretty(&Members(members))?)
}

fn is_ours(plugin: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Plugin {
        r#type: String,
    }
    serde_json::from_str(plugin.get()).is_ok_and(|Plugin { r#type }| r#type == PLUGIN)
}

/// An object's members in their order, each as it stands.
#[derive(Clone, Debug)]
struct Members(Vec<(String, Box<RawValue>)>);

impl Members {
    fn get(&self, wanted: &str) -> Option<&RawValue> {
        self.0.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_ref())
    }

    /// Runtimes hand it to each plugin, which refuses what it does not know.
    fn check_version(&self) -> Result<(), ConfigurationError> {
        let version = self.get("cniVersion").map(|version| serde_json::from_str::<String>(version.get()));
        match version {
            Some(Ok(version)) if VERSIONS.contains(&version.as_str()) => Ok(()),
            Some(Ok(version)) => Err(ConfigurationError::Version(version)),
            Some(Err(error)) => Err(error.into()),
            None => Err(ConfigurationError::Version("missing".to_owned())),
        }
    }

    fn plugins(&self) -> Result<Option<Vec<Box<RawValue>>>, ConfigurationError> {
        if self.0.iter().filter(|(name, _)| name == "plugins").count() > 1 {
            return Err(ConfigurationError::Twice);
        }
        Ok(self.get("plugins").map(|plugins| serde_json::from_str(plugins.get())).transpose()?)
    }

    fn set_plugins(&mut self, plugins: &[Box<RawValue>]) -> Result<(), ConfigurationError> {
        let plugins = serde_json::value::to_raw_value(plugins)?;
        if let Some((_, value)) = self.0.iter_mut().find(|(name, _)| name == "plugins") {
            *value = plugins;
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests;
