//! The arithmetic of windows, against a connection that only notes what it is told.

use proptest::{prelude::*, sample::select};

use super::*;

const INITIAL: u32 = 64 << 10;
const MAX: u32 = 1 << 20;
const STREAMS: u32 = 200;

#[derive(Default)]
struct Fake {
    connection: Option<u32>,
    stream: Option<u32>,
    /// SETTINGS were sent and not acknowledged.
    waiting: bool,
}

impl Windowed for Fake {
    fn set_connection_window(&mut self, bytes: u32) {
        self.connection = Some(bytes);
    }

    fn set_stream_window(&mut self, bytes: u32) -> bool {
        if !self.waiting {
            self.stream = Some(bytes);
            self.waiting = true;
            return true;
        }
        false
    }
}

fn windows(budget: &Budget) -> Windows {
    let settings = WindowSettings { initial: INITIAL, max: MAX, growth_budget: 0, total: 0 };
    Windows::new(settings, STREAMS, Arc::new(Gauge::new(INITIAL, &Arc::default())), budget)
}

/// A reader that takes twice its window without ever being behind.
fn read_fast(gauge: &Gauge, window: u32) {
    let mut meter = Meter::new();
    meter.waits();
    meter.drained(gauge, to_usize(window) * 2);
}

#[tokio::test]
async fn a_fast_reader_doubles_the_window_up_to_the_most() {
    let budget = Budget::new(to_usize(MAX), to_usize(MAX));
    let (mut windows, mut connection) = (windows(&budget), Fake::default());
    let mut expected = INITIAL;
    for _ in 0..10 {
        read_fast(windows.gauge(), expected);
        windows.tune(&mut connection);
        connection.waiting = false;
        expected = (expected * 2).min(MAX);
        assert_eq!(connection.stream, Some(expected));
        assert_eq!(connection.connection, Some(INITIAL * STREAMS + expected - INITIAL));
    }
    assert_eq!(budget.left(), to_usize(INITIAL));
}

#[tokio::test]
async fn a_reader_that_is_behind_grows_nothing() {
    let budget = Budget::new(to_usize(MAX), to_usize(MAX));
    let (mut windows, mut connection) = (windows(&budget), Fake::default());
    Meter::new().drained(windows.gauge(), to_usize(INITIAL) * 2);
    windows.tune(&mut connection);
    assert_eq!(connection.stream, None);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_grows_nothing() {
    let budget = Budget::new(to_usize(MAX), to_usize(MAX));
    let (mut windows, mut connection) = (windows(&budget), Fake::default());
    let mut meter = Meter::new();
    for _ in 0..100 {
        meter.waits();
        meter.drained(windows.gauge(), to_usize(INITIAL) / 2);
        tokio::time::advance(std::time::Duration::from_millis(300)).await;
    }
    windows.tune(&mut connection);
    assert_eq!(connection.stream, None);
}

/// Growth is for all streams of the connection, so it is paid for all.
#[tokio::test]
async fn the_share_covers_every_open_stream() {
    let budget = Budget::new(to_usize(INITIAL) * 3, to_usize(INITIAL) * 3);
    let (mut windows, mut connection) = (windows(&budget), Fake::default());
    let slots: Vec<Slot> = (0..3).filter_map(|_| windows.gauge().slot(STREAMS)).collect();
    read_fast(windows.gauge(), INITIAL);
    windows.tune(&mut connection);
    connection.waiting = false;
    assert_eq!((connection.stream, budget.left()), (Some(2 * INITIAL), 0));
    // A fourth stream cannot be paid for: all windows shrink to what is affordable.
    let _fourth = windows.gauge().slot(STREAMS).unwrap();
    windows.tune(&mut connection);
    assert_eq!(connection.stream, Some(INITIAL + INITIAL * 3 / 4));
    drop(slots);
}

#[tokio::test]
async fn without_budget_nothing_grows() {
    let budget = Budget::new(to_usize(INITIAL) - 1, to_usize(INITIAL) - 1);
    let (mut windows, mut connection) = (windows(&budget), Fake::default());
    read_fast(windows.gauge(), INITIAL);
    windows.tune(&mut connection);
    assert_eq!((connection.stream, connection.connection), (None, None));
    assert_eq!(budget.left(), to_usize(INITIAL) - 1);
}

/// A peer may use the larger window until it acknowledges the smaller, so until then the bytes are not free.
#[tokio::test]
async fn a_share_goes_back_only_when_the_peer_has_acknowledged() {
    let budget = Budget::new(to_usize(INITIAL), to_usize(INITIAL));
    let (mut windows, mut connection) = (windows(&budget), Fake::default());
    read_fast(windows.gauge(), INITIAL);
    windows.tune(&mut connection);
    connection.waiting = false;
    windows.tick(&mut connection);
    assert_eq!(connection.stream, Some(2 * INITIAL), "it was busy until now");
    windows.tick(&mut connection);
    assert_eq!((connection.stream, budget.left()), (Some(INITIAL), 0));
    windows.tick(&mut connection);
    assert_eq!(budget.left(), 0, "not acknowledged");
    connection.waiting = false;
    windows.tick(&mut connection);
    assert_eq!((connection.connection, budget.left()), (Some(INITIAL * STREAMS), to_usize(INITIAL)));
}

/// The connection's window cannot be taken back, only used up: until then it counts against the next growth.
#[tokio::test]
async fn what_the_connection_still_grants_is_paid_for_again() {
    let budget = Budget::new(to_usize(MAX), to_usize(MAX));
    let (mut windows, mut connection) = (windows(&budget), Fake::default());
    for window in [INITIAL, 2 * INITIAL, 4 * INITIAL] {
        read_fast(windows.gauge(), window);
        windows.tune(&mut connection);
        connection.waiting = false;
    }
    for _ in 0..3 {
        windows.tick(&mut connection);
        connection.waiting = false;
    }
    assert_eq!(budget.left(), to_usize(MAX));
    let mut meter = Meter::new();
    meter.waits();
    meter.drained(windows.gauge(), to_usize(INITIAL) * 2);
    windows.tune(&mut connection);
    // Seven more than at the start were granted, two of them are used up.
    assert_eq!(budget.left(), to_usize(MAX) - 5 * to_usize(INITIAL));
}

#[tokio::test]
async fn a_connection_that_ends_gives_its_share_back() {
    let budget = Budget::new(to_usize(MAX), to_usize(MAX));
    let (mut windows, mut connection) = (windows(&budget), Fake::default());
    read_fast(windows.gauge(), INITIAL);
    windows.tune(&mut connection);
    assert!(budget.left() < to_usize(MAX));
    drop(windows);
    assert_eq!(budget.left(), to_usize(MAX));
}

#[test]
fn slots_are_limited_and_given_back() {
    let gauge = Arc::new(Gauge::new(INITIAL, &Arc::default()));
    let one = gauge.slot(1).unwrap();
    assert!(gauge.slot(1).is_none());
    drop(one);
    assert!(gauge.slot(1).is_some());
    assert_eq!((gauge.streams(), gauge.opened()), (0, 2));
}

/// The other end, as bad as HTTP/2 lets it be: what it was granted it may use until it is used up, and it hears of a
/// smaller stream window only when it likes to.
#[derive(Default)]
struct Peer {
    stream: u32,
    told: Option<u32>,
    connection: u32,
    target: u32,
}

impl Windowed for Peer {
    fn set_connection_window(&mut self, bytes: u32) {
        self.target = bytes;
        self.connection = self.connection.max(bytes);
    }

    fn set_stream_window(&mut self, bytes: u32) -> bool {
        let free = self.told.is_none();
        if free {
            self.told = Some(bytes);
            self.stream = self.stream.max(bytes);
        }
        free
    }
}

impl Peer {
    fn acknowledges(&mut self) {
        self.stream = self.told.take().unwrap_or(self.stream);
    }

    /// Sends `bytes`, which are read and given back.
    fn uses(&mut self, bytes: u32) {
        self.connection = self.target.max(self.connection.saturating_sub(bytes));
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    FastRead,
    SlowRead,
    Open,
    Close,
    Ping,
    Acknowledge,
    OthersTake,
    OthersReturn,
}

const EVENTS: [Event; 8] = [
    Event::FastRead,
    Event::SlowRead,
    Event::Open,
    Event::Close,
    Event::Ping,
    Event::Acknowledge,
    Event::OthersTake,
    Event::OthersReturn,
];

proptest! {
    /// The promise of this module: whatever happens, a connection may hold its base and its share at most.
    #[test]
    fn no_peer_is_granted_more_than_is_paid_for(events in prop::collection::vec(select(&EVENTS), 0..300)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let total = to_usize(MAX) * 3;
        let budget = Budget::new(total, total);
        let mut windows = windows(&budget);
        let mut others = budget.reservation();
        let base = INITIAL * STREAMS;
        let mut peer = Peer { stream: INITIAL, told: None, connection: base, target: base };
        let mut slots = Vec::new();
        for event in events {
            match event {
                Event::FastRead => {
                    read_fast(windows.gauge(), windows.window);
                    peer.uses(windows.window * 2);
                }
                Event::SlowRead => {
                    Meter::new().drained(windows.gauge(), to_usize(INITIAL) / 8);
                    peer.uses(INITIAL / 8);
                }
                Event::Open => slots.extend(windows.gauge().slot(STREAMS)),
                Event::Close => drop(slots.pop()),
                Event::Ping => windows.tick(&mut peer),
                Event::Acknowledge => peer.acknowledges(),
                Event::OthersTake => {
                    others.grow_to(others.bytes() + to_usize(MAX) / 2);
                }
                Event::OthersReturn => others.release(),
            }
            windows.tune(&mut peer);
            let share = windows.share.bytes();
            prop_assert_eq!(budget.left() + share + others.bytes(), total, "bytes were lost or made");
            prop_assert!(windows.window <= MAX && windows.window >= INITIAL);
            if peer.stream > INITIAL {
                prop_assert!(to_usize(peer.connection) <= to_usize(base) + share, "granted for nothing");
            }
        }
    }
}
