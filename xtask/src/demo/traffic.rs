//! An ordinary server and an ordinary client, neither of which knows of a mesh.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use testkit::{
    Mesh, Process,
    capture::{Capture, Keep, Recording},
    eventually,
};

const PORT: u16 = 8080;
const PAGE: &str = "page.txt";

/// busybox httpd in the pod `server`.
pub(crate) struct Server {
    _process: Process,
    log: std::path::PathBuf,
}

/// One request as curl made it.
pub(crate) struct Request {
    pub(crate) command: String,
    pub(crate) answer: String,
    pub(crate) target: SocketAddr,
    /// The client's address and port, as curl knows them.
    pub(crate) client: SocketAddr,
}

impl Server {
    pub(crate) fn start(mesh: &Mesh, marker: &str) -> Result<Self> {
        let directory = mesh.directory().join("www");
        fs::create_dir(&directory)?;
        fs::write(directory.join(PAGE), format!("the answer holds the {marker}\n"))?;
        let log = mesh.directory().join("httpd.log");
        let mut command = Command::new("busybox");
        command.args(["httpd", "-f", "-vv", "-p", &format!("[::]:{PORT}"), "-h"]).arg(&directory);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?);
        let process = mesh.pod("server").start(command)?;
        let server = mesh.pod("server").place.clone();
        eventually("busybox httpd listens", || server.run(listens).then_some(()));
        Ok(Self { _process: process, log })
    }

    /// How much the server has logged so far.
    pub(crate) fn logged(&self) -> usize {
        fs::metadata(&self.log).map_or(0, |metadata| usize::try_from(metadata.len()).unwrap_or(0))
    }

    /// Whether the server says that it saw this client, in what it logged after `earlier` bytes.
    pub(crate) fn saw(&self, client: IpAddr, earlier: usize) -> bool {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let text = text.get(earlier..).unwrap_or_default();
        let seen = text.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]:"));
        seen.filter_map(|(ip, _)| ip.parse::<IpAddr>().ok()).any(|ip| ip.to_canonical() == client)
    }
}

fn listens() -> bool {
    let sockets = fs::read_to_string("/proc/thread-self/net/tcp6").unwrap_or_default();
    let port = format!(":{PORT:04X} ");
    sockets
        .lines()
        .any(|line| line.split_whitespace().nth(1).is_some_and(|local| format!("{local} ").ends_with(&port)))
}

/// Asks the server by its address, with the marker in a header, and records the wire between the nodes meanwhile.
pub(crate) fn ask(mesh: &Mesh, marker: &str) -> Result<(Vec<Request>, Recording)> {
    let capture = Capture::start(mesh.topology().underlay(), "node1", Keep::Everything)?;
    let requests = (0..2).map(|family| curl(mesh, family, marker)).collect::<Result<_>>()?;
    Ok((requests, capture.stop()?))
}

fn curl(mesh: &Mesh, family: usize, marker: &str) -> Result<Request> {
    let target = mesh.address("server", family, PORT);
    let url = format!("http://{target}/{PAGE}");
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--globoff", "--noproxy", "*", "--max-time", "10"]);
    command.args([
        "--header",
        &format!("Secret: {marker}"),
        "--write-out",
        "%{local_ip} %{local_port}",
        &url,
    ]);
    let output = mesh.pod("client").output(command)?;
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "curl {url}: {message}");
    let text = String::from_utf8(output.stdout)?;
    let (answer, local) = text.rsplit_once('\n').context("an answer without an end of line")?;
    let (ip, port) = local.split_once(' ').context("curl does not say its own address")?;
    let client = SocketAddr::new(ip.parse()?, port.parse()?);
    Ok(Request { command: format!("curl {url}"), answer: answer.to_owned(), target, client })
}
