//! Renders what is recorded, from a list of its own.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, atomic::Ordering::Relaxed, mpsc::Receiver},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{Entry, Kind, Shared, Value, text};

/// A series of an idling family is dropped after nothing was counted in it for so long, and nobody holds it.
pub(super) const IDLE: Duration = Duration::from_secs(15 * 60);
/// How often that is looked after.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// After a page has been rendered it is served again for this many times as long as that took, so that whoever
/// scrapes in a loop gets a tenth of a processor at most.
const REST: u32 = 9;
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Clones render the same.
#[derive(Clone, Debug)]
pub struct Exporter {
    shared: Arc<Shared>,
    book: Arc<Mutex<Book>>,
}

#[derive(Debug)]
struct Book {
    arrivals: Receiver<Arc<Entry>>,
    families: BTreeMap<String, Vec<Known>>,
    swept: Instant,
    page: Option<Rendered>,
}

#[derive(Debug)]
struct Known {
    entry: Arc<Entry>,
    /// What was counted in it when it last changed.
    seen: u64,
    since: Instant,
}

#[derive(Debug)]
struct Rendered {
    page: Arc<String>,
    good_until: Instant,
}

/// A page being written: for what is known elsewhere and would be stale as soon as it was recorded.
#[derive(Debug)]
pub struct Page<'a> {
    text: String,
    shared: &'a Shared,
}

impl Exporter {
    pub(super) fn new(shared: Arc<Shared>, arrivals: Receiver<Arc<Entry>>) -> Self {
        let book = Book { arrivals, families: BTreeMap::new(), swept: Instant::now(), page: None };
        Self { shared, book: Arc::new(Mutex::new(book)) }
    }

    /// The Prometheus text format. `collect` adds what is not recorded, and may record. If the last page took long and
    /// is new, it is served again.
    pub fn scrape(&self, collect: impl FnOnce(&mut Page<'_>)) -> Arc<String> {
        let mut book = self.book.lock();
        let started = Instant::now();
        if let Some(rendered) = book.page.as_ref().filter(|rendered| started < rendered.good_until) {
            return Arc::clone(&rendered.page);
        }
        let memory = book.page.take().map(|last| memory_of(last.page)).unwrap_or_default();
        let page = Arc::new(self.write(&mut book, memory, collect));
        let now = Instant::now();
        let rest = (now - started).saturating_mul(REST).min(LONGEST_REST);
        book.page = Some(Rendered { page: Arc::clone(&page), good_until: now + rest });
        page
    }

    /// The same, always anew.
    pub fn render(&self, collect: impl FnOnce(&mut Page<'_>)) -> String {
        self.write(&mut self.book.lock(), String::new(), collect)
    }

    /// Drops what has been idle for long; to be called now and then.
    pub fn upkeep(&self) {
        let (mut book, now) = (self.book.lock(), Instant::now());
        if now.duration_since(book.swept) >= SWEEP_INTERVAL {
            book.swept = now;
            self.sweep(&mut book, now);
        }
    }

    /// The names of all families that are described.
    pub fn described(&self) -> Vec<String> {
        let families = self.shared.families.read();
        families
            .iter()
            .filter(|(_, family)| family.help.get().is_some())
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn write(&self, book: &mut Book, memory: String, collect: impl FnOnce(&mut Page<'_>)) -> String {
        let mut page = Page { text: memory, shared: &self.shared };
        collect(&mut page);
        let mut text = page.text;
        book.welcome(Instant::now());
        for (name, series) in &book.families {
            let Some(first) = series.first() else { continue };
            let family = &first.entry.family;
            text::head(
                &mut text,
                name,
                type_of(name, family.kind),
                family.help.get().map_or("", |help| help),
            );
            series.iter().for_each(|known| known.entry.render(&mut text));
        }
        text
    }

    fn sweep(&self, book: &mut Book, now: Instant) {
        book.welcome(now);
        for series in book.families.values_mut() {
            if series.first().is_some_and(|first| first.entry.family.idles) {
                series
                    .retain_mut(|known| !known.is_idle(now) || !self.shared.forget(&known.entry, known.seen));
            }
        }
    }

    /// The next scrape is written anew.
    #[cfg(test)]
    pub(crate) fn wake(&self) {
        if let Some(rendered) = &mut self.book.lock().page {
            rendered.good_until = Instant::now();
        }
    }

    #[cfg(test)]
    pub(crate) fn sweep_at(&self, now: Instant) {
        self.sweep(&mut self.book.lock(), now);
    }
}

/// A page that nobody reads any more leaves its memory to the next, which is about as long: thousands of pages of fresh
/// memory cost more than what is written into them.
fn memory_of(page: Arc<String>) -> String {
    let length = page.len();
    let Some(mut memory) = Arc::into_inner(page) else { return String::with_capacity(length + length / 8) };
    memory.clear();
    memory.shrink_to(length.saturating_mul(2));
    memory
}

impl Book {
    fn welcome(&mut self, now: Instant) {
        for entry in self.arrivals.try_iter() {
            let known = Known { seen: entry.value.progress(), since: now, entry };
            let name = &known.entry.family.name;
            match self.families.get_mut(name) {
                Some(series) => series.push(known),
                None => drop(self.families.insert(name.clone(), vec![known])),
            }
        }
    }
}

impl Known {
    fn is_idle(&mut self, now: Instant) -> bool {
        let progress = self.entry.value.progress();
        if progress != self.seen {
            (self.seen, self.since) = (progress, now);
        }
        now.duration_since(self.since) >= IDLE
    }
}

impl Entry {
    fn render(&self, page: &mut String) {
        if let Value::Histogram(histogram) = &self.value {
            return histogram.render(page, &self.text);
        }
        page.push_str(&self.text);
        // Writing to a string cannot fail.
        let _ = match &self.value {
            Value::Gauge(value) => writeln!(page, " {}", f64::from_bits(value.load(Relaxed))),
            Value::Counter(value) => writeln!(page, " {}", value.load(Relaxed)),
            Value::Histogram(_) => Ok(()),
        };
    }
}

impl Page<'_> {
    /// A whole family: its series by their labels. It must have been described.
    pub fn gauges<'a, L>(&mut self, name: &'static str, series: impl IntoIterator<Item = (L, f64)>)
    where
        L: IntoIterator<Item = (&'static str, &'a str)>,
    {
        let mut series = series.into_iter().peekable();
        if series.peek().is_none() {
            return;
        }
        let family = self.shared.family(name, Kind::Gauge);
        let help = family.help.get().map_or("", |help| help);
        text::head(&mut self.text, name, type_of(name, family.kind), help);
        for (labels, value) in series {
            self.text.push_str(name);
            text::labels(&mut self.text, labels);
            // Writing to a string cannot fail.
            let _ = writeln!(self.text, " {value}");
        }
    }

    pub fn gauge(&mut self, name: &'static str, value: f64) {
        self.gauges(name, [([], value)]);
    }
}

/// Istio has a gauge whose name ends as a histogram's does. Prometheus takes it for what it is if it is told nothing.
fn type_of(name: &str, kind: Kind) -> &'static str {
    match kind {
        _ if kind != Kind::Histogram && name.ends_with("_count") => "untyped",
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}
