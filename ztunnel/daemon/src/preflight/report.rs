//! What was found, worst first.

use serde::Serialize;

use crate::table::aligned;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Level {
    /// The mesh would not work, or something would stop working.
    Problem,
    /// It could not be looked at.
    Unknown,
    /// Somebody should know of it.
    Warning,
    Good,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// What it is about: `node/worker-1`.
    pub(super) about: String,
    pub(super) text: String,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) findings: Vec<Finding>,
}

impl Report {
    pub(super) fn add(&mut self, level: Level, about: impl Into<String>, text: impl Into<String>) {
        self.findings.push(Finding { level, about: about.into(), text: text.into() });
        self.findings.sort_by_key(|finding| finding.level);
    }

    pub(super) fn problems(&self) -> usize {
        self.count(Level::Problem)
    }

    pub(super) fn unknown(&self) -> usize {
        self.count(Level::Unknown)
    }

    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    pub(super) fn text(&self) -> String {
        let line = |finding: &Finding| {
            let level = match finding.level {
                Level::Problem => "PROBLEM",
                Level::Unknown => "unknown",
                Level::Warning => "warning",
                Level::Good => "good",
            };
            vec![level.to_owned(), finding.about.clone(), finding.text.clone()]
        };
        let lines: Vec<_> = self.findings.iter().map(line).collect();
        format!(
            "{}\nproblems: {}, unknown: {}, warnings: {}\n",
            aligned(&lines),
            self.problems(),
            self.unknown(),
            self.count(Level::Warning)
        )
    }

    #[cfg(test)]
    pub(super) fn has(&self, level: Level, about: &str, part: &str) -> bool {
        self.findings.iter().any(|found| {
            found.level == level && found.about == about && (part.is_empty() || found.text.contains(part))
        })
    }
}
