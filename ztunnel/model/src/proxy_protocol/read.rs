//! The reader's half. Whatever bytes come, it reads no further than the header says, and takes nothing for an address
//! that is not one.

use std::net::{IpAddr, SocketAddr};

use super::{IDENTITY, PROXY, SIGNATURE, TCP4, TCP6};

/// Version 2, by the proxy itself: a health check, say.
pub(super) const LOCAL: u8 = 0x20;

/// Signature, version and command, family, length.
const FIXED: usize = 16;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Client and destination; `None` where the proxy speaks for nobody, or of no TCP connection.
    pub(super) ends: Option<(SocketAddr, SocketAddr)>,
    pub(super) peer: Option<String>,
    /// Bytes of it: what the client sent comes after.
    pub(super) length: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    #[error("it does not begin as the PROXY protocol, version 2, does")]
    Signature,
    #[error("version and command {0:#04x} are not known")]
    Command(u8),
    #[error("its addresses are cut off")]
    Addresses,
    #[error("a value of it is cut off")]
    Value,
    #[error("its identity is no text")]
    Identity,
}

/// `None`: so far it is one, and there is more to come.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Told>, Invalid> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        return Err(Invalid::Signature);
    }
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED) else { return Ok(None) };
    let (command, family) = (fixed[12], fixed[13]);
    if ![PROXY, LOCAL].contains(&command) {
        return Err(Invalid::Command(command));
    }
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let Some(mut body) = rest.get(..length) else { return Ok(None) };
    let mut told = Told { ends: None, peer: None, length: FIXED + length };
    if command == PROXY {
        told.ends = ends(family, &mut body)?;
        told.peer = if told.ends.is_some() { identity(body)? } else { None };
    }
    Ok(Some(told))
}

/// Leaves of `body` what comes after them.
fn ends(family: u8, body: &mut &[u8]) -> Result<Option<(SocketAddr, SocketAddr)>, Invalid> {
    let ips = match family {
        TCP4 => [take::<4>(body)?, take::<4>(body)?].map(IpAddr::from),
        TCP6 => [take::<16>(body)?, take::<16>(body)?].map(IpAddr::from),
        _ => return Ok(None),
    };
    let [client, destination] = [take::<2>(body)?, take::<2>(body)?].map(u16::from_be_bytes);
    let [from, to] = ips.map(|ip| ip.to_canonical());
    Ok(Some((SocketAddr::new(from, client), SocketAddr::new(to, destination))))
}

fn take<const N: usize>(body: &mut &[u8]) -> Result<[u8; N], Invalid> {
    let (taken, rest) = body.split_first_chunk().ok_or(Invalid::Addresses)?;
    *body = rest;
    Ok(*taken)
}

/// The first; values of other types are passed over.
fn identity(mut values: &[u8]) -> Result<Option<String>, Invalid> {
    let mut found = None;
    while let Some(([kind, high, low], rest)) = values.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, rest) = rest.split_at_checked(length).ok_or(Invalid::Value)?;
        values = rest;
        if *kind == IDENTITY && found.is_none() {
            let text = std::str::from_utf8(value).map_err(|_| Invalid::Identity)?;
            found = Some(text.to_owned());
        }
    }
    if values.is_empty() { Ok(found) } else { Err(Invalid::Value) }
}
