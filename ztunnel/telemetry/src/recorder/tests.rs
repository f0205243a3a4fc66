//! That nothing counted is lost, no connection stands still for a scrape, and no peer makes us grow.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use ::metrics::{Counter, Gauge, Label, counter, gauge, histogram, with_local_recorder};

use nix::time::{ClockId, clock_gettime};

use super::{Exporter, MAX_SERIES, Recorder, exporter::IDLE, recorder};

const IDLING: &[&str] = &["pairs_total"];

fn page(exporter: &Exporter) -> String {
    exporter.render(|_| {})
}

fn pair(recorder: &Recorder, number: usize) -> Counter {
    let labels = vec![
        Label::from_static_parts("reporter", "destination"),
        Label::new("source_principal", number.to_string()),
    ];
    with_local_recorder(recorder, || counter!("pairs_total", labels))
}

fn later(idle: u32) -> Instant {
    Instant::now() + IDLE * idle + Duration::from_secs(1)
}

#[test]
fn the_page_is_what_prometheus_reads() {
    let (recorder, exporter) = recorder(IDLING);
    with_local_recorder(&recorder, || {
        ::metrics::describe_counter!("pairs_total", "Two\nlines, a \\.");
        counter!("pairs_total", "a" => "q\"b\\n\n", "b" => "é").increment(3);
        gauge!("proxy_count").set(2.5);
        let histogram = histogram!("waited_seconds", "role" => "in");
        [0.0001, 0.2, 0.2, 60.0].iter().for_each(|seconds| histogram.record(*seconds));
    });
    let text = exporter.render(|page| {
        page.gauges("expires_seconds", [([("identity", "a\"")], 1.5e9), ([("identity", "b")], 2.0)]);
        page.gauges("nobody_seconds", [] as [([(&str, &str); 1], f64); 0]);
    });
    let lines: Vec<&str> = text.lines().collect();
    for line in [
        r#"# HELP pairs_total Two\nlines, a \\."#,
        "# TYPE pairs_total counter",
        r#"pairs_total{a="q\"b\\n\n",b="é"} 3"#,
        "# TYPE proxy_count untyped",
        "proxy_count 2.5",
        "# TYPE waited_seconds histogram",
        r#"waited_seconds_bucket{role="in",le="0.0005"} 1"#,
        r#"waited_seconds_bucket{role="in",le="0.25"} 3"#,
        r#"waited_seconds_bucket{role="in",le="10"} 3"#,
        r#"waited_seconds_bucket{role="in",le="+Inf"} 4"#,
        r#"waited_seconds_sum{role="in"} 60.4001"#,
        r#"waited_seconds_count{role="in"} 4"#,
        r#"expires_seconds{identity="a\""} 1500000000"#,
        r#"expires_seconds{identity="b"} 2"#,
    ] {
        assert!(lines.contains(&line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("nobody"), "{text}");
}

/// A live handle to a dropped series would count into nothing.
#[test]
fn a_series_is_dropped_once_it_is_idle_and_nobody_holds_it() {
    let (recorder, exporter) = recorder(IDLING);
    let kept = with_local_recorder(&recorder, || counter!("of_the_daemon_total"));
    drop(kept);
    let held = pair(&recorder, 1);
    pair(&recorder, 2).increment(5);
    exporter.sweep_at(Instant::now());
    assert!(page(&exporter).contains("\"2\"} 5"), "not idle for long");
    exporter.sweep_at(later(1));
    let text = page(&exporter);
    assert!(
        text.contains("\"1\"} 0") && !text.contains("\"2\"") && text.contains("of_the_daemon_total"),
        "{text}"
    );
    held.increment(1);
    pair(&recorder, 2).increment(1);
    let text = page(&exporter);
    assert!(text.contains("\"1\"} 1") && text.contains("\"2\"} 1"), "{text}");
    drop(held);
    exporter.sweep_at(later(1));
    assert!(page(&exporter).contains("\"1\"} 1"), "it was counted in since the last look");
    exporter.sweep_at(later(3));
    assert!(!page(&exporter).contains("pairs_total"));
}

/// Between the look at a series and its end somebody may count in it: no count may vanish while its counter stays.
#[test]
fn whoever_counts_while_series_are_dropped_counts_in_what_is_rendered() {
    let (recorder, exporter) = recorder(IDLING);
    thread::scope(|scope| {
        for thread in 0..2 {
            let (recorder, exporter) = (&recorder, &exporter);
            scope.spawn(move || {
                for round in 0..500_u64 {
                    let held = pair(recorder, thread);
                    held.increment(1);
                    let label = format!("source_principal=\"{thread}\"}} ");
                    let text = page(exporter);
                    let line = text.lines().find(|line| line.contains(&label)).expect("it is held");
                    let count: u64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
                    assert!((1..=round + 1).contains(&count), "round {round}: {line}");
                }
            });
        }
        for n in 0..500 {
            exporter.sweep_at(later(2 * n));
        }
    });
}

/// Whoever proves ever new identities must not make the daemon or its page grow, nor hide that it tried.
#[test]
fn a_family_is_bounded_and_what_finds_no_room_is_unknown() {
    let (recorder, exporter) = recorder(IDLING);
    for number in 0..MAX_SERIES + 100 {
        pair(&recorder, number).increment(1);
    }
    let text = page(&exporter);
    assert_eq!(text.lines().filter(|line| line.starts_with("pairs_total")).count(), MAX_SERIES + 1);
    assert!(text.contains("pairs_total{reporter=\"destination\",source_principal=\"unknown\"} 100\n"));
    assert!(text.contains("ztunnel_metric_series_overflow_total{family=\"pairs_total\"} 100\n"));
    exporter.sweep_at(later(1));
    pair(&recorder, MAX_SERIES + 1).increment(1);
    assert!(page(&exporter).contains(&format!("source_principal=\"{}\"}} 1\n", MAX_SERIES + 1)));
}

/// The lock of a scrape must be none that a connection takes, however long the scrape holds it.
#[test]
fn connections_count_and_register_while_a_page_is_being_written() {
    let (recorder, exporter) = recorder(IDLING);
    let held = pair(&recorder, 0);
    let (done, finished) = mpsc::channel();
    exporter.render(|_| {
        let recorder = recorder.clone();
        thread::spawn(move || {
            held.increment(1);
            (0..1000).for_each(|number| pair(&recorder, number).increment(1));
            done.send(()).unwrap();
        });
        finished.recv_timeout(Duration::from_secs(60)).expect("they wait for the page");
    });
    assert_eq!(page(&exporter).lines().filter(|line| line.starts_with("pairs_total")).count(), 1000);
}

/// A scraper in a loop must not have a processor for itself.
#[test]
fn a_page_that_took_long_is_served_again() {
    let (_recorder, exporter) = recorder(IDLING);
    let mut written = 0;
    let mut scrape = |cost| {
        exporter.scrape(|_| {
            written += 1;
            thread::sleep(cost);
        });
        written
    };
    assert_eq!((0..100).map(|_| scrape(Duration::from_millis(111))).max(), Some(1));
    thread::sleep(Duration::from_millis(1001));
    assert_eq!(scrape(Duration::ZERO), 2, "no page is older than a second");
}

/// The labels are as long as Istio's are.
fn crowd(series: usize) -> (Recorder, Exporter, Vec<Counter>) {
    let (recorder, exporter) = recorder(IDLING);
    let held = (0..series).map(|number| register(&recorder, number)).collect();
    (recorder, exporter, held)
}

fn register(recorder: &Recorder, number: usize) -> Counter {
    let name = ["opened_total", "closed_total", "sent_total", "received_total"][number % 4];
    let mut labels = vec![Label::new("source_workload", number.to_string())];
    labels.extend((0..26).map(|_| Label::from_static_parts("destination_workload", "some-workload-name")));
    with_local_recorder(recorder, || counter!(name, labels))
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// The least of several attempts: the machine may have other things to do.
fn least(mut attempt: impl FnMut() -> usize) -> Duration {
    let once = |_| {
        let before = processor_time();
        assert!(attempt() > 0);
        processor_time() - before
    };
    (0..20).map(once).min().unwrap()
}

/// Many series must cost what they are long, and no more: else a scrape of a large mesh is a scrape too many. Held against
/// joining the same lines, as a page that no longer fits the processor's caches costs four times as much for each byte.
#[test]
fn a_scrape_costs_little_more_than_joining_its_lines() {
    for series in [1000, 10_000, 40_000] {
        let (_recorder, exporter, _held) = crowd(series);
        let lines: Vec<String> = page(&exporter).lines().map(|line| format!("{line}\n")).collect();
        let mut joined = String::with_capacity(lines.iter().map(String::len).sum());
        let joining = least(|| {
            joined.clear();
            lines.iter().for_each(|line| joined.push_str(line));
            joined.len()
        });
        let scraping = least(|| {
            exporter.wake();
            exporter.scrape(|_| {}).len()
        });
        let ratio = scraping.as_secs_f64() / joining.as_secs_f64();
        println!("{series} series, {} bytes: {scraping:?}, {ratio:.1} times joining them", joined.len());
        assert!(ratio < 5.0, "{series} series: {ratio:.1} times joining their lines, {joining:?}");
    }
}

/// Of several rounds the quietest counts: the machine may have other things to do, and then anybody waits.
#[test]
fn a_scrape_of_ten_thousand_series_stalls_no_connection_for_a_millisecond() {
    let (recorder, exporter, held) = crowd(9_000);
    let round = |number: usize| {
        let mut taken = Vec::with_capacity(2000);
        let mut time = |action: &mut dyn FnMut()| {
            let started = Instant::now();
            action();
            taken.push(started.elapsed());
        };
        for (n, counter) in held.iter().take(100).enumerate() {
            time(&mut || drop(register(&recorder, 9_000 + number * 100 + n)));
            (0..19).for_each(|_| time(&mut || counter.increment(1)));
        }
        taken.sort();
        (taken[1999], taken[1997])
    };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let scraping = scope.spawn(|| {
            let mut pages = 0;
            while !stop.load(Relaxed) {
                pages += usize::from(!page(&exporter).is_empty());
            }
            pages
        });
        let rounds: Vec<_> = (0..10)
            .map(|number| {
                thread::sleep(Duration::from_millis(20));
                round(number)
            })
            .collect();
        stop.store(true, Relaxed);
        let pages = scraping.join().unwrap();
        let quietest = rounds.iter().min().unwrap();
        println!("{pages} pages; of 2,000 actions, the longest and the 99.9th percentile: {rounds:?}");
        assert!(pages > 0 && quietest.0 < Duration::from_millis(1), "{rounds:?}");
    });
}

/// A name used twice must not make one metric out of two.
#[test]
fn a_gauge_by_a_counters_name_records_nothing() {
    let (recorder, exporter) = recorder(IDLING);
    let gauge: Gauge = with_local_recorder(&recorder, || {
        counter!("pairs_total").increment(1);
        gauge!("pairs_total")
    });
    gauge.set(9.0);
    assert!(page(&exporter).contains("pairs_total 1\n"));
}
