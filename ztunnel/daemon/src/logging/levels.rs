//! What is logged, by module, and its change while the daemon runs.

use std::{str::FromStr, sync::Arc};

use parking_lot::Mutex;
use tracing_subscriber::{
    EnvFilter, Registry,
    filter::{LevelFilter, ParseError},
    reload,
};

/// More than anybody types; a filter is looked through for every new call site.
const MAX_DIRECTIVES: usize = 64;

#[derive(Clone)]
pub(crate) struct Levels {
    configured: Arc<str>,
    current: Arc<Mutex<String>>,
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Not a level: what of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Invalid(String);

pub(super) fn filter(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(text)
}

impl Levels {
    pub(super) fn new(configured: String, filter: reload::Handle<EnvFilter, Registry>) -> Self {
        Self { configured: configured.as_str().into(), current: Arc::new(Mutex::new(configured)), filter }
    }

    pub(crate) fn configured(&self) -> &str {
        &self.configured
    }

    pub(crate) fn current(&self) -> String {
        self.current.lock().clone()
    }

    /// Takes effect as a whole or not at all. An empty `level` changes nothing.
    pub(crate) fn change(&self, reset: bool, level: &str) -> Result<(), Invalid> {
        let mut current = self.current.lock();
        let before = if reset { &*self.configured } else { current.as_str() };
        let wanted = changed(before, level)?;
        let filter = filter(&wanted).map_err(|error| Invalid(error.to_string()))?;
        self.filter.reload(filter).map_err(|error| Invalid(error.to_string()))?;
        tracing::info!(from = %current, to = %wanted, "what is logged was changed");
        *current = wanted;
        Ok(())
    }
}

/// A level of its own for all begins anew; modules' levels alone are set beside what there is.
fn changed(current: &str, wanted: &str) -> Result<String, Invalid> {
    let wanted = parse(wanted)?;
    let all_anew = wanted.iter().any(|(module, _)| module.is_empty());
    let kept = current.split(',').filter(|directive| !directive.is_empty()).filter(|directive| {
        let module = directive.split_once('=').map_or("", |(module, _)| module);
        !all_anew && !wanted.iter().any(|(new, _)| new == module)
    });
    let spelled = wanted.iter().map(|(module, level)| match module.as_str() {
        "" => level.clone(),
        module => format!("{module}={level}"),
    });
    let mut all: Vec<String> = kept.map(str::to_owned).chain(spelled).collect();
    if all.len() > MAX_DIRECTIVES {
        return Err(Invalid(format!("more than {MAX_DIRECTIVES} modules; reset first")));
    }
    // The level of all the others last, as Istio's tools show it.
    all.sort_by_key(|directive| !directive.contains('='));
    Ok(all.join(","))
}

/// `level`, `module=level` or `module:level`, separated by commas; the module is empty for all.
fn parse(text: &str) -> Result<Vec<(String, String)>, Invalid> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(directive).collect()
}

fn directive(text: &str) -> Result<(String, String), Invalid> {
    let invalid = || Invalid(text.to_owned());
    let (module, level) = text.rsplit_once('=').or_else(|| text.rsplit_once(':')).unwrap_or(("", text));
    let named = text.contains(['=', ':']);
    let is_module = |module: &str| {
        let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "_:-".contains(letter);
        !module.is_empty() && !module.ends_with(':') && module.chars().all(is_letter)
    };
    if named != is_module(module) || level.is_empty() || level.parse::<u8>().is_ok() {
        return Err(invalid());
    }
    let level = LevelFilter::from_str(level).map_err(|_| invalid())?;
    Ok((module.to_owned(), level.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(current: &str, wanted: &str) -> Result<String, String> {
        changed(current, wanted).map_err(|error| error.to_string())
    }

    #[test]
    fn modules_are_set_beside_what_there_is_and_a_level_for_all_begins_anew() {
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(change("info", "debug"), ok("debug"));
        assert_eq!(change("info", "access=debug,info"), ok("access=debug,info"));
        assert_eq!(change("access=debug,info", ""), ok("access=debug,info"));
        assert_eq!(
            change("access=debug,info", "ztunnel::node:trace"),
            ok("access=debug,ztunnel::node=trace,info")
        );
        assert_eq!(change("access=debug,info", "access=off"), ok("access=off,info"));
        assert_eq!(change("access=debug,info", "WARN"), ok("warn"));
        for text in ["access=debug,info", "ztunnel::node=trace,info"] {
            assert!(filter(text).is_ok(), "{text}");
        }
    }

    /// Else a typing error would silence the log, or log everything.
    #[test]
    fn what_is_no_level_is_told_and_changes_nothing() {
        for text in ["loud", "access=", "=debug", "::info", "access=5", "a b=info", "info,", "[span]=info"] {
            assert!(change("info", text).is_err(), "{text}");
        }
        assert_eq!(change("info", "debug,access=loud"), Err("access=loud".to_owned()));
        let many: Vec<_> = (0..=MAX_DIRECTIVES).map(|n| format!("m{n}=info")).collect();
        assert!(change("info", &many.join(",")).is_err());
    }
}
