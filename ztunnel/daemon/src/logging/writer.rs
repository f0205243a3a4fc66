//! Lines on their way to standard output, which a thread of their own writes. Whoever logs never waits: lines that are too
//! many are dropped and counted.
//!
//! Lines are written together with those that come within a moment of each other. So a busy daemon wakes its thread and
//! calls the kernel once for many, and an idle one holds nothing.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

/// How long a line may wait for others.
const GATHERING: Duration = Duration::from_millis(10);
/// Few enough for a write that is not noticed.
const TOGETHER: usize = 64 << 10;

#[derive(Clone)]
pub(super) struct Lines(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    /// Of the writing thread: there is something to do.
    some: Condvar,
    /// Of who waits for the end: nothing is left to do.
    none: Condvar,
    most: usize,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    text: Vec<Vec<u8>>,
    /// So many the thread has taken and not written yet.
    writing: usize,
    ending: bool,
}

impl Lines {
    /// At most so many wait.
    pub(super) fn start(most: usize) -> io::Result<Self> {
        let lines = Self::new(most);
        let writing = lines.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || writing.write_to(io::stdout()))?;
        Ok(lines)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Relaxed)
    }

    /// Until all that waits is written, at most for so long.
    pub(super) fn finish(&self, within: Duration) {
        let mut waiting = self.0.waiting.lock();
        waiting.ending = true;
        self.0.some.notify_one();
        let left = |waiting: &mut Waiting| waiting.writing > 0 || !waiting.text.is_empty();
        self.0.none.wait_while_for(&mut waiting, left, within);
    }

    fn new(most: usize) -> Self {
        let (waiting, some, none) = (Mutex::default(), Condvar::new(), Condvar::new());
        Self(Arc::new(Shared { waiting, some, none, most, dropped: AtomicU64::new(0) }))
    }

    fn add(&self, line: &[u8]) {
        let mut waiting = self.0.waiting.lock();
        if waiting.text.len() + waiting.writing >= self.0.most {
            self.0.dropped.fetch_add(1, Relaxed);
            return;
        }
        waiting.text.push(line.to_owned());
        if waiting.text.len() == 1 && waiting.writing == 0 {
            self.0.some.notify_one();
        }
    }

    fn write_to(self, mut output: impl Write) {
        loop {
            let (lines, ending) = self.next();
            for some in pieces(&lines) {
                // Whoever reads them has gone.
                let _ = output.write_all(some.concat().as_slice());
            }
            let _ = output.flush();
            if !ending {
                thread::sleep(GATHERING);
            }
        }
    }

    fn next(&self) -> (Vec<Vec<u8>>, bool) {
        let mut waiting = self.0.waiting.lock();
        waiting.writing = 0;
        if waiting.text.is_empty() {
            self.0.none.notify_all();
        }
        self.0.some.wait_while(&mut waiting, |waiting| waiting.text.is_empty());
        waiting.writing = waiting.text.len();
        (std::mem::take(&mut waiting.text), waiting.ending)
    }
}

/// Of about so many bytes each.
fn pieces(lines: &[Vec<u8>]) -> impl Iterator<Item = &[Vec<u8>]> {
    let mut rest = lines;
    std::iter::from_fn(move || {
        let mut length = 0;
        let mut fits = |line: &Vec<u8>| {
            length += line.len();
            length <= TOGETHER
        };
        let count = rest.iter().take_while(|line| fits(line)).count().max(1);
        let (piece, after) = rest.split_at_checked(count)?;
        rest = after;
        Some(piece)
    })
}

/// The subscriber writes each line at once and whole.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|number| format!("{number}\n").into_bytes()).collect()
    }

    /// If who logs waited, a reader of the log that stalls would stop all connections.
    #[test]
    fn what_is_too_much_is_dropped_and_counted() {
        let log = Lines::new(3);
        lines(5).iter().for_each(|line| log.add(line));
        assert_eq!((log.0.waiting.lock().text.clone(), log.dropped()), (lines(3), 2));
    }

    #[test]
    fn all_that_was_said_is_written_in_its_order_before_the_end() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (log, said) = (Lines::new(usize::MAX), lines(20_000));
        let writing = log.clone();
        thread::spawn(move || writing.write_to(writer));
        let reading = thread::spawn(move || {
            let mut all = vec![0; lines(20_000).concat().len()];
            io::Read::read_exact(&mut reader, &mut all).map(|()| all)
        });
        said.iter().for_each(|line| log.add(line));
        log.finish(Duration::from_secs(60));
        assert_eq!(reading.join().unwrap().unwrap(), said.concat());
        let left = log.0.waiting.lock();
        assert_eq!((left.text.len(), left.writing), (0, 0));
    }

    /// One write for everything would copy a log that waited long into memory once more.
    #[test]
    fn what_is_written_together_is_bounded() {
        let long = vec![vec![b'x'; TOGETHER / 2 + 1]; 3];
        assert_eq!(pieces(&long).map(<[_]>::len).collect::<Vec<_>>(), [1, 1, 1]);
        let huge = vec![vec![b'x'; 2 * TOGETHER]];
        assert_eq!(pieces(&huge).count(), 1, "it goes alone");
        assert_eq!(pieces(&lines(9)).count(), 1);
    }
}
