//! A door for the fuzz targets, to a parser that nobody else has business with. No part of what this crate offers.

use crate::{
    query::{Query, Transport},
    upstream::Request,
};

/// What the pod gets of a message that came as another server's answer; `None`: it is no answer to its request.
pub fn relayed(query: &Query<'_>, transport: Transport, message: Vec<u8>) -> Option<Vec<u8>> {
    let request = Request::new(query, transport);
    request.is_answered_by(query.bytes(), &message).then(|| request.relayed(message))
}
