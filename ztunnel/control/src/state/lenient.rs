//! Policies with mistakes in them. One must not take the others along, and never may leaving out what is not understood
//! let anybody in: of a policy that allows, a rule with a mistake allows nothing; one that denies loses the mistaken
//! part alone and so denies more.
//!
//! The exact reading goes first, and for a file without mistakes it is the only one. The second one reads policies as
//! trees, part by part. What a policy is called, whom it concerns and whether it allows or denies must be known, or
//! neither reading of it would be safe; without that the file is refused.

use std::{fmt, path::Path};

use model::policy::{Action, Match, Policy};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value, json};
use serde_saphyr::{Location, Spanned};

use super::format::MeshText;
use crate::file::{self, FileError, Place};

/// The file's text, and what is wrong in its policies.
pub(super) fn parse(path: &Path, text: &str) -> Result<(MeshText<Policy>, Vec<String>), FileError> {
    if let Ok(exact) = file::parse(path, text) {
        return Ok((exact, Vec::new()));
    }
    let MeshText { workloads, services, policies, settings } = file::parse::<MeshText<Tree>>(path, text)?;
    let mut mistakes = Vec::new();
    let mut read = Vec::with_capacity(policies.len());
    for Spanned { value, referenced, defined } in policies {
        let policy = policy(&value, text, Place { path, location: referenced }, &mut mistakes)?;
        read.push(Spanned::new(policy, referenced, defined));
    }
    Ok((MeshText { workloads, services, policies: read, settings }, mistakes))
}

/// Any YAML, with the place of everything in it.
enum Tree {
    Scalar(Value),
    List(Vec<Spanned<Tree>>),
    Map(Vec<(Tree, Spanned<Tree>)>),
    /// Nothing that a policy could have.
    Strange,
}

/// Takes a policy apart and writes down what is wrong with it.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    subject: String,
    action: Action,
    mistakes: &'a mut Vec<String>,
}

/// Those without which no reading of a policy is safe.
const HEAD: [&str; 4] = ["name", "namespace", "scope", "action"];

fn policy(
    tree: &Tree,
    text: &str,
    place: Place<'_>,
    mistakes: &mut Vec<String>,
) -> Result<Policy, FileError> {
    let Tree::Map(fields) = tree else { return Err(place.error("expected a policy")) };
    let is_head = |key: &Tree| HEAD.contains(&key.text().unwrap_or_default());
    let mut head = Map::new();
    for (key, value) in fields.iter().filter(|(key, _)| is_head(key)) {
        head.insert(key.text().unwrap_or_default().to_owned(), json(value, Some(text)));
    }
    let known: Policy = typed(Value::Object(head.clone())).map_err(|error| {
        place.error(format!(
            "{error}; without name, namespace, scope and action no reading of a policy is safe"
        ))
    })?;
    let (subject, action) = (format!("policy `{}`", known.key()), known.action);
    let mut reader = Reader { path: place.path, text, subject, action, mistakes };
    let (mut rules, mut not_understood) = (Vec::new(), Vec::new());
    for (key, value) in fields.iter().filter(|(key, _)| !is_head(key)) {
        match key.text() {
            Some("rules") => rules = reader.rules(value),
            _ => not_understood.extend(reader.field::<Policy>(&mut head, key, value)),
        }
    }
    let policy = typed::<Policy>(Value::Object(head)).unwrap_or(known);
    Ok(Policy { rules, not_understood, ..policy })
}

impl Reader<'_> {
    fn rules(&mut self, tree: &Spanned<Tree>) -> Vec<Vec<Vec<Match>>> {
        let Tree::List(rules) = &tree.value else { return vec![vec![vec![self.lost("rules", tree)]]] };
        rules.iter().map(|rule| self.rule(rule)).collect()
    }

    fn rule(&mut self, tree: &Spanned<Tree>) -> Vec<Vec<Match>> {
        let Tree::List(clauses) = &tree.value else { return vec![vec![self.lost("rule", tree)]] };
        clauses.iter().map(|clause| self.clause(clause)).collect()
    }

    fn clause(&mut self, tree: &Spanned<Tree>) -> Vec<Match> {
        let Tree::List(matches) = &tree.value else { return vec![self.lost("clause", tree)] };
        matches.iter().map(|one| self.one_match(one)).collect()
    }

    fn one_match(&mut self, tree: &Spanned<Tree>) -> Match {
        let Tree::Map(fields) = &tree.value else { return self.lost("match", tree) };
        let (mut understood, mut not_understood) = (Map::new(), Vec::new());
        for (key, value) in fields {
            not_understood.extend(self.field::<Match>(&mut understood, key, value));
        }
        let known = typed::<Match>(Value::Object(understood)).unwrap_or_default();
        Match { not_understood, ..known }
    }

    /// Adds a field to those that make a `T`, or says that it cannot. A field is understood as a whole or not at all: a
    /// denial of some of the values it was meant for would let the others in.
    fn field<T: DeserializeOwned>(
        &mut self,
        understood: &mut Map<String, Value>,
        key: &Tree,
        value: &Spanned<Tree>,
    ) -> Option<String> {
        let name = key.text().unwrap_or("?");
        let mut failure = None;
        for spelled in [None, Some(self.text)] {
            let mut tried = understood.clone();
            tried.insert(name.to_owned(), json(value, spelled));
            match typed::<T>(Value::Object(tried.clone())) {
                Ok(_) => {
                    *understood = tried;
                    return None;
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Some(self.mistake(name, value.referenced, &failure.unwrap_or_default()))
    }

    /// In place of a match that cannot be told from the rest.
    fn lost(&mut self, name: &str, tree: &Spanned<Tree>) -> Match {
        let expected = if name == "match" { "expected a map" } else { "expected a list" };
        let name = self.mistake(name, tree.referenced, expected);
        Match { not_understood: vec![name], ..Match::default() }
    }

    fn mistake(&mut self, name: &str, location: Location, error: &str) -> String {
        let effect = match self.action {
            Action::Allow => "what has it allows nothing",
            Action::Deny => "it denies without regard to that",
        };
        let message = format!("{}: `{name}` is not understood: {error}; {effect}", self.subject);
        self.mistakes.push(Place { path: self.path, location }.error(message).to_string());
        name.to_owned()
    }
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

impl Tree {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }
}

/// For what JSON cannot say, something that no field takes for its own. With the file's text, all scalars are as they
/// are spelled there: a namespace may be called `no` or `007`.
fn json(tree: &Spanned<Tree>, text: Option<&str>) -> Value {
    match &tree.value {
        Tree::Scalar(value @ Value::String(_)) => value.clone(),
        Tree::Scalar(value) => text.map_or_else(
            || value.clone(),
            |text| spelled(text, tree.defined).map_or_else(strange, Value::from),
        ),
        Tree::List(list) => list.iter().map(|item| json(item, text)).collect(),
        Tree::Map(fields) => {
            let field = |(key, value): &(Tree, _)| Some((key.text()?.to_owned(), json(value, text)));
            let known: Option<Map<_, _>> = fields.iter().map(field).collect();
            known.filter(|known| known.len() == fields.len()).map_or_else(strange, Value::Object)
        }
        Tree::Strange => strange(),
    }
}

fn spelled(text: &str, location: Location) -> Option<&str> {
    let span = location.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let end = start.checked_add(usize::try_from(span.byte_len()?).ok()?)?;
    text.get(start..end).map(str::trim_end).filter(|text| !text.is_empty())
}

fn strange() -> Value {
    json!({ "?": null })
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything)
    }
}

struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E: Error>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_none<E: Error>(self) -> Result<Tree, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<Tree, E> {
        Ok(Tree::Strange)
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<Tree, E> {
        Ok(Tree::Strange)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Tree, E> {
        Ok(serde_json::Number::from_f64(value).map_or(Tree::Strange, |number| Tree::Scalar(number.into())))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(text.into()))
    }

    fn visit_bytes<E: Error>(self, _: &[u8]) -> Result<Tree, E> {
        Ok(Tree::Strange)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Tree::Map(fields))
    }
}
