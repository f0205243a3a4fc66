//! What comes out: every sample as JSON, tables as Markdown, and the goals with what was reached.

mod chart;
pub(crate) mod figure;
mod goals;
mod markdown;
pub(crate) mod statistics;

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    options::Options,
    parts::{Findings, memory::sidecars},
    progress,
};
use chart::Series;
use figure::Figure;

pub(crate) fn write(options: &Options, findings: &Findings) -> Result<()> {
    let goals = goals::judge(&findings.figures);
    let machine = machine(options);
    let text = markdown::report(&machine, &findings.figures, &goals, &progress::failures());
    if let Some(path) = &options.json {
        let all = json!({ "machine": machine, "goals": goals, "figures": findings.figures, "samples": findings.samples, "failures": progress::failures() });
        save(path, &serde_json::to_string(&all)?)?;
    }
    match &options.report {
        Some(name) => {
            save(&name.with_extension("md"), &text)?;
            if let Some(chart) = memory_chart(&findings.figures) {
                save(&name.with_extension("svg"), &chart)?;
            }
            println!("{}", markdown::goals(&goals));
        }
        None => println!("{text}"),
    }
    Ok(())
}

/// What all pods of a node hold, one line for each kind of proxy.
fn memory_chart(figures: &[Figure]) -> Option<String> {
    let series: Vec<Series> = sidecars::columns().into_iter().map(|name| series_of(figures, name)).collect();
    let some = series.iter().any(|series| series.points.len() > 1);
    some.then(|| {
        chart::lines("Memory by enrolled pods of a node", "pods", "MiB, proportional set size", &series)
    })
}

fn series_of(figures: &[Figure], name: &str) -> Series {
    let own = figures.iter().filter(|figure| figure.table == sidecars::TABLE && figure.what == name);
    let point = |figure: &Figure| {
        let pods = figure.of.split(' ').next()?.parse().ok()?;
        Some((pods, figure.summary()?.median))
    };
    Series { name: name.to_owned(), points: own.filter_map(point).collect() }
}

fn save(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    eprintln!("         {}", path.display());
    Ok(())
}

/// Where and how it was measured.
fn machine(options: &Options) -> serde_json::Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.to_owned()));
    json!({
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "processors": processors,
        "processor": model,
        "load": read("/proc/loadavg").split(' ').next(),
        "quick": options.quick,
        "proxy": options.proxy.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy()),
    })
}
