//! By the number of enrolled pods. They stand from the beginning, and are enrolled step by step.

use std::thread::sleep;

use anyhow::Result;

use super::{
    ANONYMOUS, AT_REST, Figure, Findings, KIB, MIB, MeshPlan, Options, PSS, RSS, Stand, anonymous, bytes,
    memory, progress, read, sidecars,
};

pub(crate) const TABLE: &str = "Memory by pods";
/// Of the daemon's own memory: pages of the program, which come and go with what it does, are no pod's.
pub(crate) const OWN_EACH: &str = "anonymous, each";
pub(crate) const DESCRIPTORS: &str = "descriptors";
pub(crate) const DESCRIPTORS_EACH: &str = "descriptors, each role and worker";
const ROLES: usize = 3;

pub(super) fn measure(options: &Options, findings: &mut Findings) -> Result<()> {
    let counts: &[usize] = if options.quick { &[0, 1, 10, 50] } else { &[0, 1, 10, 100, 200] };
    let most = counts.last().copied().unwrap_or_default();
    let names: Vec<String> = (0..most).map(|number| format!("pod{number}")).collect();
    progress::say(&format!("building {most} pods"));
    let mut plan = MeshPlan::new(&[&names.join(" ")]);
    for name in &names {
        plan = plan.pod(name, |pod| (pod.enrolled, pod.in_state) = (false, false));
    }
    let mut stand = Stand::with_mesh(options, plan)?;
    sidecars::measure(&stand, &names, counts, findings)?;
    let mut first = None;
    for &count in counts {
        stand.enrol(&names[..count])?;
        sleep(AT_REST);
        let held = weigh(&stand, &named(count), findings)?;
        if count == 1 {
            first = Some(held);
        }
        if let Some((own, descriptors)) = first.filter(|_| count == most) {
            each(most - 1, (held.0 - own) / KIB, held.1 - descriptors, findings);
        }
    }
    Ok(())
}

pub(super) fn named(count: usize) -> String {
    format!("{count} {}", if count == 1 { "pod" } else { "pods" })
}

/// Bytes of its own and descriptors.
fn weigh(stand: &Stand, of: &str, findings: &mut Findings) -> Result<(f64, f64)> {
    progress::say(of);
    let process = stand.mesh.daemon(1).id();
    let readings = read(process, findings, of)?;
    let descriptors = bytes(memory::descriptors(process)? as u64);
    let mut push = |what, unit, values| {
        findings.figures.push(Figure { table: TABLE, of: of.to_owned(), what, unit, values });
    };
    push(RSS, "MiB", readings.iter().map(|memory| bytes(memory.resident) / MIB).collect());
    push(PSS, "MiB", readings.iter().map(|memory| bytes(memory.proportional) / MIB).collect());
    push(ANONYMOUS, "MiB", readings.iter().map(|memory| bytes(memory.anonymous) / MIB).collect());
    push(DESCRIPTORS, "", vec![descriptors]);
    sidecars::add(
        of,
        sidecars::OURS,
        readings.iter().map(|memory| bytes(memory.proportional) / MIB).collect(),
        findings,
    );
    Ok((anonymous(&readings), descriptors))
}

/// Against one pod, which brings with it what is made once.
fn each(pods: usize, kibibytes: f64, descriptors: f64, findings: &mut Findings) {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let pods = bytes(pods as u64);
    let mut push = |what, unit, values| {
        findings.figures.push(Figure { table: TABLE, of: "each more pod".to_owned(), what, unit, values });
    };
    push(OWN_EACH, "KiB", vec![kibibytes / pods]);
    push(DESCRIPTORS, "", vec![descriptors / pods]);
    push(DESCRIPTORS_EACH, "", vec![descriptors / pods / bytes((ROLES * workers) as u64)]);
}
