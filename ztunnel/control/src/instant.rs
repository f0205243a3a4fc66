//! The wall clock, handed in so that tests can turn it, and its spelling for people.

use std::{sync::Arc, time::SystemTime};

use serde::Serializer;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// What time it is. Certificates live by the wall clock, not by uptime.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

pub fn system_clock() -> Clock {
    Arc::new(SystemTime::now)
}

/// Serializes as RFC 3339, such as `2026-11-22T10:00:00Z`.
pub(crate) fn rfc3339<S: Serializer>(instant: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let whole_seconds = OffsetDateTime::from(*instant).replace_nanosecond(0);
    let text = whole_seconds.ok().and_then(|instant| instant.format(&Rfc3339).ok());
    serializer.serialize_str(text.as_deref().unwrap_or("unknown"))
}

pub(crate) fn rfc3339_option<S: Serializer>(
    instant: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match instant {
        Some(instant) => rfc3339(instant, serializer),
        None => serializer.serialize_none(),
    }
}
