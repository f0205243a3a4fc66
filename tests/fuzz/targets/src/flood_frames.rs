//! The heads of a peer's frames, which are counted as they pass: how the network cuts them must not matter.

use tunnel::fuzzing::flood;

const PREFACE: usize = 24;
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
/// What is promised in the specification.
const MOST: u64 = 2000;
const FOR_REQUEST: u64 = 4;
const FOR_BYTES: u64 = 512;

/// The first byte says how many tokens there are, the second where it is cut, the third whose bytes they are.
pub fn flood_frames(data: &[u8]) {
    let [tokens, cut, whose, bytes @ ..] = data else { return };
    let (tokens, is_client) = (u64::from(*tokens), whose % 2 == 1);
    let expected = by_the_book(is_client, tokens, bytes);
    assert_eq!(flood(is_client, tokens, [bytes]), expected, "as one piece");
    assert_eq!(flood(is_client, tokens, bytes.chunks(usize::from(*cut).max(1))), expected, "cut every {cut}");
    let (one, other) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    assert_eq!(flood(is_client, tokens, [one, other]), expected, "cut once, at {cut}");
}

/// RFC 9113, section 4.1, over all that there is.
fn by_the_book(is_client: bool, mut tokens: u64, bytes: &[u8]) -> Option<u8> {
    let (mut rest, mut carried) = (bytes.get(if is_client { PREFACE } else { 0 }..)?, 0);
    while let Some((head, after)) = rest.split_at_checked(HEAD) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        match head[3] {
            HEADERS if is_client => tokens = (tokens + FOR_REQUEST).min(MOST),
            DATA if length > 0 => {
                carried += u64::from(length);
                tokens = (tokens + carried / FOR_BYTES).min(MOST);
                carried %= FOR_BYTES;
            }
            kind => match tokens.checked_sub(1) {
                Some(left) => tokens = left,
                None => return Some(kind),
            },
        }
        rest = after.get(usize::try_from(length).ok()?..)?;
    }
    None
}
