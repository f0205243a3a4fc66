//! `ztunnel top`: the connections that carry the most, and how fast they do now.

use std::{
    collections::HashMap,
    io::{self, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Endpoint, Question, finish, screen};
use crate::{
    config::Span,
    table::{Row, bytes, span, table},
};

/// Connections that are looked at; of these the fastest are shown.
const LOOKED_AT: usize = 2000;

#[derive(clap::Args)]
pub(crate) struct Top {
    #[command(flatten)]
    endpoint: Endpoint,
    /// Only those whose workload or service has this in its name.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only this namespace's.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// How many are shown.
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    rows: usize,
    /// How often.
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    interval: Span,
    /// Once, after one interval: for programs and for notes.
    #[arg(long)]
    once: bool,
    /// As JSON, with everything that is known and `bytesPerSecond`; once.
    #[arg(long, requires = "once")]
    json: bool,
}

/// What was known of each connection when last looked.
#[derive(Default)]
struct Before(HashMap<u64, u64>, Option<Instant>);

struct Line {
    /// Bytes a second; unknown at first sight.
    rate: Option<u64>,
    total: u64,
    connection: Value,
}

impl Top {
    pub(crate) fn run(&self) -> ExitCode {
        finish(self.show())
    }

    fn show(&self) -> anyhow::Result<()> {
        let interval = self.interval.0.max(Duration::from_millis(200));
        let mut before = Before::default();
        if self.once {
            self.fastest(&mut before)?;
            std::thread::sleep(interval);
            let page = if self.json { self.for_programs(&mut before)? } else { self.page(&mut before)? };
            return Ok(io::stdout().lock().write_all(page.as_bytes())?);
        }
        screen::follow(interval, || self.page(&mut before))
    }

    fn page(&self, before: &mut Before) -> anyhow::Result<String> {
        let mut lines = self.fastest(before)?;
        let (count, together) = (lines.len(), lines.iter().filter_map(|line| line.rate).sum());
        lines.truncate(self.rows);
        let shown = lines.len();
        Ok(format!("{count} connections, {}/s; {shown} shown\n\n{}", bytes(together), table(lines)))
    }

    fn for_programs(&self, before: &mut Before) -> anyhow::Result<String> {
        let lines = self.fastest(before)?.into_iter().take(self.rows);
        let connections: Vec<_> = lines.map(Line::into_json).collect();
        Ok(format!("{:#}\n", Value::Array(connections)))
    }

    fn fastest(&self, before: &mut Before) -> anyhow::Result<Vec<Line>> {
        let question = Question::of("/connections")
            .with("sort", Some("bytes"))
            .with("limit", Some(LOOKED_AT))
            .with("name", self.name.as_ref())
            .with("namespace", self.namespace.as_ref());
        let connections = self.endpoint.json(&question)?;
        let mut lines = before.lines(connections.as_array().cloned().unwrap_or_default(), Instant::now());
        lines.sort_by_key(|line| std::cmp::Reverse((line.rate, line.total)));
        Ok(lines)
    }
}

impl Line {
    fn into_json(mut self) -> Value {
        if let Value::Object(fields) = &mut self.connection {
            fields.insert("bytesPerSecond".to_owned(), self.rate.into());
        }
        self.connection
    }
}

impl Before {
    fn lines(&mut self, connections: Vec<Value>, now: Instant) -> Vec<Line> {
        let passed = self.1.map(|then| now.saturating_duration_since(then).as_millis().max(1));
        let lines: Vec<Line> =
            connections.into_iter().map(|connection| self.line(connection, passed)).collect();
        self.0 =
            lines.iter().filter_map(|line| Some((line.connection["id"].as_u64()?, line.total))).collect();
        self.1 = Some(now);
        lines
    }

    /// One that is new since has carried all it has within that time.
    fn line(&self, connection: Value, passed: Option<u128>) -> Line {
        let count = |field: &str| connection[field].as_u64().unwrap_or_default();
        let total = count("bytesToDestination").saturating_add(count("bytesToSource"));
        let known = connection["id"].as_u64().and_then(|id| self.0.get(&id)).copied();
        let rate = passed.map(|milliseconds| {
            let more = u128::from(total.saturating_sub(known.unwrap_or_default()));
            u64::try_from(more * 1000 / milliseconds).unwrap_or(u64::MAX)
        });
        Line { rate, total, connection }
    }
}

impl Row for Line {
    const HEADER: &'static [&'static str] =
        &["RATE", "TOTAL", "DIRECTION", "FROM", "TO", "PATH", "MTLS", "AGE"];

    fn cells(&self) -> Vec<String> {
        let it = &self.connection;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let party = |end: &str, address: &Value| match (&it[end]["namespace"], &it[end]["name"]) {
            (Value::String(namespace), Value::String(name)) => format!("{namespace}/{name}"),
            _ => text(address),
        };
        let direction = if it["role"] == "outbound" { "outbound" } else { "inbound" };
        let age = it["ageMilliseconds"].as_u64().map(|age| span(age / 1000));
        vec![
            self.rate.map(|rate| format!("{}/s", bytes(rate))).unwrap_or_default(),
            bytes(self.total),
            direction.to_owned(),
            party("source", &it["client"]),
            party("destination", &it["originalDestination"]),
            text(&it["path"]),
            if it["mutualTls"] == true { "yes" } else { "no" }.to_owned(),
            age.unwrap_or_default(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rate_is_what_came_since_the_last_look() {
        let connection =
            |id: u64, bytes: u64| json!({ "id": id, "bytesToSource": bytes, "bytesToDestination": 1 });
        let (mut before, start) = (Before::default(), Instant::now());
        let first = before.lines(vec![connection(1, 99)], start);
        assert_eq!((first[0].rate, first[0].total), (None, 100));
        let later = start + Duration::from_millis(500);
        let second = before.lines(vec![connection(1, 1099), connection(2, 9)], later);
        assert_eq!(second.iter().map(|line| line.rate).collect::<Vec<_>>(), [Some(2000), Some(20)]);
        let json: Vec<_> = second.into_iter().map(Line::into_json).collect();
        assert_eq!((&json[0]["bytesPerSecond"], &json[0]["id"]), (&json!(2000), &json!(1)));
        assert_eq!(before.0.len(), 2, "only those that are open are remembered");
    }
}
