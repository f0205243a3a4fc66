//! When a crowd of connections has gone, and the memory it leaves behind should go as well: the allocator would keep
//! it for the next crowd, on a node whose pods need it more.

/// What fewer leave behind is not worth the work.
const CROWD: usize = 256;

#[derive(Default)]
pub(crate) struct Crowd {
    /// The most connections at once, since memory was last given back.
    most: usize,
}

impl Crowd {
    /// Whether it is the time, with `open` connections now and at most `crest` at once since the last question. With a
    /// steady number of connections it never is, however they come and go.
    pub(crate) fn has_gone(&mut self, open: usize, crest: usize) -> bool {
        self.most = self.most.max(crest);
        let gone = self.most >= CROWD && open < self.most / 2;
        if gone {
            self.most = open;
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else the daemon would keep the memory of its busiest hour for ever.
    #[test]
    fn a_crowd_that_leaves_is_noticed_once() {
        let mut crowd = Crowd::default();
        assert!(!crowd.has_gone(2000, 2000));
        assert!(crowd.has_gone(10, 2000));
        assert!(!crowd.has_gone(10, 12));
        assert!(crowd.has_gone(0, 300), "it came and went between two questions");
    }

    /// Else the work would be done every few seconds, for nothing.
    #[test]
    fn neither_few_nor_steady_many_are_a_crowd_that_leaves() {
        let mut crowd = Crowd::default();
        assert!(!crowd.has_gone(0, CROWD - 1));
        for _ in 0..100 {
            assert!(!crowd.has_gone(5000, 9000));
        }
    }
}
