//! What goes wrong on the test's order.

/// How requests for a resource go wrong, so many times.
#[derive(Clone, Debug)]
pub struct Fault {
    pub(super) plural: String,
    pub(super) status: u16,
    pub(super) times: usize,
    pub(super) retry_after: Option<u32>,
}

impl Fault {
    /// The next request for this plural is answered with this status; `*` is all of them.
    pub fn status(plural: &str, status: u16) -> Self {
        Self { plural: plural.to_owned(), status, times: 1, retry_after: None }
    }

    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    /// Says after how many seconds to come back.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }
}

#[derive(Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn push(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// The first that fits, which has then happened once more.
    pub(super) fn take(&mut self, plural: &str) -> Option<Fault> {
        let fits = |fault: &Fault| fault.times > 0 && (fault.plural == plural || fault.plural == "*");
        let fault = self.0.iter_mut().find(|fault| fits(fault))?;
        fault.times -= 1;
        let happened = fault.clone();
        self.0.retain(|fault| fault.times > 0);
        Some(happened)
    }
}
