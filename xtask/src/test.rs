//! Everything that must hold, in the order in which it fails fastest, and one summary at the end.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{cri, ebpf, image::PROGRAMS, setup, step, workspace};

mod again;

const SCENARIOS: &str = "ztunnel-scenarios";
/// Scenarios wait more than they compute.
const SCENARIOS_AT_ONCE: &str = "--test-threads=2";

struct Line {
    title: &'static str,
    elapsed: Duration,
    /// Tests that passed, where it is made of tests.
    result: Result<Option<usize>>,
    /// Tests that passed, but not at once.
    second_try: Vec<String>,
}

/// Runs all checks, or only the tests whose names contain `only`.
pub(crate) fn run(only: Option<&str>) -> Result<()> {
    let started = Instant::now();
    // Without these nothing else can work.
    setup::everything()?;
    setup::for_tests()?;
    ebpf::build(&setup::for_ebpf()?)?;
    let mut lines = vec![done("setup and eBPF objects", started, Ok(None))];
    let mut check = |title, work: &dyn Fn(&mut Vec<String>) -> Result<Option<usize>>| {
        let started = Instant::now();
        let mut second_try = Vec::new();
        let result = work(&mut second_try);
        lines.push(Line { second_try, ..done(title, started, result) });
    };
    if only.is_none() {
        check("formatting", &|_| formatting());
        check("clippy", &|_| clippy());
    }
    check("unit and property tests", &|_| unit_tests(only));
    check("scenarios with real eBPF", &|second_try| scenarios(only, second_try));
    if only.is_none() {
        // After the scenarios, which have built the programs.
        check("pods under containerd", &|_| cri::quick());
    }
    summarise(&lines, started.elapsed())
}

fn done(title: &'static str, started: Instant, result: Result<Option<usize>>) -> Line {
    let elapsed = started.elapsed();
    if let Err(error) = &result {
        eprintln!("\n  ✗ {error:#}\n");
    }
    Line { title, elapsed, result, second_try: Vec::new() }
}

fn formatting() -> Result<Option<usize>> {
    const CURE: &str = "Run: cargo fmt --all && (cd ebpf/programs && cargo fmt)";
    step::run("cargo fmt --check", workspace::cargo().args(["fmt", "--all", "--check"]), CURE)?;
    let mut kernel_side = workspace::cargo();
    kernel_side.current_dir(workspace::root().join("ebpf/programs")).args(["fmt", "--check"]);
    step::run("cargo fmt --check in ebpf-programs", &mut kernel_side, CURE)?;
    Ok(None)
}

fn clippy() -> Result<Option<usize>> {
    let mut command = workspace::cargo();
    command.args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]);
    step::run("cargo clippy", &mut command, "Warnings are errors here.")?;
    Ok(None)
}

fn unit_tests(only: Option<&str>) -> Result<Option<usize>> {
    let mut command = workspace::cargo();
    // Both have a line of their own, and the latter containerd to run with.
    command
        .args([
            "test",
            "--workspace",
            "--exclude",
            SCENARIOS,
            "--exclude",
            cri::PACKAGE,
            "--no-fail-fast",
            "--",
        ])
        .args(only);
    tests("unit and property tests", &mut command, "One of them alone: cargo test -p <package> <name>")
}

fn scenarios(only: Option<&str>, second_try: &mut Vec<String>) -> Result<Option<usize>> {
    let mut programs = workspace::cargo();
    programs.arg("build").args(PROGRAMS.iter().flat_map(|program| ["--package", program]));
    step::run("building the daemon and the CNI plugin", &mut programs, "")?;
    let command = |arguments: &[&str]| {
        let mut command = workspace::cargo();
        command.args(["test", "--package", SCENARIOS, "--no-fail-fast", "--"]).args(arguments);
        command.env("ZTUNNEL_BIN", workspace::built("debug", "ztunnel"));
        command
    };
    let mut arguments = vec![SCENARIOS_AT_ONCE];
    arguments.extend(only);
    let first =
        tests("scenarios", &mut command(&arguments), "One of them alone: cargo xtask test --only <name>");
    again::unless_passed("scenarios", first, &command, second_try)
}

/// Runs tests and yields how many passed.
pub(crate) fn tests(title: &str, command: &mut Command, cure: &str) -> Result<Option<usize>> {
    // Where an error came from says less than what it says.
    command.env("RUST_LIB_BACKTRACE", "0").env("RUST_BACKTRACE", "0");
    let log = step::run_with_failures(title, command, cure, failures)?;
    Ok(Some(passed(&text(&log))))
}

/// Whatever a test may have printed.
fn text(log: &Path) -> String {
    fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn passed(text: &str) -> usize {
    let counts = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once("test result: ")?;
        let (_, counts) = rest.split_once(". ")?;
        counts.split(' ').next()?.parse::<usize>().ok()
    });
    counts.sum()
}

/// What the tests that failed said, without all the others, and last how each began to fail: of a long output the end
/// is what is looked at.
fn failures(log: &Path) -> Option<String> {
    const MOST_LINES: usize = 200;
    const FIRST_LINES: usize = 6;
    let text = text(log);
    let failed: Vec<&str> = text.split("\nfailures:\n").skip(1).step_by(2).collect();
    let lines = failed.iter().flat_map(|section| section.lines()).take(MOST_LINES);
    let beginnings = failed.iter().flat_map(|section| section.split("\n---- ").skip(1));
    let beginnings = beginnings.flat_map(|of_one| of_one.lines().take(FIRST_LINES));
    let lines: Vec<&str> = lines.chain(["", "In short:"]).chain(beginnings).collect();
    (!failed.is_empty()).then(|| lines.join("\n"))
}

fn summarise(lines: &[Line], elapsed: Duration) -> Result<()> {
    println!();
    for Line { title, elapsed, result, second_try } in lines {
        let (mark, detail) = match result {
            Ok(Some(passed)) => ('✓', format!("{passed} passed")),
            Ok(None) => ('✓', String::new()),
            Err(_) => ('✗', "failed".to_owned()),
        };
        println!("  {mark} {title:<28} {:>5.0} s  {detail}", elapsed.as_secs_f64());
        for name in second_try {
            println!("    ! {name} passed at the second try only: it, or what it tests, is to be mended");
        }
    }
    println!("    {:<28} {:>5.0} s", "in all", elapsed.as_secs_f64());
    let passed: usize = lines.iter().filter_map(|line| line.result.as_ref().ok().copied().flatten()).sum();
    let failed = lines.iter().filter(|line| line.result.is_err()).count();
    println!("\n{passed} passed, {failed} failed");
    if failed > 0 {
        bail!("{failed} of {} checks failed; their output is above", lines.len());
    }
    Ok(())
}
