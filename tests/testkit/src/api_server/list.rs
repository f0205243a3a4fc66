//! Lists, page by page.

use serde_json::{Value, json};

use super::{answer::Refusal, path::Target, selector::Selector, store::Store};

/// What stands in `continue`: the version of the first page, and the last object that was in one.
struct Mark {
    version: u64,
    after: (String, String),
}

impl Mark {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '/');
        let version = parts.next()?.parse().ok()?;
        Some(Self { version, after: (parts.next()?.to_owned(), parts.next()?.to_owned()) })
    }

    fn text(&self) -> String {
        format!("{}/{}/{}", self.version, self.after.0, self.after.1)
    }
}

/// Later pages show what is there now. They carry the version of the first one, so that a watch from there tells of all
/// that has changed in between.
pub(super) fn list(
    store: &Store,
    target: &Target,
    selector: &Selector,
    limit: usize,
    mark: &str,
) -> Result<Value, Refusal> {
    let mark = match mark {
        "" => None,
        text => Some(Mark::parse(text).ok_or_else(|| Refusal::bad_request("continue is not ours"))?),
    };
    if mark.as_ref().is_some_and(|mark| mark.version < store.compacted) {
        return Err(Refusal::expired());
    }
    let mut items = store.objects(&target.collection).filter(|((namespace, _), object)| {
        target.namespace.as_ref().is_none_or(|wanted| wanted == namespace) && selector.takes(object)
    });
    let version = mark.as_ref().map_or(store.version(), |mark| mark.version);
    let (mut page, mut last) = (Vec::new(), None);
    let mut rest =
        items.by_ref().skip_while(|(key, _)| mark.as_ref().is_some_and(|mark| **key <= mark.after));
    for (key, object) in rest.by_ref().take(limit) {
        last = Some(key.clone());
        page.push(item(target, object));
    }
    let more = if rest.next().is_some() { last } else { None };
    let next = more.map(|after| Mark { version, after }.text()).unwrap_or_default();
    Ok(json!({
        "kind": "List", "apiVersion": target.collection.api_version,
        "metadata": { "resourceVersion": version.to_string(), "continue": next },
        "items": page,
    }))
}

fn item(target: &Target, object: &Value) -> Value {
    let mut object = object.clone();
    if target.collection.is_built_in()
        && let Some(fields) = object.as_object_mut()
    {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    object
}
