//! Headers of the PROXY protocol, as an application reads them.

use model::proxy_protocol::{Header, Told, read};

/// What is read stays within its bounds, is the same whatever follows, and is written as it was read.
pub fn proxy_protocol(data: &[u8]) {
    let Ok(Some(told)) = read(data) else { return };
    assert!((16..=data.len()).contains(&told.length), "{told:?} of {} bytes", data.len());
    assert_eq!(read(&data[..told.length]), Ok(Some(told.clone())), "what follows changes it");
    assert_eq!(read(&data[..told.length - 1]), Ok(None), "a part is taken for the whole");
    let Some((client, destination)) = told.ends else {
        assert_eq!(told.peer, None, "an identity of nobody");
        return;
    };
    let peer = told.peer.and_then(|peer| peer.parse().ok());
    let written = Header { client, destination, peer: peer.clone() }.write();
    let peer = peer.map(|peer| peer.to_string());
    let again = Told { ends: Some((client, destination)), peer, length: written.len() };
    assert_eq!(read(&written), Ok(Some(again)));
}
