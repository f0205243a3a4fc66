//! For user space: these types may be read from and written to maps byte by byte.
#![expect(unsafe_code, reason = "aya::Pod is a promise about bytes")]

use aya::Pod as Bytes;

use crate::{Flow, ListenerKey, Pod};

// SAFETY: `repr(C)`, integers only, no implicit padding (asserted in the crate root): any bytes are a value.
unsafe impl Bytes for Pod {}
// SAFETY: as above.
unsafe impl Bytes for ListenerKey {}
// SAFETY: as above.
unsafe impl Bytes for Flow {}
