//! A world of its own for the self-test: two network namespaces joined by a veth pair, and a cgroup.

use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process, thread,
};

use futures::TryStreamExt;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{
    LinkUnspec, LinkVeth,
    packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags},
};

use abi::LOOPBACK_INDEX;

use crate::{NetworkNamespace, RedirectError, routing::Netlink};

/// Names of the two ends of the veth pair.
const LEFT: &str = "eth0";
const RIGHT: &str = "eth1";

/// A namespace that nobody else has; it goes when this is dropped.
pub(crate) struct ScratchNamespace {
    pub(crate) namespace: NetworkNamespace,
    pub(crate) path: PathBuf,
    file: File,
}

impl ScratchNamespace {
    pub(crate) fn new() -> Result<Self, RedirectError> {
        let failed = |source| RedirectError::InNamespace { what: "making a scratch namespace", source };
        // A namespace belongs to the thread that left for it, and outlives it while its file is open.
        let file = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        })
        .join()
        .map_err(|_| failed(io::ErrorKind::Other.into()))?
        .map_err(failed)?;
        let path = PathBuf::from(format!("/proc/{}/fd/{}", process::id(), file.as_raw_fd()));
        Ok(Self { namespace: NetworkNamespace::open(&path)?, path, file })
    }
}

/// Joins the two by a veth pair with these addresses.
pub(crate) async fn join(
    left: (&ScratchNamespace, &[IpAddr]),
    right: (&ScratchNamespace, &[IpAddr]),
) -> Result<(), RedirectError> {
    let netlink = Netlink::open(&left.0.namespace)?;
    let pair = LinkVeth::new(LEFT, RIGHT).build();
    netlink.bounded("making a veth pair", netlink.0.link().add(pair).execute()).await?;
    let peer = LinkUnspec::new_with_name(RIGHT).setns_by_fd(right.0.file.as_raw_fd()).build();
    netlink.bounded("moving a veth end", netlink.0.link().set(peer).execute()).await?;
    configure(left, LEFT).await?;
    configure(right, RIGHT).await
}

async fn configure(
    (scratch, addresses): (&ScratchNamespace, &[IpAddr]),
    name: &'static str,
) -> Result<(), RedirectError> {
    let netlink = Netlink::open(&scratch.namespace)?;
    let veth = index_of(&netlink, name).await?;
    for &address in addresses {
        let prefix = if address.is_ipv4() { 24 } else { 64 };
        let mut add = netlink.0.address().add(veth, address, prefix);
        // Without duplicate address detection, which would take a second.
        add.message_mut().header.flags = AddressHeaderFlags::Nodad;
        add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        netlink.bounded("adding an address", add.execute()).await?;
    }
    for index in [LOOPBACK_INDEX, veth] {
        let up = LinkUnspec::new_with_index(index).up().build();
        netlink.bounded("setting a link up", netlink.0.link().set(up).execute()).await?;
    }
    Ok(())
}

async fn index_of(netlink: &Netlink, name: &'static str) -> Result<u32, RedirectError> {
    let mut links = netlink.0.link().get().match_name(name).execute();
    let link = netlink.bounded("finding a link", links.try_next()).await?;
    let missing =
        RedirectError::InNamespace { what: "finding a link", source: io::ErrorKind::NotFound.into() };
    link.map(|link| link.header.index).ok_or(missing)
}

/// Moves this whole process into a cgroup of its own, and back again when dropped.
pub(crate) struct ScratchCgroup {
    pub(crate) path: PathBuf,
    home: PathBuf,
}

impl ScratchCgroup {
    pub(crate) fn enter(mount: &Path) -> Result<Self, RedirectError> {
        let home = own_cgroup(mount);
        let path = mount.join(format!("ztunnel-check-{}", process::id()));
        let failed = |what| {
            let path = path.clone();
            move |source| RedirectError::Path { what, path, source }
        };
        fs::create_dir(&path).map_err(failed("creating"))?;
        let scratch = Self { path: path.clone(), home };
        move_to(&path).map_err(failed("entering the cgroup"))?;
        Ok(scratch)
    }
}

impl Drop for ScratchCgroup {
    fn drop(&mut self) {
        if let Err(error) = move_to(&self.home).and_then(|()| fs::remove_dir(&self.path)) {
            tracing::warn!(%error, cgroup = %self.path.display(), "the scratch cgroup stays behind");
        }
    }
}

/// Where cgroup v2 is mounted: alone, or beside version 1.
pub fn cgroup2_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| fields.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}

fn own_cgroup(mount: &Path) -> PathBuf {
    let memberships = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = memberships.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    mount.join(own)
}

fn move_to(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), process::id().to_string())
}
