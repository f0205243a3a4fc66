//! One command at a time, quiet while it goes well: its output goes to a log, and only what takes long says so.

use std::{
    fs::{self, File},
    io::{IsTerminal, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::workspace;

const POLL: Duration = Duration::from_millis(100);
/// What ends sooner is not worth a line.
const WORTH_A_LINE: Duration = Duration::from_secs(2);
/// Without a terminal to redraw, a sign of life this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);
const TAIL_LINES: usize = 40;

/// Runs `command` to its end and yields the log of its output. `cure` tells a person what to do when it fails.
pub(crate) fn run(title: &str, command: &mut Command, cure: &str) -> Result<PathBuf> {
    run_with_failures(title, command, cure, |_| None)
}

/// Like [`run`]; on failure shows what `explain` finds in the log, if anything, instead of the log's end.
pub(crate) fn run_with_failures(
    title: &str,
    command: &mut Command,
    cure: &str,
    explain: fn(&Path) -> Option<String>,
) -> Result<PathBuf> {
    let started = Instant::now();
    let (log, status) = to_its_end(title, command, cure)?;
    if !status.success() {
        let output = explain(&log).unwrap_or_else(|| tail(&log, TAIL_LINES));
        bail!("{title} failed ({status}); from {}:\n{output}\n\n{cure}", log.display());
    }
    if started.elapsed() >= WORTH_A_LINE {
        println!("  ✓ {title} ({:.0} s)", started.elapsed().as_secs_f64());
    }
    Ok(log)
}

/// Like [`run`], for a command whose output says how it went.
pub(crate) fn run_to_any_end(title: &str, command: &mut Command) -> Result<PathBuf> {
    to_its_end(title, command, "").map(|(log, _)| log)
}

fn to_its_end(title: &str, command: &mut Command, cure: &str) -> Result<(PathBuf, ExitStatus)> {
    let log = log_path(title)?;
    let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let child = command
        .spawn()
        .with_context(|| format!("{title}: {:?} does not start. {cure}", command.get_program()))?;
    let status = watch(child, title, &log, Instant::now())?;
    Ok((log, status))
}

/// The last lines of a log.
fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Where the output of the step of that title goes.
pub(crate) fn log_path(title: &str) -> Result<PathBuf> {
    let directory = workspace::target().join("xtask");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let name: String = title.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Ok(directory.join(format!("{name}.log")))
}

fn watch(mut child: Child, title: &str, log: &Path, started: Instant) -> Result<ExitStatus> {
    let terminal = std::io::stdout().is_terminal();
    let mut next_sign = WORTH_A_LINE;
    loop {
        if let Some(status) = child.try_wait()? {
            if terminal {
                print!("\r\x1b[K");
            }
            return Ok(status);
        }
        let elapsed = started.elapsed();
        if elapsed >= next_sign {
            show_progress(title, elapsed, &last_line(log), terminal);
            next_sign = elapsed + if terminal { POLL } else { SIGN_OF_LIFE };
        }
        std::thread::sleep(POLL);
    }
}

fn show_progress(title: &str, elapsed: Duration, detail: &str, terminal: bool) {
    let seconds = elapsed.as_secs();
    if terminal {
        print!("\r\x1b[K  … {title} ({seconds} s) \x1b[2m{detail}\x1b[0m");
    } else {
        println!("  … {title} ({seconds} s) {detail}");
    }
    // Progress that cannot be shown is no reason to stop.
    let _ = std::io::stdout().flush();
}

/// The last line written so far, cut to fit beside a title.
fn last_line(log: &Path) -> String {
    let mut end = Vec::new();
    if let Ok(mut file) = File::open(log) {
        let length = file.metadata().map(|m| m.len()).unwrap_or(0);
        let _ = file.seek(SeekFrom::Start(length.saturating_sub(512)));
        let _ = file.read_to_end(&mut end);
    }
    let text = String::from_utf8_lossy(&end);
    let line = text.split(['\n', '\r']).rfind(|line| !line.trim().is_empty()).unwrap_or("");
    line.trim().chars().filter(|c| !c.is_control()).take(60).collect()
}
