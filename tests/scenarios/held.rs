//! Connections that stay open over what happens to a daemon or a pod.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use testkit::{Place, client::Dial};

const PATIENCE: Duration = Duration::from_secs(30);

/// A client's connection to an echo server.
pub(crate) struct Held(TcpStream);

impl Held {
    #[track_caller]
    pub(crate) fn open(from: &Place, target: SocketAddr) -> Self {
        Self::connect(from, target).expect("a connection to hold open")
    }

    fn connect(from: &Place, target: SocketAddr) -> io::Result<Self> {
        let mut held = from.run(move || Dial::to(target).connect().map(Self))?;
        held.says(b"first words")?;
        Ok(held)
    }

    /// Whether what is said comes back.
    pub(crate) fn says(&mut self, words: &[u8]) -> io::Result<()> {
        self.0.write_all(words)?;
        let mut answer = vec![0; words.len()];
        self.0.read_exact(&mut answer)?;
        if answer == words { Ok(()) } else { Err(io::Error::other("the echo is not what was said")) }
    }

    #[track_caller]
    pub(crate) fn still_works(&mut self, words: &[u8]) {
        let said = self.says(words);
        assert!(said.is_ok(), "an open connection, {:?}, does not go on: {said:?}", self.ends());
    }

    /// Waits for the end that the other side makes, and says which it was; `None` is a graceful one.
    pub(crate) fn ended(&mut self) -> Option<io::ErrorKind> {
        // How soon is not what is asked, and machines that test are busy.
        self.0.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        loop {
            match self.0.read(&mut [0; 1]) {
                // With a timeout set, a system call is not restarted after the machine was suspended.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.err().map(|error| error.kind()),
            }
        }
    }

    /// The client's address and the server's.
    pub(crate) fn ends(&self) -> (SocketAddr, SocketAddr) {
        let ends = self.0.local_addr().and_then(|local| Ok((local, self.0.peer_addr()?)));
        ends.expect("an open socket has names")
    }
}
