//! The trace that a connection belongs to, as `traceparent` carries it from node to node (W3C Trace Context).

use std::{fmt, num::NonZeroU128};

use serde::{Serialize, Serializer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(NonZeroU128);

impl TraceId {
    /// Of any random number.
    pub fn new(random: u128) -> Self {
        // All zeros would mean "none".
        Self(NonZeroU128::new(random).unwrap_or(NonZeroU128::MIN))
    }

    /// That of a `traceparent`; `None` if it is malformed (section 3.2 of the recommendation). A later version may have
    /// more fields behind those of version 00.
    pub fn of(traceparent: &str) -> Option<Self> {
        let mut fields = traceparent.splitn(5, '-');
        let version = hex(fields.next()?, 2)?;
        let trace = hex(fields.next()?, 32)?;
        let span = hex(fields.next()?, 16)?;
        hex(fields.next()?, 2)?;
        let ends_well = version != 0 || fields.next().is_none();
        if version == 0xff || span == 0 || !ends_well {
            return None;
        }
        NonZeroU128::new(trace).map(Self)
    }

    /// Random bits of it. A generator may have set some of the others to a time (section 3.2.2.3).
    pub(crate) fn dice(self) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.0.get().to_be_bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Lower case only, says the recommendation.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let well_formed = text.len() == digits && text.bytes().all(is_digit);
    well_formed.then(|| u128::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn the_trace_of_a_proper_header_is_taken_and_written_alike() {
        for header in [
            format!("00-{TRACE}-{SPAN}-00"),
            format!("00-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-00-what-comes"),
        ] {
            assert_eq!(
                TraceId::of(&header).map(|trace| trace.to_string()).as_deref(),
                Some(TRACE),
                "{header}"
            );
        }
    }

    /// What a peer sends stands in our log: nothing but 32 hexadecimal digits may come of it.
    #[test]
    fn malformed_headers_have_no_trace() {
        let zeros = "0".repeat(32);
        for header in [
            String::new(),
            "-".repeat(55),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-00-more"),
            format!("ff-{TRACE}-{SPAN}-00"),
            format!("00-{zeros}-{SPAN}-00"),
            format!("00-{TRACE}-0000000000000000-00"),
            format!("00-{}-{SPAN}-00", TRACE.to_uppercase()),
            format!("00-+{}-{SPAN}-00", &TRACE[1..]),
            format!("00-{}-{SPAN}-00", &TRACE[1..]),
            format!(" 00-{TRACE}-{SPAN}-00"),
        ] {
            assert_eq!(TraceId::of(&header), None, "{header}");
        }
    }

    #[test]
    fn a_new_trace_is_never_the_invalid_one() {
        assert_eq!(TraceId::new(0).to_string(), format!("{:032x}", 1));
    }
}
