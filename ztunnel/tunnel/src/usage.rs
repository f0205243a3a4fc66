//! How much of what is limited is in use.

/// Now, and how much it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The vocabulary of metrics and logs.
    pub limit: &'static str,
    pub used: usize,
    pub allowed: usize,
}
