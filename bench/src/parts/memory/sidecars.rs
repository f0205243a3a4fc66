//! What the same pods would hold if each had a sidecar of its own: a real proxy with mutual TLS on both sides, as small
//! as it can be configured, in each pod's namespace. The first pod talks to the second through both of theirs.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use testkit::{
    Process,
    client::Dial,
    server::{Behaviour, Server},
};

use super::{Figure, Findings, MIB, SETTLING, Stand, bytes, memory, pods::named, progress};
use crate::measure::memory::Memory;

mod certificates;
mod kind;

use kind::{Kind, OUTBOUND};

pub(crate) const TABLE: &str = "Memory against sidecars";
pub(crate) const OURS: &str = "ztunnel, one for all";
const APPLICATION_PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(10);

/// The names of the columns of the table: what is told apart.
pub(crate) fn columns() -> Vec<&'static str> {
    Kind::ALL.map(Kind::name).into_iter().chain([OURS]).collect()
}

pub(super) fn measure(
    stand: &Stand,
    names: &[String],
    counts: &[usize],
    findings: &mut Findings,
) -> Result<()> {
    let directory = stand.mesh.directory().join("sidecars");
    std::fs::create_dir(&directory)?;
    certificates::write(&directory)?;
    for kind in Kind::ALL {
        if !kind.is_installed() {
            progress::say(&format!("{} is not installed: not measured", kind.name()));
            continue;
        }
        let mut sidecars = Vec::new();
        for &count in counts.iter().filter(|count| **count > 0) {
            progress::say(&format!("{count} pods with {}", kind.name()));
            for place in sidecars.len()..count {
                sidecars.push(start(stand, kind, names, place, &directory)?);
            }
            sleep(SETTLING);
            weigh(kind, &sidecars, findings)?;
        }
        if counts.last().is_some_and(|most| *most > 1) {
            talk(stand, names).with_context(|| format!("through two sidecars of {}", kind.name()))?;
        }
    }
    Ok(())
}

/// It calls the pod after its own.
fn start(stand: &Stand, kind: Kind, names: &[String], place: usize, directory: &Path) -> Result<Process> {
    let peer = stand.ip(&names[(place + 1) % names.len()]);
    let file = directory.join(format!("{place}-{}.conf", kind.name()));
    std::fs::write(&file, kind.configuration(peer, directory))?;
    let mut command = Command::new(kind.program());
    command.args(kind.arguments(&file));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    stand.mesh.pod(&names[place]).start(command)
}

/// Five readings of all of them.
fn weigh(kind: Kind, sidecars: &[Process], findings: &mut Findings) -> Result<()> {
    let mut readings = Vec::new();
    for _ in 0..5 {
        let mut all = Memory::default();
        for sidecar in sidecars {
            all = all + memory::of(sidecar.id()).with_context(|| format!("{} ended", kind.name()))?;
        }
        readings.push(bytes(all.proportional) / MIB);
    }
    add(&named(sidecars.len()), kind.name(), readings, findings);
    Ok(())
}

/// Proportional set size, in MiB, of all that carries the traffic of these pods.
pub(super) fn add(of: &str, what: &'static str, values: Vec<f64>, findings: &mut Findings) {
    findings.figures.push(Figure { table: TABLE, of: of.to_owned(), what, unit: "MiB", values });
}

/// Plaintext, mutual TLS, plaintext, and the same back.
fn talk(stand: &Stand, names: &[String]) -> Result<()> {
    let _echo = Server::start(stand.mesh.pod(&names[1]), APPLICATION_PORT, Behaviour::Echo)?;
    let own = SocketAddr::from(([127, 0, 0, 1], OUTBOUND));
    let give_up = Instant::now() + PATIENCE;
    loop {
        match stand.mesh.pod(&names[0]).run(move || Dial::to(own).exchange(b"through two sidecars")) {
            Ok(answer) => return ensure_same(&answer),
            Err(error) if Instant::now() > give_up => return Err(error.into()),
            Err(_) => sleep(Duration::from_millis(100)),
        }
    }
}

fn ensure_same(answer: &[u8]) -> Result<()> {
    ensure!(answer == b"through two sidecars", "another answer came back");
    Ok(())
}
