//! Our entry in the configuration that the runtime reads: the first in the directory, in the order of names.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use ztunnel_cni::conflist::{ConfigurationError, with_entry, without_entry};

use super::write_whole;

/// What runtimes read; in a list alone can plugins be chained.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];
const LIST: &str = "conflist";
/// Of a single plugin's configuration that became a list: it is put back in the end.
const SAVED: &str = "before-ztunnel";
/// Of the list of namespaces, by default.
const OWN_DIRECTORY: &str = "ztunnel";
/// Longer ones are nobody's.
const LONGEST: u64 = 4 << 20;

/// Puts the entry there if it is not; answers with the files that were written.
///
/// The runtime takes the first file of which it can make a network. If that one cannot have the entry, its pods start
/// without us, whatever stands in those after it.
pub(super) fn place(directory: &Path, entry: &Value) -> anyhow::Result<Vec<PathBuf>> {
    let (mut written, mut problems) = (Vec::new(), Vec::new());
    let mut placed = false;
    for path in configurations(directory)? {
        if placed {
            // What cannot be read has nothing of ours, or nobody reads it. The list may be what was just made of a single one.
            if !written.contains(&path) {
                written.extend(leave(&path).ok().flatten());
            }
            continue;
        }
        match join(&path, entry) {
            Ok(changed) => {
                placed = true;
                written.extend(changed);
            }
            Err(error) => {
                let is_passed_over =
                    error.downcast_ref::<ConfigurationError>().is_some_and(ConfigurationError::is_nobodys);
                problems.push(format!("{} is left alone: {error:#}", path.display()));
                if !is_passed_over {
                    break;
                }
            }
        }
    }
    match (placed, problems.as_slice()) {
        (true, problems) => {
            for problem in problems {
                tracing::debug!(problem, "a CNI configuration cannot be read");
            }
            Ok(written)
        }
        (false, []) => bail!("no network is configured yet in {}", directory.display()),
        (false, problems) => bail!("{}", problems.join("; ")),
    }
}

fn join(path: &Path, entry: &Value) -> anyhow::Result<Option<PathBuf>> {
    let text = read(path)?;
    let is_list = path.extension().is_some_and(|extension| extension == LIST);
    let changed = with_entry(&text, entry)?;
    ensure!(
        is_list == is_list_text(&text),
        "its name says that it is {} list",
        if is_list { "a" } else { "no" }
    );
    let Some(changed) = changed else { return Ok(None) };
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    if is_list {
        write_whole(path, changed.as_bytes(), mode)?;
        return Ok(Some(path.to_owned()));
    }
    let list = path.with_extension(LIST);
    // One that we made of this file goes, as its owner has written the file anew.
    ensure!(!list.exists() || is_made_of(&list, path), "{} is there, too", list.display());
    write_whole(&list, changed.as_bytes(), mode)?;
    // Until here the runtime reads the old one, from here the list.
    fs::rename(path, saved(path))?;
    Ok(Some(list))
}

/// Whether we made the list of that configuration, and nobody has changed it since.
fn is_made_of(list: &Path, single: &Path) -> bool {
    let made = || {
        let (text, before) = (read(list).ok()?, read(&saved(single)).ok()?);
        let made = with_entry(&before, &entry_in(&text)?).ok()??;
        let value = |text: &str| serde_json::from_str::<Value>(text).ok();
        Some(value(&made)? == value(&text)?)
    };
    made().unwrap_or_default()
}

/// The entry goes from a configuration that the runtime no longer reads.
fn leave(path: &Path) -> anyhow::Result<Option<PathBuf>> {
    let text = read(path)?;
    let Some(changed) = without_entry(&text)? else { return Ok(None) };
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    write_whole(path, changed.as_bytes(), mode)?;
    Ok(Some(path.to_owned()))
}

/// Takes everything of the plugin's off the node; answers with what was removed or written. What is not there need not be.
pub(crate) fn remove(configurations_in: &Path, binaries_in: &Path) -> anyhow::Result<Vec<PathBuf>> {
    take_away(configurations_in, binaries_in, Path::new("/proc"))
}

/// `processes` as /proc has them.
pub(super) fn take_away(
    configurations_in: &Path,
    binaries_in: &Path,
    processes: &Path,
) -> anyhow::Result<Vec<PathBuf>> {
    let mut touched = Vec::new();
    let mut paths = remains(configurations_in);
    paths.extend(remains(binaries_in));
    if !takes_down_by_what_it_remembers(processes) {
        paths.push(binaries_in.join(ztunnel_cni::PLUGIN));
    }
    for path in configurations(configurations_in)? {
        let Ok(text) = read(&path) else { continue };
        paths.extend(named_in(&text));
        match restore(&path)? {
            Some(original) => touched.push(original),
            // What we cannot read has nothing of ours.
            None => touched.extend(leave(&path).ok().flatten()),
        }
    }
    for path in paths {
        match fs::remove_file(&path) {
            Ok(()) => touched.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("removing {}", path.display())),
        }
    }
    // If it was made for us alone.
    let _ = fs::remove_dir(configurations_in.join(OWN_DIRECTORY));
    Ok(touched)
}

/// What no configuration names: the list where it stands by default, and files of a daemon that was killed as it wrote them.
fn remains(directory: &Path) -> Vec<PathBuf> {
    let own = directory.join(OWN_DIRECTORY);
    let entries = [directory, &own].into_iter().flat_map(|place| fs::read_dir(place).into_iter().flatten());
    let is_remains = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        (name.starts_with('.') && name.ends_with(".ztunnel"))
            || (path.parent() == Some(&own) && name.starts_with("enrolled-namespaces"))
    };
    entries.flatten().map(|entry| entry.path()).filter(is_remains).collect()
}

/// CRI-O takes a pod down by the plugins that set it up, whatever is configured now: without the binary it could not.
fn takes_down_by_what_it_remembers(processes: &Path) -> bool {
    let processes = fs::read_dir(processes).into_iter().flatten().flatten();
    let mut names = processes.filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok());
    names.any(|name| name.trim_end() == "crio")
}

/// A list that we made of a single plugin's configuration becomes that again, if nobody has changed it since.
fn restore(list: &Path) -> anyhow::Result<Option<PathBuf>> {
    for extension in ["conf", "json"] {
        let original = list.with_extension(extension);
        if is_made_of(list, &original) {
            if original.exists() {
                // Its owner has written it anew.
                fs::remove_file(saved(&original))?;
            } else {
                fs::rename(saved(&original), &original)?;
            }
            fs::remove_file(list)?;
            return Ok(Some(original));
        }
    }
    Ok(None)
}

fn entry_in(text: &str) -> Option<Value> {
    #[derive(Deserialize)]
    struct List {
        plugins: Vec<Value>,
    }
    let list: List = serde_json::from_str(text).ok()?;
    list.plugins.into_iter().find(|plugin| plugin["type"] == ztunnel_cni::PLUGIN)
}

/// The plugin's files that its entry names.
fn named_in(text: &str) -> Vec<PathBuf> {
    let Some(entry) = entry_in(text) else { return Vec::new() };
    let paths = ["socket", "enrolledNamespaces"].into_iter().filter_map(|name| entry[name].as_str());
    paths.filter(|path| path.starts_with('/')).map(PathBuf::from).collect()
}

fn configurations(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("reading {}", directory.display()))?,
    };
    let is_read = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) && path.is_file()
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_read).collect();
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let length = fs::metadata(path)?.len();
    ensure!(length <= LONGEST, "{length} bytes are no configuration");
    Ok(fs::read_to_string(path)?)
}

fn is_list_text(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|value| value.get("plugins").is_some())
}

fn saved(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(SAVED);
    name.into()
}
