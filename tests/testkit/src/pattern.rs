//! Bytes of which each says where it belongs: a transfer that loses, repeats, swaps or changes any is found out, and
//! at which byte.

use std::{
    io::{self, Read, Write},
    sync::OnceLock,
};

/// A prime, so that no buffer size hides a shift.
const PERIOD: usize = 1_048_573;
const CHUNK: usize = 64 << 10;

/// Writes the first `length` bytes.
pub fn send(mut stream: impl Write, length: u64) -> io::Result<()> {
    let block = block();
    let mut sent = 0;
    while sent < length {
        let start = position(sent);
        let room = CHUNK.min(PERIOD - start);
        let room = usize::try_from(length - sent).map_or(room, |left| left.min(room));
        stream.write_all(&block[start..start + room])?;
        sent += room as u64;
    }
    Ok(())
}

/// Reads to the end and yields how many bytes came; fails at the first that is wrong.
pub fn check(mut stream: impl Read) -> io::Result<u64> {
    let block = block();
    let mut buffer = vec![0; CHUNK];
    let mut received = 0;
    loop {
        let start = position(received);
        let room = CHUNK.min(PERIOD - start);
        let length = stream.read(&mut buffer[..room])?;
        if length == 0 {
            return Ok(received);
        }
        if buffer[..length] != block[start..start + length] {
            let text = format!("within {length} bytes of offset {received} the data is not what was sent");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        received += length as u64;
    }
}

fn position(offset: u64) -> usize {
    usize::try_from(offset % PERIOD as u64).unwrap_or(0)
}

/// xorshift64: a fixed sequence without repetition at this length.
fn block() -> &'static [u8] {
    static BLOCK: OnceLock<Vec<u8>> = OnceLock::new();
    BLOCK.get_or_init(|| {
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut bytes = Vec::with_capacity(PERIOD + 8);
        while bytes.len() < PERIOD {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        bytes.truncate(PERIOD);
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_right_and_nothing_else_is() {
        let mut bytes = Vec::new();
        send(&mut bytes, 3_000_000).unwrap();
        assert_eq!(check(bytes.as_slice()).unwrap(), 3_000_000);
        let mut changed = bytes.clone();
        changed[2_000_000] ^= 1;
        assert!(check(changed.as_slice()).is_err());
        bytes.remove(1_500_000);
        assert!(check(bytes.as_slice()).is_err());
    }
}
