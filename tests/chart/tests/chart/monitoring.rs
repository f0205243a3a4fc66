//! Dashboard and alerts ask only for metrics that the daemon has. SPECIFICATION's table is held to the daemon by a test
//! of its own (`daemon/src/metrics.rs`), and that of the controller to the controller (`scenarios::controller`), so they stand for
//! both here.

use std::{collections::BTreeSet, fs, process::Command};

use chart::{Chart, parse};
use serde_json::{Value, json};

use super::{find, rendered};

/// Every metric of the table, by its first column.
fn exported() -> BTreeSet<String> {
    let text = fs::read_to_string(chart::root().join("docs/SPECIFICATION.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let first = rows.filter_map(|row| row.split(" | ").next());
    first.flat_map(|cell| metrics_in(&cell.replace('`', " "))).collect()
}

/// Words of an expression that are named like metrics; labels and functions are not.
fn metrics_in(expression: &str) -> Vec<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours =
        |word: &&str| ["ztunnel_", "istio_", "workload_manager_"].iter().any(|start| word.starts_with(start));
    let family = |word: &str| {
        let cut = word.strip_suffix("_bucket").or_else(|| word.strip_suffix("_seconds_count"));
        cut.unwrap_or(word).to_owned()
    };
    words.filter(ours).map(family).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&Chart::ours().unwrap().file("files/dashboard.json").unwrap()).unwrap()
}

/// All strings below `key`, wherever it is.
fn all(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                match inner {
                    Value::String(text) if name == key => found.push(text.clone()),
                    _ => all(inner, key, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| all(inner, key, found)),
        _ => {}
    }
}

fn all_exported(place: &str, expressions: &[String]) {
    let exported = exported();
    assert!(exported.len() > 50 && expressions.len() > 5, "{place}: too little was read");
    for expression in expressions {
        let metrics = metrics_in(expression);
        assert!(!metrics.is_empty(), "{place}: no metric in {expression}");
        for metric in metrics {
            assert!(exported.contains(&metric), "{place}: nobody exports {metric}");
        }
    }
}

#[test]
fn the_dashboard_asks_for_what_is_exported() {
    let mut expressions = Vec::new();
    all(&dashboard(), "expr", &mut expressions);
    all(&dashboard()["templating"], "query", &mut expressions);
    expressions.retain(|expression| expression != "prometheus");
    all_exported("dashboard", &expressions);
}

/// Panels on top of each other, or two with one number, are what Grafana shows wrongly without a word.
#[test]
fn the_dashboard_s_panels_have_room_and_numbers_of_their_own() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in panels {
        let side = |key| panel["gridPos"][key].as_u64().unwrap();
        assert!(side("x") + side("w") <= 24, "{}", panel["title"]);
        for x in side("x")..side("x") + side("w") {
            for y in side("y")..side("y") + side("h") {
                assert!(taken.insert((x, y)), "{} is on top of another", panel["title"]);
            }
        }
    }
}

#[test]
fn the_alerts_ask_for_what_is_exported_and_name_a_summary() {
    let alerts = parse(&Chart::ours().unwrap().file("files/alerts.yaml").unwrap()).unwrap();
    let mut expressions = Vec::new();
    all(&alerts, "expr", &mut expressions);
    all_exported("alerts", &expressions);
    let groups = alerts["groups"].as_array().unwrap();
    for rule in groups.iter().flat_map(|group| group["rules"].as_array().unwrap()) {
        for key in ["summary", "description"] {
            assert!(rule["annotations"][key].is_string(), "{}: no {key}", rule["alert"]);
        }
    }
}

/// By Prometheus' own tool: the file as it is, and every query of the dashboard as if it were a rule.
#[test]
fn promtool_takes_the_alerts_and_the_dashboard_s_queries() {
    let mut queries = Vec::new();
    all(&dashboard()["panels"], "expr", &mut queries);
    let rule =
        |(number, query): (usize, &String)| json!({"record": format!("query:{number}"), "expr": query});
    let rules: Vec<_> = queries.iter().enumerate().map(rule).collect();
    let alerts = parse(&Chart::ours().unwrap().file("files/alerts.yaml").unwrap()).unwrap();
    let values = json!({"prometheusRule": {"enabled": true, "strictBoundNamespaces": "shop|bank"}});
    let chosen = find(&rendered(&values), "PrometheusRule", "ztunnel")["spec"].clone();
    assert!(chosen.to_string().contains(r#"destination_workload_namespace=~\"shop|bank\""#));
    for (name, content) in [
        ("alerts", alerts),
        ("chosen", chosen),
        ("dashboard", json!({"groups": [{"name": "d", "rules": rules}]})),
    ] {
        promtool(name, &content);
    }
}

fn promtool(name: &str, rules: &Value) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.yaml");
    // JSON is YAML.
    fs::write(&file, rules.to_string()).unwrap();
    let answer = Command::new("promtool").args(["check", "rules"]).arg(&file).output();
    let answer = answer.expect("promtool does not start; run: cargo xtask setup");
    assert!(answer.status.success(), "{name}: {}", String::from_utf8_lossy(&answer.stderr));
}
