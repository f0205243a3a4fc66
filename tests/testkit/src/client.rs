//! Clients for tests, the ordinary and the unusual. Call them inside a place: `pod.run(move || Dial::to(x).connect())`.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(5);

/// How to connect.
#[derive(Clone, Debug)]
pub struct Dial {
    target: SocketAddr,
    from: Option<SocketAddr>,
    device: Option<String>,
    mark: Option<u32>,
    transparent: bool,
    protocol: Protocol,
    patience: Duration,
}

impl Dial {
    pub fn to(target: SocketAddr) -> Self {
        Self {
            target,
            from: None,
            device: None,
            mark: None,
            transparent: false,
            protocol: Protocol::TCP,
            patience: PATIENCE,
        }
    }

    /// From an AF_INET6 socket, to `::ffff:a.b.c.d` if the target is IPv4.
    pub fn mapped(mut self) -> Self {
        if let IpAddr::V4(ip) = self.target.ip() {
            self.target.set_ip(ip.to_ipv6_mapped().into());
        }
        self
    }

    /// Bound to this address before connecting.
    pub fn from(mut self, source: SocketAddr) -> Self {
        self.from = Some(source);
        self
    }

    /// Bound to this interface before connecting.
    pub fn device(mut self, interface: &str) -> Self {
        self.device = Some(interface.to_owned());
        self
    }

    /// With this SO_MARK before connecting.
    pub fn mark(mut self, mark: u32) -> Self {
        self.mark = Some(mark);
        self
    }

    /// Able to bind addresses that are not the pod's.
    pub fn transparent(mut self) -> Self {
        self.transparent = true;
        self
    }

    pub fn mptcp(mut self) -> Self {
        self.protocol = Protocol::MPTCP;
        self
    }

    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    pub fn connect(&self) -> io::Result<TcpStream> {
        let socket = self.socket()?;
        socket.connect_timeout(&self.target.into(), self.patience)?;
        self.stream(socket)
    }

    /// Begins to connect and does not wait: the socket is in SYN_SENT, or refused already.
    pub fn begin(&self) -> io::Result<Socket> {
        let socket = self.socket()?;
        socket.set_nonblocking(true)?;
        match socket.connect(&self.target.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(socket),
        }
    }

    /// TCP Fast Open: connects with `sendto` and data, without a call of `connect`.
    pub fn connect_with_data(&self, data: &[u8]) -> io::Result<TcpStream> {
        let socket = self.socket()?;
        let target = SockAddr::from(self.target);
        let sent = send_fast_open(&socket, data, &target)?;
        let stream = self.stream(socket)?;
        (&stream).write_all(&data[sent..])?;
        Ok(stream)
    }

    /// Connects, says `message` and reads as many bytes back: what an echo server answers.
    pub fn exchange(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = self.connect()?;
        stream.write_all(message)?;
        let mut answer = vec![0; message.len()];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    /// Connects and reads to the end.
    pub fn read_all(&self) -> io::Result<Vec<u8>> {
        let mut answer = Vec::new();
        self.connect()?.read_to_end(&mut answer)?;
        Ok(answer)
    }

    /// The socket as it is before it connects.
    pub fn unconnected(&self) -> io::Result<Socket> {
        self.socket()
    }

    fn socket(&self) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.target), Type::STREAM, Some(self.protocol))?;
        if let Some(device) = &self.device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        if self.transparent {
            set_transparent(&socket, self.target.ip())?;
        }
        if let Some(source) = self.from {
            socket.bind(&source.into())?;
        }
        Ok(socket)
    }

    fn stream(&self, socket: Socket) -> io::Result<TcpStream> {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(self.patience))?;
        socket.set_write_timeout(Some(self.patience))?;
        Ok(socket.into())
    }
}

/// Closes with a RST instead of a FIN.
pub fn reset(stream: TcpStream) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// Undoes connect(), by connecting to AF_UNSPEC: the socket can be used again.
pub fn disconnect(stream: &TcpStream) -> io::Result<()> {
    let nowhere = libc::sockaddr { sa_family: 0, sa_data: [0; 14] };
    #[expect(clippy::cast_possible_truncation, reason = "sixteen bytes")]
    const LENGTH: libc::socklen_t = size_of::<libc::sockaddr>() as libc::socklen_t;
    #[expect(unsafe_code, reason = "libraries know no address without a family")]
    // SAFETY: the kernel reads `LENGTH` bytes of `nowhere`, which outlives the call.
    let result = unsafe { libc::connect(stream.as_raw_fd(), &raw const nowhere, LENGTH) };
    Errno::result(result)?;
    Ok(())
}

fn set_transparent(socket: &Socket, family: IpAddr) -> io::Result<()> {
    match family {
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true),
        IpAddr::V6(_) => set_option(socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1),
    }
}

/// setsockopt(2) with a number, for what an attacker sets and libraries do not offer.
pub fn set_option(socket: &impl AsRawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    set_option_bytes(socket, level, name, &value.to_ne_bytes())
}

/// setsockopt(2) with whatever the option takes.
pub fn set_option_bytes(socket: &impl AsRawFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "neither socket2 nor nix knows every option")]
    // SAFETY: the kernel reads `length` bytes of `value`, which outlives the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    Errno::result(result)?;
    Ok(())
}

fn send_fast_open(socket: &Socket, data: &[u8], target: &SockAddr) -> io::Result<usize> {
    #[expect(unsafe_code, reason = "socket2 offers no flags with send_to")]
    // SAFETY: the pointers and lengths are those of `data` and `target`, which outlive the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            data.as_ptr().cast(),
            data.len(),
            libc::MSG_FASTOPEN,
            target.as_ptr().cast(),
            target.len(),
        )
    };
    let sent = Errno::result(sent)?;
    usize::try_from(sent).map_err(io::Error::other)
}

/// Takes root's powers from the calling thread, and from it alone, for good. Call it inside `Place::run`.
pub fn become_an_ordinary_user() -> io::Result<()> {
    const NOBODY: libc::c_long = 65_534;
    for call in [libc::SYS_setresgid, libc::SYS_setresuid] {
        #[expect(unsafe_code, reason = "the library's functions change every thread of the process")]
        // SAFETY: both calls take three numbers and touch no memory of ours.
        let result = unsafe { libc::syscall(call, NOBODY, NOBODY, NOBODY) };
        Errno::result(result)?;
    }
    Ok(())
}
