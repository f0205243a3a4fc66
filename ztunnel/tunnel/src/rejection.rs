//! Requests of a proven peer that are answered before anybody else hears of them.

/// Why a request is not handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Another method, or not as RFC 9113, section 8.5, has it.
    NotAConnect,
    /// The peer has as many streams as it may, those included that it has reset and that are still worked on.
    Streams,
    /// What streams hold takes all the memory that it may.
    Windows,
    /// The peer's certificate has expired since the handshake.
    Expired,
}

/// How many of each.
#[derive(Debug, Default)]
pub(crate) struct Rejections([u64; Rejection::ALL.len()]);

impl Rejection {
    const ALL: [Self; 4] = [Self::NotAConnect, Self::Streams, Self::Windows, Self::Expired];

    pub fn reason(self) -> &'static str {
        match self {
            Self::NotAConnect => "not_a_connect",
            Self::Streams => "streams_per_inbound_tunnel",
            Self::Windows => "window_budget",
            Self::Expired => "expired_certificate",
        }
    }
}

impl Rejections {
    pub(crate) fn count(&mut self, rejection: Rejection) {
        let of = Rejection::ALL.iter().zip(&mut self.0).find(|(other, _)| **other == rejection);
        if let Some((_, count)) = of {
            *count += 1;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Rejection, u64)> {
        Rejection::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotAConnect => "requests that are no proper CONNECT",
            Self::Streams => "more streams than a tunnel may have",
            Self::Windows => "open streams take all the memory they may",
            Self::Expired => "requests after the certificate's end",
        })
    }
}
