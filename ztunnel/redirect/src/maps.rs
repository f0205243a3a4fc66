//! The pinned maps, as user space writes and reads them.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
};

use abi::{ListenerKey, Verdict, map, role};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, SockHash};
use model::Role;
use parking_lot::Mutex;

use crate::{RedirectError, pod::Listeners};

/// include/uapi/linux/bpf.h
const BPF_NOEXIST: u64 = 1;

pub(crate) struct Maps {
    pods: Mutex<HashMap<MapData, u64, abi::Pod>>,
    listeners: Mutex<SockHash<MapData, ListenerKey>>,
    heartbeat: Mutex<Array<MapData, u64>>,
    verdicts: PerCpuArray<MapData, u64>,
    /// Written for every connection, hence by a plain descriptor without a lock.
    owners: Arc<OwnedFd>,
}

/// How often each verdict was given on this node since its maps were made.
pub type VerdictCounts = Vec<(&'static str, u64)>;

impl Maps {
    pub(crate) fn take(object: &mut aya::Ebpf) -> Result<Self, RedirectError> {
        Ok(Self {
            pods: Mutex::new(typed(take(object, map::PODS)?)?),
            listeners: Mutex::new(typed(take(object, map::LISTENERS)?)?),
            heartbeat: Mutex::new(typed(take(object, map::HEARTBEAT)?)?),
            verdicts: typed(take(object, map::VERDICTS)?)?,
            owners: Arc::new(descriptor(&take(object, map::OWNERS)?)?),
        })
    }

    pub(crate) fn owners(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.owners)
    }

    /// From now on the pod is enrolled.
    pub(crate) fn insert_pod(&self, cookie: u64, pod: abi::Pod) -> Result<(), RedirectError> {
        self.pods.lock().insert(cookie, pod, 0).map_err(|error| failed("enrolling a pod", &error))
    }

    /// From now on it is not.
    pub(crate) fn remove_pod(&self, cookie: u64) -> Result<(), RedirectError> {
        match self.pods.lock().remove(&cookie) {
            Err(error) if !is_absence(&error) => Err(failed("removing a pod", &error)),
            _ => Ok(()),
        }
    }

    pub(crate) fn pods(&self) -> Result<Vec<u64>, RedirectError> {
        self.pods.lock().keys().collect::<Result<_, _>>().map_err(|error| failed("listing pods", &error))
    }

    pub(crate) fn pod(&self, cookie: u64) -> Result<Option<abi::Pod>, RedirectError> {
        match self.pods.lock().get(&cookie, 0) {
            Ok(pod) => Ok(Some(pod)),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(failed("looking a pod up", &error)),
        }
    }

    pub(crate) fn insert_listeners(&self, cookie: u64, listeners: &Listeners) -> Result<(), RedirectError> {
        Role::ALL.into_iter().try_for_each(|role| self.insert_listener(cookie, role, &listeners.of(role)))
    }

    /// Replaces that of a daemon before us, atomically for the programs.
    pub(crate) fn insert_listener(
        &self,
        cookie: u64,
        role: Role,
        listener: &impl AsRawFd,
    ) -> Result<(), RedirectError> {
        let inserted = self.listeners.lock().insert(key(cookie, role), listener.as_raw_fd(), 0);
        inserted.map_err(|error| failed("offering a listener", &error))
    }

    /// Those that are there stay, whoever's they are.
    pub(crate) fn insert_missing_listeners(
        &self,
        cookie: u64,
        listeners: &Listeners,
    ) -> Result<(), RedirectError> {
        let mut map = self.listeners.lock();
        Role::ALL.into_iter().try_for_each(|role| {
            match map.insert(key(cookie, role), listeners.of(role).as_raw_fd(), BPF_NOEXIST) {
                Err(error) if !is_presence(&error) => Err(failed("offering a listener", &error)),
                _ => Ok(()),
            }
        })
    }

    pub(crate) fn remove_listeners(&self, cookie: u64) {
        let mut map = self.listeners.lock();
        for role in Role::ALL {
            // Gone already if its socket was closed.
            let _ = map.remove(&key(cookie, role));
        }
    }

    pub(crate) fn beat(&self, monotonic_nanos: u64) -> Result<(), RedirectError> {
        self.heartbeat.lock().set(0, monotonic_nanos, 0).map_err(|error| failed("the heartbeat", &error))
    }

    pub(crate) fn verdicts(&self) -> VerdictCounts {
        let total = |verdict: Verdict| {
            let cells = self.verdicts.get(&(verdict as u32), 0);
            cells.map_or(0, |cells| cells.iter().fold(0_u64, |sum, cell| sum.wrapping_add(*cell)))
        };
        Verdict::ALL.into_iter().map(|verdict| (verdict.name(), total(verdict))).collect()
    }
}

fn key(cookie: u64, role: Role) -> ListenerKey {
    let role = match role {
        Role::Outbound => role::OUTBOUND,
        Role::InboundPlaintext => role::INBOUND_PLAINTEXT,
        Role::InboundHbone => role::INBOUND_HBONE,
    };
    ListenerKey { cookie, role, reserved: 0 }
}

fn take(object: &mut aya::Ebpf, name: &'static str) -> Result<Map, RedirectError> {
    object.take_map(name).ok_or(RedirectError::Ebpf { what: "a map is missing", message: name.to_owned() })
}

fn typed<M: TryFrom<Map, Error = MapError>>(map: Map) -> Result<M, RedirectError> {
    M::try_from(map).map_err(|error| failed("a map's type", &error))
}

fn descriptor(map: &Map) -> Result<OwnedFd, RedirectError> {
    let Map::SkStorage(data) = map else {
        return Err(RedirectError::Ebpf { what: "a map's type", message: map::OWNERS.to_owned() });
    };
    data.fd().as_fd().try_clone_to_owned().map_err(|error| failed("a map's descriptor", &error))
}

fn failed(what: &'static str, error: &dyn std::error::Error) -> RedirectError {
    RedirectError::ebpf(what, error)
}

/// Looking up, aya names this; removing, it hands on what the kernel said.
fn is_absence(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

fn is_presence(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.kind() == io::ErrorKind::AlreadyExists)
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    /// If removing twice were an error, letting a pod go would stop half way, and what it left behind would keep the
    /// next daemon from starting.
    #[test]
    fn what_is_not_there_need_not_be_removed() {
        let error = |code| {
            MapError::SyscallError(SyscallError {
                call: "bpf_map_delete_elem",
                io_error: io::Error::from_raw_os_error(code),
            })
        };
        assert!(is_absence(&error(libc::ENOENT)));
        assert!(is_absence(&MapError::KeyNotFound));
        assert!(!is_absence(&error(libc::EPERM)));
    }
}
