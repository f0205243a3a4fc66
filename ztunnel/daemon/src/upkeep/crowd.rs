//! When a crowd of connections has gone, and the memory it leaves behind should go as well: the allocator would keep
//! it for the next crowd, on a node whose pods need it more.

/// What fewer at once leave behind is not worth the work.
const CROWD: usize = 256;
/// And so is what fewer leave that came one after the other.
const THRONG: u64 = 2000;
/// As few in one interval are quiet.
const QUIET: u64 = 20;

#[derive(Default)]
pub(crate) struct Crowd {
    /// The most connections at once, since memory was last given back.
    most: usize,
    /// How many there had been by then, and by the last question.
    opened: u64,
    lately: u64,
}

impl Crowd {
    /// Whether it is the time, with `open` connections now, at most `crest` at once since the last question and `opened`
    /// in all. With a steady number of connections it never is, however they come and go.
    pub(crate) fn has_gone(&mut self, open: usize, crest: usize, opened: u64) -> bool {
        self.most = self.most.max(crest);
        let quiet = opened - self.lately <= QUIET;
        self.lately = opened;
        let left = self.most >= CROWD && open < self.most / 2;
        let gone = left || (quiet && opened - self.opened >= THRONG);
        if gone {
            self.most = open;
            self.opened = opened;
        }
        gone
    }
}

/// Fewer resources of a control plane at once leave nothing behind that is worth the work.
const PUSH: u64 = 1000;

/// When a large push has passed, and the memory that it took to receive it should go.
#[derive(Default)]
pub(crate) struct Push {
    /// How many resources had come when memory was last given back, and by the last question.
    given_back: u64,
    lately: u64,
}

impl Push {
    /// Whether it is the time, with so many resources that have come in all.
    pub(crate) fn has_passed(&mut self, came: u64) -> bool {
        let quiet = came - self.lately < PUSH / 10;
        self.lately = came;
        let passed = quiet && came - self.given_back >= PUSH;
        if passed {
            self.given_back = came;
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else the daemon would keep the memory of its busiest hour for ever.
    #[test]
    fn a_crowd_that_leaves_is_noticed_once() {
        let mut crowd = Crowd::default();
        assert!(!crowd.has_gone(2000, 2000, 2000));
        assert!(crowd.has_gone(10, 2000, 2000));
        assert!(!crowd.has_gone(10, 12, 2002));
        assert!(crowd.has_gone(0, 300, 2302), "it came and went between two questions");
    }

    /// Few at once, but many in all, leave as much behind.
    #[test]
    fn a_throng_that_has_passed_is_noticed_once() {
        let mut crowd = Crowd::default();
        assert!(!crowd.has_gone(30, 32, 5000));
        assert!(!crowd.has_gone(0, 32, 10_000), "it has just ended");
        assert!(crowd.has_gone(0, 1, 10_001));
        assert!(!crowd.has_gone(0, 1, 10_002));
    }

    /// Else what a whole mesh took to receive, as much again as the mesh, would be kept for ever.
    #[test]
    fn a_push_that_has_passed_is_noticed_once() {
        let mut push = Push::default();
        let came = [100, 10_000, 20_000, 20_010, 20_010, 20_900, 21_500, 21_510];
        let noticed = came.map(|came| push.has_passed(came));
        assert_eq!(noticed, [false, false, false, true, false, false, false, true]);
    }

    /// Else the work would be done every few seconds, for nothing.
    #[test]
    fn neither_few_nor_steady_many_are_a_crowd_that_leaves() {
        let mut crowd = Crowd::default();
        assert!(!crowd.has_gone(0, CROWD - 1, 255));
        for round in 1..100 {
            assert!(!crowd.has_gone(5000, 9000, 10_000 * round));
        }
    }
}
