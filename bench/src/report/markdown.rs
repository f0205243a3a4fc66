//! Tables for people.

use std::fmt::Write;

use serde_json::Value;

use super::{figure::Figure, goals::Judged, statistics::short};

pub(crate) fn report(machine: &Value, figures: &[Figure], goals: &[Judged], failures: &[String]) -> String {
    let mut text = String::from("# What the mesh costs\n\n");
    text.push_str("Medians, with the least and the most in parentheses; `x` is a ratio against the same traffic without a mesh, each\nmeasured in the same round. [BENCHMARKS](../../docs/BENCHMARKS.md) says how to read it.\n\n");
    let known = machine.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let facts: Vec<String> =
        known.map(|(key, value)| format!("{key} {}", value.to_string().trim_matches('"'))).collect();
    let _ = writeln!(text, "Measured on: {}.\n", facts.join(", "));
    text.push_str(&self::goals(goals));
    if !failures.is_empty() {
        let _ = writeln!(text, "## Failures\n\nMeasured again, or missing below.\n");
        failures.iter().for_each(|failure| _ = writeln!(text, "- {}", failure.replace('\n', " ")));
        text.push('\n');
    }
    for name in in_order(figures.iter().map(|figure| figure.table)) {
        let own: Vec<&Figure> = figures.iter().filter(|figure| figure.table == name).collect();
        table(&mut text, name, &own);
    }
    text
}

pub(crate) fn goals(goals: &[Judged]) -> String {
    let mut text = String::from(
        "## Goals\n\n| goal | at most or at least | measured | reached |\n| --- | --- | --- | --- |\n",
    );
    for goal in goals {
        let measured = goal.measured.map_or_else(|| "not measured".to_owned(), short);
        let reached = goal.reached.map_or("", |reached| if reached { "yes" } else { "**no**" });
        let _ = writeln!(
            text,
            "| {} | {} {} {} | {measured} | {reached} |",
            goal.name,
            goal.sense,
            short(goal.bound),
            goal.unit
        );
    }
    text.push('\n');
    text
}

fn table(text: &mut String, name: &str, figures: &[&Figure]) {
    let columns = in_order(figures.iter().map(|figure| (figure.what, figure.unit)));
    let heads: Vec<String> = columns.iter().map(|(what, unit)| format!("{what} [{unit}]")).collect();
    let _ =
        writeln!(text, "## {name}\n\n| | {} |\n|{} --- |", heads.join(" | "), " --- |".repeat(columns.len()));
    for row in in_order(figures.iter().map(|figure| figure.of.as_str())) {
        let cell = |(what, unit): &(&str, &str)| {
            let found = figures
                .iter()
                .find(|figure| figure.of == row && figure.what == *what && figure.unit == *unit);
            found.and_then(|figure| figure.summary()).map(|summary| summary.to_string()).unwrap_or_default()
        };
        let cells: Vec<String> = columns.iter().map(cell).collect();
        let _ = writeln!(text, "| {row} | {} |", cells.join(" | "));
    }
    text.push('\n');
}

/// Each once, where it first stood.
fn in_order<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    all.fold(Vec::new(), |mut seen, one| {
        if !seen.contains(&one) {
            seen.push(one);
        }
        seen
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(of: &str, what: &'static str, values: &[f64]) -> Figure {
        Figure { table: "Bulk", of: of.to_owned(), what, unit: "x", values: values.to_vec() }
    }

    /// Catches: a value in another's cell, and a row that is there twice.
    #[test]
    fn each_figure_has_its_cell() {
        let figures = [
            figure("up", "rate", &[0.5]),
            figure("down", "cpu", &[4.0, 5.0, 6.0]),
            figure("up", "cpu", &[3.0]),
        ];
        let text = report(&Value::Null, &figures, &[], &[]);
        assert!(text.contains("| | rate [x] | cpu [x] |\n| --- | --- | --- |\n"), "{text}");
        assert!(text.contains("| up | 0.500 | 3.00 |\n| down |  | 5.00 (4.00..6.00) |\n"), "{text}");
    }
}
