//! The tunnel: mutual TLS and HBONE, in both roles.
//!
//! HBONE is one HTTP/2 CONNECT stream for each TCP connection, inside mutual TLS 1.3 on port 15008. Outbound,
//! [`Tunnel::dial`] receives a permitted route and hands on a [`TunnelStream`], over a connection from its pool or a new
//! one. Inbound, [`Tunnel::terminate`] receives an accepted TCP connection and hands on a [`Session`], which yields the
//! peer's requests. Whether a request may go on is decided elsewhere; that the peer is who it says is decided here.
#![forbid(unsafe_code)]

mod ending;
mod error;
mod flood;
#[doc(hidden)]
pub mod fuzzing;
mod headers;
mod keepalive;
mod pool;
mod rejection;
mod session;
mod settings;
mod stream;
mod tls;
mod tunnel;
mod turnstile;
mod usage;
mod window;
mod wire;

pub use ending::SessionEnd;
pub use error::{DialError, Phase, StreamError, TerminateError, TlsFailure};
pub use flood::{Flood, FrameSettings};
pub use headers::ConnectHeaders;
pub use rejection::Rejection;
pub use session::{Request, Session};
pub use settings::{Deadlines, HandshakeObserver, TunnelSettings, WindowSettings};
pub use stream::{TunnelReceiver, TunnelSender, TunnelStream};
pub use tls::TlsFacts;
pub use tunnel::{ConnectFn, Connected, Dialed, Keeper, Tunnel, TunnelLoad};
pub use turnstile::{Lane, Turnstile};
pub use usage::Usage;
pub use window::{Budget, Reservation, SEND_BUFFER};
