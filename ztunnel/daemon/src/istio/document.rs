//! A configuration in the making: the same tree as the configuration file's.

use serde_json::{Map, Value};

#[derive(Debug, Default)]
pub(super) struct Document(Map<String, Value>);

impl Document {
    /// `path` is keys with dots between them.
    pub(super) fn set(&mut self, path: &str, value: impl Into<Value>) {
        let (sections, key) = path.rsplit_once('.').map_or((None, path), |(all, key)| (Some(all), key));
        let mut at = &mut self.0;
        for section in sections.into_iter().flat_map(|all| all.split('.')) {
            let inner = at.entry(section).or_insert_with(|| Value::Object(Map::new()));
            if !inner.is_object() {
                *inner = Value::Object(Map::new());
            }
            let Value::Object(map) = inner else { return };
            at = map;
        }
        at.insert(key.to_owned(), value.into());
    }

    pub(super) fn set_if(&mut self, path: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(path, value);
        }
    }
}

impl From<Document> for Value {
    fn from(document: Document) -> Self {
        Self::Object(document.0)
    }
}
