//! Writes: create, replace, merge, delete.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{answer::Refusal, path::Target, store::Store};

pub(super) fn create(store: &mut Store, target: &Target, mut object: Value) -> Result<Arc<Value>, Refusal> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() {
        return Err(Refusal::bad_request("name is required"));
    }
    if store.get(&target.collection, target.namespace(), &name).is_some() {
        return Err(Refusal::already_exists(&name));
    }
    place(target, &mut object, &name);
    Ok(store.put(&target.collection, object))
}

pub(super) fn replace(store: &mut Store, target: &Target, object: Value) -> Result<Arc<Value>, Refusal> {
    let (name, before) = present(store, target)?;
    let given = &object["metadata"]["resourceVersion"];
    if given.as_str().is_some_and(|given| !given.is_empty())
        && *given != before["metadata"]["resourceVersion"]
    {
        return Err(Refusal::conflict(&name));
    }
    Ok(put(store, target, &name, &before, object))
}

/// A merge patch (RFC 7386). What is applied, and not there yet, is made.
pub(super) fn merge(
    store: &mut Store,
    target: &Target,
    patch: &Value,
    apply: bool,
) -> Result<Arc<Value>, Refusal> {
    let (name, before) = match present(store, target) {
        Ok(present) => present,
        Err(_) if apply && target.subresource.is_none() => return create(store, target, patch.clone()),
        Err(refusal) => return Err(refusal),
    };
    let given = &patch["metadata"]["resourceVersion"];
    if given.is_string() && *given != before["metadata"]["resourceVersion"] {
        return Err(Refusal::conflict(&name));
    }
    let mut object = before.as_ref().clone();
    merge_into(&mut object, patch);
    Ok(put(store, target, &name, &before, object))
}

pub(super) fn delete(store: &mut Store, target: &Target) -> Result<Value, Refusal> {
    let (name, _) = present(store, target)?;
    store.delete(&target.collection, target.namespace(), &name);
    Ok(json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" }))
}

fn present(store: &Store, target: &Target) -> Result<(String, Arc<Value>), Refusal> {
    let name = target.name.clone().ok_or_else(|| Refusal::bad_request("a name is needed"))?;
    let object = store.get(&target.collection, target.namespace(), &name).cloned();
    let object = object.ok_or_else(|| Refusal::not_found(&name))?;
    Ok((name, object))
}

/// Of a status only the status counts, of anything else everything but the status. What changes nothing is no event.
fn put(store: &mut Store, target: &Target, name: &str, before: &Arc<Value>, object: Value) -> Arc<Value> {
    let mut object = if target.subresource.as_deref() == Some("status") {
        let mut with_status = before.as_ref().clone();
        with_status["status"] = object["status"].clone();
        with_status
    } else {
        let mut without_status = object;
        if !before["status"].is_null() {
            without_status["status"] = before["status"].clone();
        }
        without_status
    };
    place(target, &mut object, name);
    object["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
    if object == **before {
        return Arc::clone(before);
    }
    store.put(&target.collection, object)
}

fn place(target: &Target, object: &mut Value, name: &str) {
    object["metadata"]["name"] = json!(name);
    if let Some(namespace) = &target.namespace {
        object["metadata"]["namespace"] = json!(namespace);
    }
}

fn merge_into(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            if let Some(fields) = target.as_object_mut() {
                fields.remove(name);
            }
        } else {
            merge_into(&mut target[name], value);
        }
    }
}
