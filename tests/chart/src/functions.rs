//! Those of helm's functions that the chart uses, with helm's order of arguments.

use std::collections::HashMap;

use gtmpl::{Func, FuncError, Value as Item};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    template::{to_item, to_value},
    values::{merged, to_yaml},
};

type Answer = Result<Item, FuncError>;

pub(crate) const ALL: &[(&str, Func)] = &[
    ("add", add),
    ("default", default),
    ("dict", dict),
    ("has", has),
    ("indent", indent),
    ("int", int),
    ("max", max),
    ("mergeOverwrite", merge_overwrite),
    ("nindent", nindent),
    ("quote", quote),
    ("replace", replace),
    ("sha256sum", sha256sum),
    ("ternary", ternary),
    ("toYaml", yaml),
];

fn wrong(function: &str, arguments: &[Item]) -> FuncError {
    FuncError::Generic(format!("{function}: these arguments are not understood: {arguments:?}"))
}

/// `default FALLBACK VALUE`: what is empty is not there.
fn default(arguments: &[Item]) -> Answer {
    match arguments {
        [fallback, value] => Ok(if is_empty(value) { fallback } else { value }.clone()),
        [fallback] => Ok(fallback.clone()),
        _ => Err(wrong("default", arguments)),
    }
}

fn is_empty(item: &Item) -> bool {
    match to_value(item) {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

fn dict(arguments: &[Item]) -> Answer {
    let pairs = arguments.chunks(2).map(|pair| match pair {
        [Item::String(key), value] => Ok((key.clone(), value.clone())),
        _ => Err(wrong("dict", arguments)),
    });
    Ok(Item::Map(pairs.collect::<Result<HashMap<_, _>, _>>()?))
}

/// `has NEEDLE LIST`.
fn has(arguments: &[Item]) -> Answer {
    match arguments {
        [needle, Item::Array(list)] => Ok(Item::Bool(list.contains(needle))),
        _ => Err(wrong("has", arguments)),
    }
}

fn int(arguments: &[Item]) -> Answer {
    match arguments {
        [Item::Number(number)] => Ok(Item::from(number.as_i64().unwrap_or_default())),
        _ => Err(wrong("int", arguments)),
    }
}

fn whole_numbers(function: &str, arguments: &[Item]) -> Result<Vec<i64>, FuncError> {
    let whole = |item: &Item| match item {
        Item::Number(number) => number.as_i64(),
        _ => None,
    };
    arguments.iter().map(whole).collect::<Option<_>>().ok_or_else(|| wrong(function, arguments))
}

fn add(arguments: &[Item]) -> Answer {
    Ok(Item::from(whole_numbers("add", arguments)?.iter().sum::<i64>()))
}

fn max(arguments: &[Item]) -> Answer {
    let greatest = whole_numbers("max", arguments)?.into_iter().max();
    greatest.map(Item::from).ok_or_else(|| wrong("max", arguments))
}

/// `mergeOverwrite FIRST SECOND ...`: later ones go before.
fn merge_overwrite(arguments: &[Item]) -> Answer {
    let all = arguments.iter().map(to_value);
    all.reduce(|under, over| merged(&under, &over))
        .map(|all| to_item(&all))
        .ok_or_else(|| wrong("mergeOverwrite", &[]))
}

fn indented(arguments: &[Item]) -> Result<String, FuncError> {
    let [Item::Number(spaces), Item::String(text)] = arguments else {
        return Err(wrong("indent", arguments));
    };
    let spaces =
        " ".repeat(spaces.as_u64().and_then(|spaces| usize::try_from(spaces).ok()).unwrap_or_default());
    Ok(format!("{spaces}{}", text.replace('\n', &format!("\n{spaces}"))))
}

fn indent(arguments: &[Item]) -> Answer {
    indented(arguments).map(Item::String)
}

fn nindent(arguments: &[Item]) -> Answer {
    Ok(Item::String(format!("\n{}", indented(arguments)?)))
}

fn quote(arguments: &[Item]) -> Answer {
    match arguments {
        [Item::String(text)] => Ok(Item::String(format!("{text:?}"))),
        [other] => Ok(Item::String(format!("\"{other}\""))),
        _ => Err(wrong("quote", arguments)),
    }
}

/// `replace OLD NEW TEXT`.
fn replace(arguments: &[Item]) -> Answer {
    match arguments {
        [Item::String(old), Item::String(new), Item::String(text)] => {
            Ok(Item::String(text.replace(old, new)))
        }
        _ => Err(wrong("replace", arguments)),
    }
}

fn sha256sum(arguments: &[Item]) -> Answer {
    match arguments {
        [Item::String(text)] => Ok(Item::String(format!("{:x}", Sha256::digest(text)))),
        _ => Err(wrong("sha256sum", arguments)),
    }
}

/// `ternary YES NO CONDITION`.
fn ternary(arguments: &[Item]) -> Answer {
    match arguments {
        [yes, no, Item::Bool(condition)] => Ok(if *condition { yes } else { no }.clone()),
        _ => Err(wrong("ternary", arguments)),
    }
}

fn yaml(arguments: &[Item]) -> Answer {
    match arguments {
        [item] => Ok(Item::String(to_yaml(&to_value(item)))),
        _ => Err(wrong("toYaml", arguments)),
    }
}
