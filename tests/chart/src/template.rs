//! Templates: gtmpl with helm's `include` and `.Files`, and values as both know them.

use std::{cell::RefCell, collections::HashMap, path::PathBuf, rc::Rc};

use anyhow::{Result, anyhow};
use gtmpl::{Context, FuncError, Template, Value as Item};
use serde_json::{Number, Value};

use crate::functions;

/// What functions may look at besides their arguments: gtmpl's are bare functions.
pub(crate) struct World {
    pub(crate) files: PathBuf,
    pub(crate) sources: Vec<(String, String)>,
}

thread_local! {
    static HERE: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

impl World {
    pub(crate) fn render(&self, name: &str, context: &Value) -> Result<String> {
        let world = Self { files: self.files.clone(), sources: self.sources.clone() };
        HERE.set(Some(Rc::new(world)));
        render(name, to_item(context))
    }
}

fn render(name: &str, context: Item) -> Result<String> {
    let world = world().ok_or_else(|| anyhow!("no chart"))?;
    let mut template = Template::with_name("main");
    template.add_funcs(functions::ALL);
    template.add_func("include", include);
    template.add_func("filesGet", files_get);
    for (name, source) in &world.sources {
        // Methods are not gtmpl's; this one becomes a function.
        let source = source.replace(".Files.Get ", "filesGet ");
        template.add_template(name.as_str(), source).map_err(|error| anyhow!("{name}: {error}"))?;
    }
    template.parse(format!("{{{{ template \"{name}\" . }}}}")).map_err(|error| anyhow!("{error}"))?;
    template.render(&Context::from(context)).map_err(|error| anyhow!("{name}: {error}"))
}

fn world() -> Option<Rc<World>> {
    HERE.with_borrow(Clone::clone)
}

fn include(arguments: &[Item]) -> Result<Item, FuncError> {
    let [Item::String(name), context] = arguments else {
        return Err(FuncError::ExactlyXArgs("include".into(), 2));
    };
    render(name, context.clone()).map(Item::String).map_err(|error| FuncError::Generic(format!("{error:#}")))
}

fn files_get(arguments: &[Item]) -> Result<Item, FuncError> {
    let ([Item::String(name)], Some(world)) = (arguments, world()) else {
        return Err(FuncError::ExactlyXArgs(".Files.Get".into(), 1));
    };
    // As helm has it: a file that is not there is empty. Ours have to be there.
    std::fs::read_to_string(world.files.join(name))
        .map(Item::String)
        .map_err(|error| FuncError::Generic(format!(".Files.Get {name}: {error}")))
}

pub(crate) fn to_item(value: &Value) -> Item {
    match value {
        Value::Null => Item::Nil,
        Value::Bool(yes) => Item::Bool(*yes),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Item::from(whole),
            (None, broken) => Item::from(broken.unwrap_or_default()),
        },
        Value::String(text) => Item::String(text.clone()),
        Value::Array(list) => Item::Array(list.iter().map(to_item).collect()),
        Value::Object(map) => {
            Item::Map(map.iter().map(|(key, value)| (key.clone(), to_item(value))).collect::<HashMap<_, _>>())
        }
    }
}

pub(crate) fn to_value(item: &Item) -> Value {
    match item {
        Item::Nil | Item::NoValue | Item::Function(_) => Value::Null,
        Item::Bool(yes) => Value::Bool(*yes),
        Item::Number(number) => number
            .as_i64()
            .map(Number::from)
            .or_else(|| Number::from_f64(number.as_f64()?))
            .map_or(Value::Null, Value::Number),
        Item::String(text) => Value::String(text.clone()),
        Item::Array(list) => Value::Array(list.iter().map(to_value).collect()),
        Item::Map(map) | Item::Object(map) => {
            Value::Object(map.iter().map(|(key, item)| (key.clone(), to_value(item))).collect())
        }
    }
}
