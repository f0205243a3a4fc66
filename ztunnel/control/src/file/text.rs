//! Reads a file within bounds and parses it as YAML (of which JSON is a part), with the place of every error.

use std::{
    fmt::Display,
    fs::File,
    io::{self, Read},
    path::Path,
};

use serde::de::DeserializeOwned;
use serde_saphyr::{Location, Options, SnippetMode};

use super::FileError;

/// A mesh of a million workloads fits.
pub(super) const MAX_BYTES: u64 = 512 << 20;

/// Where in which file something stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) path: &'a Path,
    pub(crate) location: Location,
}

impl Place<'_> {
    pub(crate) fn error(&self, message: impl Display) -> FileError {
        FileError::Invalid {
            path: self.path.to_owned(),
            line: self.location.line(),
            column: self.location.column(),
            message: message.to_string(),
        }
    }
}

pub(crate) fn read(path: &Path) -> Result<String, FileError> {
    read_at_most(path, MAX_BYTES)
}

pub(super) fn read_at_most(path: &Path, limit: u64) -> Result<String, FileError> {
    let unreadable = |error| FileError::unreadable(path, error);
    // Opening a FIFO would wait for a writer forever.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    let mut text = String::new();
    File::open(path).map_err(unreadable)?.take(limit + 1).read_to_string(&mut text).map_err(unreadable)?;
    if u64::try_from(text.len()).is_ok_and(|length| length <= limit) {
        Ok(text)
    } else {
        Err(FileError::TooLarge { path: path.to_owned(), limit })
    }
}

/// A file without content is refused: it is what a file looks like while somebody rewrites it in place, and taking
/// it for "nothing" would empty the mesh.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, FileError> {
    if text.trim().is_empty() {
        let message = "the file is empty; `{}` says that there is nothing".to_owned();
        return Err(FileError::Invalid { path: path.to_owned(), line: 1, column: 1, message });
    }
    serde_saphyr::from_str_with_options(text, options(text.len())).map_err(|error| {
        let location = error.location().unwrap_or(Location::UNKNOWN);
        let plain = serde_saphyr::render_options! { snippets: SnippetMode::Off };
        Place { path, location }.error(one_line(&error.without_snippet().render_with_options(plain)))
    })
}

/// Nodes that aliases repeat count like nodes that stand in the file, so this is what they may add: enough for people,
/// and an alias bomb is refused at once.
const REPEATED: usize = 1_000_000;

/// What the file's size bounds already is allowed to that size.
fn options(length: usize) -> Options {
    serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_events: length.saturating_add(REPEATED).saturating_mul(2),
            max_nodes: length.saturating_add(REPEATED),
            max_total_scalar_bytes: length.saturating_add(16 * REPEATED),
            max_total_comment_bytes: length,
            max_documents: 1,
        },
    }
}

/// Log lines and admin answers hold one line per error.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[expect(dead_code, reason = "only parsing is tested")]
        ports: Vec<u16>,
    }

    fn error(text: &str) -> String {
        parse::<Sample>(Path::new("f.yaml"), text).unwrap_err().to_string()
    }

    #[test]
    fn an_error_names_file_line_column_and_what_was_expected() {
        let unknown = error("ports: []\nportz: 1\n");
        assert!(
            unknown.starts_with("f.yaml:2:1: ") && unknown.contains("portz") && unknown.contains("ports"),
            "{unknown}"
        );
        let bad = error("ports:\n  - 80\n  - 70000\n");
        assert!(bad.starts_with("f.yaml:3:5: ") && bad.contains("u16"), "{bad}");
        assert!(error("ports: [\n").starts_with("f.yaml:"), "broken YAML has a place too");
        assert!(error(" \n").contains("empty"));
    }

    #[test]
    fn an_alias_bomb_is_refused_quickly() {
        let mut bomb = String::from("a0: &a0 [1,1,1,1,1,1,1,1,1]\n");
        for level in 1..30 {
            let below = vec![format!("*a{}", level - 1); 9].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        type Anything = std::collections::BTreeMap<String, serde::de::IgnoredAny>;
        let error = parse::<Anything>(Path::new("f"), &bomb).unwrap_err().to_string();
        assert!(error.contains("budget") || error.contains("alias"), "{error}");
    }

    #[test]
    fn size_and_kind_of_file_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("big");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_at_most(&path, 5).unwrap(), "12345");
        assert_eq!(read_at_most(&path, 4).unwrap_err().reason(), "too_large");
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(read(&fifo).unwrap_err().reason(), "unreadable");
    }
}
