//! A page that is shown again and again, by plain ANSI. Where nobody looks, each is simply written after the other.

use std::{
    io::{self, IsTerminal, Read, Write},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::termios::{self, LocalFlags, SetArg, Termios},
};

/// Home, and nothing left of the page before.
const CLEAR: &str = "\x1b[H\x1b[2J";
const CTRL_C: u8 = 3;

/// Until q or Ctrl-C.
pub(super) fn follow(
    interval: Duration,
    mut page: impl FnMut() -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let (keys, looked_at) = (Keys::take(), io::stdout().is_terminal());
    loop {
        let shown = page()?;
        let mut output = io::stdout().lock();
        if looked_at {
            // A line ends where the next begins, whatever the terminal makes of a line feed.
            write!(output, "{CLEAR}{}", shown.replace('\n', "\r\n"))?;
        } else {
            writeln!(output, "{shown}")?;
        }
        output.flush()?;
        drop(output);
        if keys.end_within(interval)? {
            return Ok(());
        }
    }
}

/// The terminal's keys, one by one and not shown. Dropping it gives the terminal back.
struct Keys(Option<Termios>);

impl Keys {
    fn take() -> Self {
        let input = io::stdin();
        let before = if input.is_terminal() { termios::tcgetattr(&input).ok() } else { None };
        if let Some(before) = &before {
            let mut single = before.clone();
            single.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG);
            // Else q needs the return key, which is no harm.
            let _ = termios::tcsetattr(&input, SetArg::TCSANOW, &single);
        }
        Self(before)
    }

    /// Whether somebody wants an end within this time; waits for as long.
    fn end_within(&self, interval: Duration) -> anyhow::Result<bool> {
        if self.0.is_none() {
            std::thread::sleep(interval);
            return Ok(false);
        }
        let until = Instant::now() + interval;
        let input = io::stdin();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let patience = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut waiting = [PollFd::new(std::os::fd::AsFd::as_fd(&input), PollFlags::POLLIN)];
            if poll(&mut waiting, patience)? == 0 {
                return Ok(false);
            }
            let mut key = [0];
            // The terminal is gone, or at its end.
            if input.lock().read(&mut key)? == 0 || matches!(key, [b'q' | b'Q' | CTRL_C]) {
                return Ok(true);
            }
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // Nobody is left to be told.
            let _ = termios::tcsetattr(io::stdin(), SetArg::TCSANOW, before);
        }
    }
}
