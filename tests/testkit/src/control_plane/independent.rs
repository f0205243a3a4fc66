//! A control plane that shares no code with the daemon: `tests/testkit/xds/server.py`, run inside a [`Place`].
//!
//! It is spoken to line by line, and tells what it saw so.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{ChildStdin, Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Known, certificate::Certificate, mesh};
use crate::{Place, Process, eventually};

/// Made by `cargo xtask setup`.
const PYTHON: &str = "target/tools/xds/bin/python";
const SERVER: &str = "tests/testkit/xds/server.py";
const PROTOS: &str = "ztunnel/proto/proto";

pub struct Independent {
    address: SocketAddr,
    root_pem: String,
    told: Arc<Mutex<Vec<Value>>>,
    commands: ChildStdin,
    _process: Process,
}

impl Independent {
    /// Serves at a free port of `ip`. `directory` keeps its key while it starts.
    pub fn start(ip: IpAddr, place: &Place, directory: &Path) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let python = root.join(PYTHON);
        ensure!(python.exists(), "{} is missing: run `cargo xtask setup`", python.display());
        let certificate = Certificate::of(ip, &[b"h2"])?;
        let (chain, key) = (directory.join("xds.pem"), directory.join("xds.key"));
        fs::write(&chain, &certificate.chain_pem)?;
        fs::write(&key, &certificate.key_pem)?;
        let mut command = Command::new(python);
        command.arg(root.join(SERVER)).arg("--protos").arg(root.join(PROTOS));
        command.arg("--certificate").arg(chain).arg("--key").arg(key);
        command.arg("--address").arg(SocketAddr::new(ip, 0).to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = place.start(command)?;
        let child = process.child();
        let commands = child.stdin.take().context("its standard input")?;
        let events = child.stdout.take().context("its standard output")?;
        let told = Arc::<Mutex<Vec<Value>>>::default();
        let telling = Arc::clone(&told);
        std::thread::spawn(move || {
            for line in BufReader::new(events).lines().map_while(Result::ok) {
                telling.lock().push(serde_json::from_str(&line).unwrap_or(Value::String(line)));
            }
        });
        let port = eventually("the independent control plane listens", || {
            told.lock().iter().find_map(|event| event["port"].as_u64())
        });
        let address = SocketAddr::new(ip, u16::try_from(port)?);
        Ok(Self { address, root_pem: certificate.root_pem, told, commands, _process: process })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// Knows the workloads and services of a state file besides what it knew.
    pub fn tell_mesh(&mut self, state: &Value) -> Result<()> {
        self.put_all(&mesh::known(state)?)
    }

    /// All in one response.
    pub fn put_all(&mut self, known: &[Known]) -> Result<()> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let each =
            |known: &Known| json!({"type": known.type_url, "name": known.name, "value": hex(&known.value)});
        self.say(&json!({"put": known.iter().map(each).collect::<Vec<_>>()}))
    }

    /// Changes fields, given in protobuf's JSON, of a resource; makes it, if there is none.
    pub fn merge(&mut self, type_url: &str, name: &str, fields: &Value) -> Result<()> {
        self.say(&json!({"put": [{"type": type_url, "name": name, "merge": fields}]}))
    }

    pub fn remove(&mut self, type_url: &str, name: &str) -> Result<()> {
        self.say(&json!({"remove": [{"type": type_url, "name": name}]}))
    }

    /// As if it had gone while no stream stood: nobody is told.
    pub fn lose_all(&mut self, type_url: &str, names: &[String]) -> Result<()> {
        let all: Vec<_> = names.iter().map(|name| json!({"type": type_url, "name": name})).collect();
        self.say(&json!({"remove": all, "quiet": true}))
    }

    pub fn end_streams(&mut self) -> Result<()> {
        self.say(&json!({"end": true}))
    }

    /// All that it saw: requests, streams, violations of the protocol.
    pub fn told(&self) -> Vec<Value> {
        self.told.lock().clone()
    }

    fn say(&mut self, command: &Value) -> Result<()> {
        writeln!(self.commands, "{command}").context("the independent control plane has ended")
    }
}
