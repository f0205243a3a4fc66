//! The Helm chart, rendered as `helm template` does, for the plain manifest and for the tests.
//!
//! Go's template language is gtmpl's; the few functions of helm that the chart uses are ours (`functions.rs`), and
//! one that is not there fails the rendering. Where `HELM` names a real helm, a test compares the two.
#![forbid(unsafe_code)]

mod functions;
mod template;
mod values;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

pub use crate::values::{merged, parse};

/// What `helm install` is told, and what the plain manifest has.
pub const RELEASE: &str = "ztunnel";
pub const NAMESPACE: &str = "ztunnel-system";
const API_VERSIONS: &str = "v1.33.0";

/// A chart's files.
pub struct Chart {
    directory: PathBuf,
    about: Value,
    defaults: Value,
}

impl Chart {
    pub fn open(directory: &Path) -> Result<Self> {
        let file = |name| parse(&read(&directory.join(name))?).with_context(|| format!("in {name}"));
        Ok(Self {
            directory: directory.to_owned(),
            about: file("Chart.yaml")?,
            defaults: file("values.yaml")?,
        })
    }

    /// The chart of this repository.
    pub fn ours() -> Result<Self> {
        Self::open(&root().join("deploy/helm/ztunnel"))
    }

    pub fn defaults(&self) -> &Value {
        &self.defaults
    }

    pub fn schema(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.file("values.schema.json")?)?)
    }

    pub fn file(&self, name: &str) -> Result<String> {
        read(&self.directory.join(name))
    }

    /// All documents for `values` over the defaults, in the order of the templates' names, with the CRDs first.
    pub fn render(&self, values: &Value) -> Result<Vec<String>> {
        let mut documents = Vec::new();
        for path in sorted(&self.directory.join("crds"))? {
            documents.extend(split(&read(&path)?));
        }
        let sources = self.sources()?;
        let world = template::World { files: self.directory.clone(), sources };
        for (name, _) in world.sources.iter().filter(|(name, _)| name.ends_with(".yaml")) {
            let text =
                world.render(name, &self.context(values)).with_context(|| format!("rendering {name}"))?;
            documents.extend(split(&text));
        }
        Ok(documents)
    }

    /// What helm says when it has installed.
    pub fn notes(&self, values: &Value) -> Result<String> {
        let world = template::World { files: self.directory.clone(), sources: self.sources()? };
        world.render(&format!("{}/NOTES.txt", self.base()), &self.context(values))
    }

    fn sources(&self) -> Result<Vec<(String, String)>> {
        let files = sorted(&self.directory.join("templates"))?.into_iter();
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        files
            .map(|path| Ok((format!("{}/{}", self.base(), name(&path).context("a name")?), read(&path)?)))
            .collect()
    }

    fn base(&self) -> String {
        format!("{}/templates", self.about["name"].as_str().unwrap_or_default())
    }

    fn context(&self, values: &Value) -> Value {
        json!({
            "Values": merged(&self.defaults, values),
            "Chart": { "Name": self.about["name"], "Version": self.about["version"], "AppVersion": self.about["appVersion"] },
            "Release": { "Name": RELEASE, "Namespace": NAMESPACE, "Service": "Helm", "IsInstall": true },
            "Capabilities": { "KubeVersion": { "Version": API_VERSIONS } },
            "Template": { "BasePath": self.base() },
        })
    }
}

/// The chart with its defaults as one plain manifest, with the namespace that `helm --create-namespace` would make.
/// Hooks are helm's: the plain manifest has none.
pub fn manifest() -> Result<String> {
    let mut text =
        String::from("# Written by `cargo xtask manifest` from deploy/helm/ztunnel. Do not edit.\n");
    text += &format!("---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n");
    for document in Chart::ours()?.render(&json!({}))? {
        let hook = &parse(&document)?["metadata"]["annotations"]["helm.sh/hook"];
        if hook.is_null() {
            text += &format!("---\n{}\n", document.trim());
        }
    }
    Ok(text)
}

pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// The documents of a YAML stream that hold something.
pub fn split(text: &str) -> Vec<String> {
    let starts = |line: &str| line.trim_end() == "---";
    let mut documents = vec![String::new()];
    for line in text.lines() {
        match documents.last_mut() {
            Some(document) if !starts(line) => *document += &format!("{line}\n"),
            _ => documents.push(String::new()),
        }
    }
    let something =
        |document: &String| document.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#'));
    documents.retain(something);
    documents
}

fn sorted(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    let mut paths: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    ensure!(!paths.is_empty(), "{} is empty", directory.display());
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}
