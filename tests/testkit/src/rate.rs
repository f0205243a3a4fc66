//! A client that opens connections at a constant rate, whatever becomes of them, and keeps the score. Only if very many
//! are unfinished it waits for some of them: it has but so many descriptors.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::SocketAddr,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{SockRef, Socket};

use crate::{Place, client::Dial};

const TICK: u16 = 2;
const MOST_OPEN: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(5);
const MESSAGE: &[u8] = b".";

/// Running until it is stopped. The target must echo.
#[derive(Debug)]
pub struct Rate {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Outcomes>>,
}

/// How often what happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// The echo came back.
    pub answered: u64,
    /// Closed without an answer.
    pub closed: u64,
    /// Neither failed nor answered in five seconds.
    pub silent: u64,
    /// By the error's name, such as `ECONNREFUSED`.
    pub errors: BTreeMap<String, u64>,
}

struct Attempt {
    socket: Socket,
    started: Instant,
    asked: bool,
}

enum End {
    Answered,
    Closed,
    Failed(io::Error),
}

impl Rate {
    pub fn start(place: &Place, target: SocketAddr, per_second: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = place.spawn(move || attempt_all(target, per_second, &told));
        Self { stop, thread }
    }

    /// Starts no more, waits for what is open, and yields the score.
    pub fn stop(self) -> Result<Outcomes> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the connecting thread panicked")?
    }
}

impl Outcomes {
    pub fn total(&self) -> u64 {
        self.answered + self.failed()
    }

    pub fn failed(&self) -> u64 {
        self.closed + self.silent + self.errors.values().sum::<u64>()
    }

    fn count(&mut self, end: End) {
        match end {
            End::Answered => self.answered += 1,
            End::Closed => self.closed += 1,
            End::Failed(error) => {
                let name =
                    error.raw_os_error().map(|code| format!("{:?}", nix::errno::Errno::from_raw(code)));
                *self.errors.entry(name.unwrap_or_else(|| error.kind().to_string())).or_default() += 1;
            }
        }
    }
}

fn attempt_all(target: SocketAddr, per_second: u32, stop: &AtomicBool) -> Result<Outcomes> {
    let (mut outcomes, mut open) = (Outcomes::default(), Vec::new());
    let started = Instant::now();
    let mut attempts: u128 = 0;
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        if stopping && open.is_empty() {
            return Ok(outcomes);
        }
        // As many as are due by now: a pause is made up for.
        let due = started.elapsed().as_millis() * u128::from(per_second) / 1000;
        while !stopping && attempts < due && open.len() < MOST_OPEN {
            attempts += 1;
            match Dial::to(target).begin() {
                Ok(socket) => open.push(Attempt { socket, started: Instant::now(), asked: false }),
                Err(error) => outcomes.count(End::Failed(error)),
            }
        }
        wait(&open)?;
        open = advance_all(open, &mut outcomes);
    }
}

fn wait(open: &[Attempt]) -> Result<()> {
    let interest = |attempt: &Attempt| if attempt.asked { PollFlags::POLLIN } else { PollFlags::POLLOUT };
    let mut descriptors: Vec<PollFd<'_>> =
        open.iter().map(|attempt| PollFd::new(attempt.socket.as_fd(), interest(attempt))).collect();
    poll(&mut descriptors, PollTimeout::from(TICK))?;
    Ok(())
}

fn advance_all(open: Vec<Attempt>, outcomes: &mut Outcomes) -> Vec<Attempt> {
    let mut still_open = Vec::with_capacity(open.len());
    for mut attempt in open {
        match attempt.advance() {
            Some(end) => outcomes.count(end),
            None if attempt.started.elapsed() > PATIENCE => outcomes.silent += 1,
            None => still_open.push(attempt),
        }
    }
    still_open
}

impl Attempt {
    /// One step further, if the kernel lets it; the end, if this was it.
    fn advance(&mut self) -> Option<End> {
        let result = if self.asked { self.listen() } else { self.ask().map(|()| None) };
        match result {
            Ok(end) => end,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => {
                None
            }
            Err(error) => Some(End::Failed(error)),
        }
    }

    fn ask(&mut self) -> io::Result<()> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        SockRef::from(&self.socket).peer_addr()?;
        self.socket.write_all(MESSAGE)?;
        self.asked = true;
        Ok(())
    }

    fn listen(&mut self) -> io::Result<Option<End>> {
        let mut answer = [0; 1];
        let length = self.socket.read(&mut answer)?;
        Ok(Some(if length == 0 { End::Closed } else { End::Answered }))
    }
}
