//! What istio-cni puts into a pod's network namespace: connections go to the proxy's ports by REDIRECT, except those of
//! the proxy itself, which carry its mark; and the application's answers to the proxy find their way back by connmark.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::Place;

const RULES: [&str; 10] = [
    "-t mangle -A PREROUTING -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff",
    "-t mangle -A OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark",
    "-t nat -A OUTPUT -p udp --dport 53 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15053",
    "-t nat -A OUTPUT -p tcp --dport 53 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15053",
    "-t nat -A OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT",
    "-t nat -A OUTPUT -o lo -j ACCEPT",
    "-t nat -A OUTPUT -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001",
    "-t nat -A PREROUTING -i lo -j ACCEPT",
    "-t nat -A PREROUTING -p tcp --dport 15008 -j ACCEPT",
    "-t nat -A PREROUTING -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006",
];

/// Redirects the pod's traffic.
pub fn redirect(pod: &Place) -> Result<()> {
    for (tables, ip) in [("iptables", "-4"), ("ip6tables", "-6")] {
        for rule in RULES {
            run(pod, tables, rule)?;
        }
        run(pod, "ip", &format!("{ip} rule add fwmark 0x111/0xfff pref 32764 lookup 100"))?;
        run(pod, "ip", &format!("{ip} route add local default dev lo table 100"))?;
    }
    Ok(())
}

fn run(pod: &Place, program: &str, arguments: &str) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments.split(' '));
    let answer = pod.output(command)?;
    let message = String::from_utf8_lossy(&answer.stderr);
    ensure!(answer.status.success(), "`{program} {arguments}` in {}: {message}", pod.name());
    Ok(())
}
