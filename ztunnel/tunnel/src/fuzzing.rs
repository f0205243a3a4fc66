//! A door for the fuzz targets, to a parser that nobody else has business with. No part of what this crate offers.

use std::sync::Arc;

use crate::{FrameSettings, flood::Watchful, window::Gauge};

/// The type of the frame that is one too many, if one is, of what a peer sends in these pieces; it has so many tokens
/// and time stands still.
pub fn flood<'a>(is_client: bool, tokens: u64, pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<u8> {
    let settings = FrameSettings::default();
    let mut watchful = match is_client {
        true => Watchful::of_client((), settings),
        false => Watchful::of_server((), Arc::new(Gauge::new(1, &Arc::default())), settings),
    };
    watchful.have(tokens);
    pieces.into_iter().find_map(|piece| watchful.flood_in(piece))
}
