//! Selectors of labels and fields, as far as clients of this project use them.

use std::borrow::Cow;

use serde_json::Value;

#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

#[derive(Clone, Debug)]
enum Requirement {
    Is(String, String),
    IsNot(String, String),
    Exists(String),
    Absent(String),
}

impl Selector {
    pub(super) fn of<'a>(query: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>) -> Self {
        let mut selector = Self::default();
        for (name, value) in query {
            match name.as_ref() {
                "labelSelector" => selector.labels = requirements(&value),
                "fieldSelector" => selector.fields = requirements(&value),
                _ => {}
            }
        }
        selector
    }

    pub(super) fn takes(&self, object: &Value) -> bool {
        let label = |name: &str| object["metadata"]["labels"][name].as_str().map(str::to_owned);
        let field = |name: &str| {
            let value = name.split('.').fold(object, |value, part| &value[part]);
            value.as_str().map(str::to_owned)
        };
        self.labels.iter().all(|requirement| requirement.holds(label))
            && self.fields.iter().all(|requirement| requirement.holds(field))
    }
}

impl Requirement {
    fn holds(&self, value: impl Fn(&str) -> Option<String>) -> bool {
        match self {
            Self::Is(name, expected) => value(name).unwrap_or_default() == *expected,
            Self::IsNot(name, unexpected) => value(name).unwrap_or_default() != *unexpected,
            Self::Exists(name) => value(name).is_some(),
            Self::Absent(name) => value(name).is_none(),
        }
    }
}

fn requirements(text: &str) -> Vec<Requirement> {
    let owned = |name: &str, value: &str| (name.trim().to_owned(), value.trim().to_owned());
    let requirement = |text: &str| {
        if let Some((name, value)) = text.split_once("!=") {
            let (name, value) = owned(name, value);
            Requirement::IsNot(name, value)
        } else if let Some((name, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            let (name, value) = owned(name, value);
            Requirement::Is(name, value)
        } else if let Some(name) = text.strip_prefix('!') {
            Requirement::Absent(name.trim().to_owned())
        } else {
            Requirement::Exists(text.to_owned())
        }
    };
    text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(requirement).collect()
}
