//! A second try for the few scenarios that a busy machine made fail. What is broken fails twice, and what passes at the
//! second try only is named at the end of the run.

use std::process::Command;

use anyhow::Result;

use super::{passed, tests, text};
use crate::step;

/// With more than these it is not the machine.
const AT_MOST: usize = 3;

/// What `first` says, or, where a few tests of the step `title` failed, what these say when they run again, one by one.
/// `command` makes the step's command with the arguments given.
pub(super) fn unless_passed(
    title: &str,
    first: Result<Option<usize>>,
    command: &dyn Fn(&[&str]) -> Command,
    second_try: &mut Vec<String>,
) -> Result<Option<usize>> {
    let Err(error) = first else { return first };
    let log = text(&step::log_path(title)?);
    let failed = names(&log);
    if failed.is_empty() || failed.len() > AT_MOST {
        return Err(error);
    }
    eprintln!("\n  ! {error:#}\n\n  ! again: {}", failed.join(", "));
    let mut arguments = vec!["--test-threads=1", "--exact"];
    arguments.extend(&failed);
    let again = tests(&format!("{title} again"), &mut command(&arguments), "It failed twice.")?;
    second_try.extend(failed.into_iter().map(str::to_owned));
    Ok(again.map(|count| count + passed(&log)))
}

/// The tests that failed, from the lists that the test harness ends with.
fn names(log: &str) -> Vec<&str> {
    let lists = log.split("\nfailures:\n").skip(1).filter(|list| list.starts_with("    "));
    lists.flat_map(|list| list.lines().map_while(|line| line.strip_prefix("    "))).collect()
}

#[cfg(test)]
mod tests {
    use super::names;

    /// Catches: a test that failed and is not run again, or words of its output that are taken for a name.
    #[test]
    fn the_lists_at_the_end_name_the_tests() {
        let log = "running 3 tests\ntest a::b ... FAILED\n\nfailures:\n\n---- a::b stdout ----\n    at: 1\n\n\n\
                   failures:\n    a::b\n    c\n\ntest result: FAILED. 1 passed; 2 failed\n";
        assert_eq!(names(log), ["a::b", "c"]);
        assert!(names("test result: ok. 3 passed\n").is_empty());
    }
}
