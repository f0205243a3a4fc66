//! By the number of connections that are held, before and after they have carried something, and once they are gone.
//! Always against the daemon at rest that has had a tunnel and two connections, so that what a crowd leaves behind counts
//! as the next one's. A connection's share is of the daemon's own (anonymous) memory: pages of the program, which the daemon
//! lets go of at rest and which come back with the first connection, are no connection's. What is kept is of all that is
//! resident.

use std::{net::SocketAddr, thread::sleep, time::Duration};

use anyhow::Result;

use super::{
    AT_REST, Figure, Findings, KIB, MIB, MeshPlan, Options, SETTLING, Stand, anonymous, bytes, progress,
    read, resident,
};
use crate::{
    load::{
        order::{Order, port},
        start::Client,
    },
    measure::slab,
};

pub(crate) const TABLE: &str = "Memory by connections";
const FIRST: &str = "first daemon, each";
const SECOND: &str = "second daemon, each";
pub(crate) const EACH_NODE: &[&str] = &[FIRST, SECOND];
pub(crate) const KEPT: &[&str] = &["kept by the first daemon", "kept by the second daemon"];
const KERNEL: &str = "kernel, each";
const KERNEL_WITHOUT: &str = "kernel without a mesh, each";
const CARRIED: usize = 256 << 10;
const AFTER_CLOSING: Duration = Duration::from_secs(15);
/// One identity may have 8,192 connections to a pod.
const CLIENTS: [&str; 2] = ["client", "other"];

pub(super) fn measure(options: &Options, findings: &mut Findings) -> Result<()> {
    let nodes = ["client other", "server"];
    let mut bare = Stand::bare(MeshPlan::new(&nodes))?;
    let mut without = Crowd::of(&mut bare)?;
    let mut stand = Stand::with_mesh(options, MeshPlan::new(&nodes))?;
    let mut with = Crowd::of(&mut stand)?;
    with.open(2)?;
    with.each(&Order::Release)?;
    sleep(AT_REST);
    let empty = weigh(&stand, "empty", findings)?;
    for &(count, rounds) in if options.quick { &[(1000, 1)][..] } else { &[(1000, 5), (10_000, 1)] } {
        for round in 1..=rounds {
            progress::say(&format!("{count} held connections, round {round} of {rounds}"));
            kernel(&mut without, count, KERNEL_WITHOUT, findings)?;
            without.each(&Order::Release)?;
            hold(&stand, &mut with, count, empty, findings)?;
            if round == rounds {
                sleep(AFTER_CLOSING);
                kept(&stand, count, empty, findings)?;
            }
            sleep(SETTLING);
        }
    }
    Ok(())
}

/// Clients in each pod that has one, and whom they hold connections to.
struct Crowd {
    clients: Vec<Client>,
    server: SocketAddr,
}

impl Crowd {
    fn of(stand: &mut Stand) -> Result<Self> {
        stand.serve("server")?;
        let clients =
            CLIENTS.into_iter().map(|pod| Client::start(stand.mesh.pod(pod))).collect::<Result<_>>()?;
        Ok(Self { clients, server: SocketAddr::new(stand.ip("server"), port::ECHO) })
    }

    fn open(&mut self, count: usize) -> Result<()> {
        let share = count / self.clients.len();
        self.each(&Order::Hold { server: self.server, count: share })
    }

    fn each(&mut self, order: &Order) -> Result<()> {
        self.clients.iter_mut().try_for_each(|client| client.order(order).map(drop))
    }
}

#[derive(Clone, Copy)]
struct Weight {
    resident: f64,
    anonymous: f64,
}

/// Both daemons' bytes.
fn weigh(stand: &Stand, of: &str, findings: &mut Findings) -> Result<[Weight; 2]> {
    let [first, second] = [1, 2].map(|node| stand.mesh.daemon(node).id());
    let mut weight = |process| -> Result<Weight> {
        let readings = read(process, findings, of)?;
        Ok(Weight { resident: resident(&readings), anonymous: anonymous(&readings) })
    };
    Ok([weight(first)?, weight(second)?])
}

fn hold(
    stand: &Stand,
    crowd: &mut Crowd,
    count: usize,
    empty: [Weight; 2],
    findings: &mut Findings,
) -> Result<()> {
    kernel(crowd, count, KERNEL, findings)?;
    each("idle", count, empty, weigh(stand, "idle", findings)?, findings);
    crowd.each(&Order::Carry { bytes: CARRIED })?;
    sleep(AT_REST);
    each("after traffic", count, empty, weigh(stand, "after traffic", findings)?, findings);
    crowd.each(&Order::Release)
}

fn kept(stand: &Stand, count: usize, empty: [Weight; 2], findings: &mut Findings) -> Result<()> {
    let after = weigh(stand, "closed", findings)?;
    for (what, (after, empty)) in KEPT.iter().zip(after.into_iter().zip(empty)) {
        add(findings, format!("{count} closed"), what, "MiB", (after.resident - empty.resident) / MIB);
    }
    Ok(())
}

fn each(of: &str, count: usize, before: [Weight; 2], now: [Weight; 2], findings: &mut Findings) {
    for (what, (now, before)) in EACH_NODE.iter().zip(now.into_iter().zip(before)) {
        let share = (now.anonymous - before.anonymous) / KIB / bytes(count as u64);
        add(findings, format!("{count} {of}"), what, "KiB", share);
    }
}

/// Opens them, and weighs what the kernel holds for all the sockets on the way, those of the ends too.
fn kernel(crowd: &mut Crowd, count: usize, what: &'static str, findings: &mut Findings) -> Result<()> {
    let before = slab::of_sockets()?;
    crowd.open(count)?;
    sleep(SETTLING);
    let held = slab::of_sockets()?.saturating_sub(before);
    add(findings, format!("{count} idle"), what, "KiB", bytes(held) / KIB / bytes(count as u64));
    Ok(())
}

/// One more value of the figure.
fn add(findings: &mut Findings, of: String, what: &'static str, unit: &'static str, value: f64) {
    match findings.figures.iter_mut().find(|figure| figure.is(TABLE, &of, what, unit)) {
        Some(figure) => figure.values.push(value),
        None => findings.figures.push(Figure { table: TABLE, of, what, unit, values: vec![value] }),
    }
}
