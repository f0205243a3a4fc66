//! What the allocator keeps of what was freed. It keeps it for the next time, which is well while there is work; at rest a
//! node's pods need it more.

use std::time::Duration;

/// Less is not worth the work.
const MUCH: usize = 1 << 20;
/// Processor time in one interval, at most, of a daemon at rest.
const REST: Duration = Duration::from_millis(150);

#[derive(Default)]
pub(crate) struct Spare {
    /// What was left when memory was last given back; nothing before the first time.
    least: Option<usize>,
    worked: Duration,
}

impl Spare {
    /// Whether it is the time, with `bytes` to spare now and `worked` of processor time in all. With what cannot be given
    /// back, as it lies between what is in use, it never is.
    pub(crate) fn is_much(&mut self, bytes: usize, worked: Duration) -> bool {
        let rests = worked.saturating_sub(self.worked) <= REST;
        self.worked = worked;
        match &mut self.least {
            None => true,
            Some(least) => {
                *least = bytes.min(*least);
                rests && bytes - *least >= MUCH
            }
        }
    }

    pub(crate) fn was_given_back(&mut self, left: usize) {
        self.least = Some(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Else the daemon would keep what starting took, or what the last burst did.
    #[test]
    fn it_is_much_after_the_start_and_at_rest_after_work() {
        let mut spare = Spare::default();
        assert!(spare.is_much(0, SECOND));
        spare.was_given_back(3 * MUCH);
        assert!(!spare.is_much(5 * MUCH, 2 * SECOND), "it works");
        assert!(spare.is_much(5 * MUCH, 2 * SECOND), "it rests");
    }

    /// Else it would be tried in vain every few seconds, for ever.
    #[test]
    fn what_cannot_be_given_back_is_not_tried_again() {
        let mut spare = Spare::default();
        assert!(spare.is_much(9 * MUCH, SECOND));
        spare.was_given_back(9 * MUCH);
        assert!((0..10).all(|_| !spare.is_much(9 * MUCH, SECOND)));
        assert!(!spare.is_much(MUCH, SECOND), "it was put to use");
        assert!(spare.is_much(2 * MUCH, SECOND), "and freed");
    }
}
