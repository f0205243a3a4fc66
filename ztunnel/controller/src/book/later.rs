//! What is told a moment later than the rest of a change: policies that selected workloads name, when they go, or when they
//! become for selected workloads only.
//!
//! Policies are told before workloads, so that no workload names one that is not there yet. The other way round it has to be
//! the other way round: a name without a policy refuses everybody, and a policy that nobody names yet is about nobody.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{Book, Kind, Resource, Update};

/// For daemons to hear of the workloads.
const DELAY: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct Later {
    /// Policies by name; one without a resource is gone.
    waiting: BTreeMap<String, Option<Resource>>,
    due: Option<Instant>,
}

impl Later {
    /// Yields what is to be told now, and keeps the rest. What is newer takes the place of what waits.
    pub(crate) fn sift(&mut self, update: Update, book: &Book) -> Update {
        let mut now = Update::default();
        for (kind, resource) in update.present {
            if kind == Kind::Authorization {
                self.waiting.remove(&*resource.name);
                if stands(book, &resource.name) == Some(false) && resource.is_selected {
                    self.waiting.insert(resource.name.to_string(), Some(resource));
                    continue;
                }
            }
            now.present.push((kind, resource));
        }
        for (kind, name) in update.removed {
            if kind == Kind::Authorization {
                self.waiting.remove(&name);
                if stands(book, &name) == Some(true) {
                    self.waiting.insert(name, None);
                    continue;
                }
            }
            now.removed.push((kind, name));
        }
        if self.waiting.is_empty() {
            self.due = None;
        } else if self.due.is_none() {
            self.due = Some(Instant::now() + DELAY);
        }
        now
    }

    /// Never, if nothing waits.
    pub(crate) async fn is_due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    pub(crate) fn take(&mut self) -> Update {
        self.due = None;
        let mut update = Update::default();
        for (name, resource) in std::mem::take(&mut self.waiting) {
            match resource {
                Some(resource) => update.present.push((Kind::Authorization, resource)),
                None => update.removed.push((Kind::Authorization, name)),
            }
        }
        update
    }
}

/// Whether a policy that daemons know is for selected workloads.
fn stands(book: &Book, name: &str) -> Option<bool> {
    book.named(Kind::Authorization, name).first().map(|resource| resource.is_selected)
}

#[cfg(test)]
mod tests {
    use proto::security::{Authorization, Scope};

    use super::*;

    fn policy(scope: Scope) -> Update {
        let policy = Authorization { name: "p".into(), scope: scope.into(), ..Authorization::default() };
        Update { present: vec![(Kind::Authorization, Resource::authorization(&policy))], removed: vec![] }
    }

    fn gone() -> Update {
        Update { present: vec![], removed: vec![(Kind::Authorization, "/p".into())] }
    }

    fn size(update: &Update) -> usize {
        update.present.len() + update.removed.len()
    }

    /// Fails if a policy went, or narrowed, before the workloads that name it were told; or if one that is new, wider or for
    /// all had to wait; or if what waits came back over what is newer.
    #[tokio::test(start_paused = true)]
    async fn what_is_named_goes_last() {
        let (book, mut later) = (Book::default(), Later::default());
        for scope in [Scope::Namespace, Scope::WorkloadSelector] {
            let now = later.sift(policy(scope), &book);
            let is_narrower = scope == Scope::WorkloadSelector;
            assert_eq!(size(&now), usize::from(!is_narrower), "{scope:?}");
            book.publish(now);
        }
        later.is_due().await;
        book.publish(later.take());
        assert_eq!(stands(&book, "/p"), Some(true));
        assert_eq!(size(&later.sift(gone(), &book)), 0);
        assert_eq!(size(&later.sift(policy(Scope::Namespace), &book)), 1, "it is there again, and wider");
        assert_eq!(size(&later.take()), 0);
        book.publish(policy(Scope::Namespace));
        assert_eq!(size(&later.sift(gone(), &book)), 1, "nobody names it");
    }
}
