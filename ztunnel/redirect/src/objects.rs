//! The eBPF objects embedded in this binary: checking, loading.

use aya::{
    Ebpf, EbpfLoader,
    programs::{CgroupSockAddr, CgroupSockopt, Program, ProgramError, ProgramFd, SkLookup, SockOps},
};
use object::{Object, ObjectSection, ObjectSymbol};

use crate::{RedirectError, bpf::AttachType, pins::Pins};

static NODE: &[u8] = aya::include_bytes_aligned!(env!("ZTUNNEL_NODE_OBJECT"));
static POD: &[u8] = aya::include_bytes_aligned!(env!("ZTUNNEL_POD_OBJECT"));

/// The programs of the node object, by name, with where they attach.
pub(crate) const NODE_PROGRAMS: [(&str, AttachType); 4] = [
    ("node_connect4", AttachType::Connect4),
    ("node_connect6", AttachType::Connect6),
    ("node_setsockopt", AttachType::SetSockOpt),
    ("node_sockops", AttachType::SockOps),
];
pub(crate) const POD_PROGRAM: &str = "pod_lookup";

/// Whether both objects are of this daemon's ABI. Once, before anything is loaded.
pub(crate) fn check() -> Result<(), RedirectError> {
    check_abi("node", NODE)?;
    check_abi("pod", POD)
}

/// Loads the node's programs, on the pinned maps if there are any.
pub(crate) fn load_node(pins: &Pins, node_cookie: u64, kubelet_cgroup: u64) -> Result<Ebpf, RedirectError> {
    let mut loader = EbpfLoader::new();
    loader.override_global(abi::global::NODE_COOKIE, &node_cookie, true).override_global(
        abi::global::KUBELET_CGROUP,
        &kubelet_cgroup,
        true,
    );
    let mut object = load(loader, pins, NODE)?;
    for (name, _) in NODE_PROGRAMS {
        load_program(&mut object, name)?;
    }
    Ok(object)
}

/// Loads one pod's own lookup program.
pub(crate) fn load_pod(pins: &Pins, cookie: u64) -> Result<Ebpf, RedirectError> {
    let mut loader = EbpfLoader::new();
    loader.override_global(abi::global::POD_COOKIE, &cookie, true);
    let mut object = load(loader, pins, POD)?;
    load_program(&mut object, POD_PROGRAM)?;
    Ok(object)
}

pub(crate) fn program<'o>(object: &'o Ebpf, name: &'static str) -> Result<&'o ProgramFd, RedirectError> {
    let program = object.program(name).ok_or_else(|| missing(name))?;
    program.fd().map_err(|error| RedirectError::ebpf(name, &error))
}

/// The kernel's number for it.
pub(crate) fn program_id(object: &Ebpf, name: &'static str) -> Result<u32, RedirectError> {
    let program = object.program(name).ok_or_else(|| missing(name))?;
    program.info().map(|info| info.id()).map_err(|error| RedirectError::ebpf(name, &error))
}

fn load(mut loader: EbpfLoader<'_>, pins: &Pins, object: &[u8]) -> Result<Ebpf, RedirectError> {
    for name in abi::map::ALL {
        loader.map_pin_path(name, pins.map(name));
    }
    loader.load(object).map_err(|error| RedirectError::ebpf("loading maps", &error))
}

/// The verifier has its say here.
fn load_program(object: &mut Ebpf, name: &'static str) -> Result<(), RedirectError> {
    let program = object.program_mut(name).ok_or_else(|| missing(name))?;
    let loaded: Result<(), ProgramError> = match program {
        Program::CgroupSockAddr(_) => <&mut CgroupSockAddr>::try_from(program).and_then(CgroupSockAddr::load),
        Program::CgroupSockopt(_) => <&mut CgroupSockopt>::try_from(program).and_then(CgroupSockopt::load),
        Program::SockOps(_) => <&mut SockOps>::try_from(program).and_then(SockOps::load),
        Program::SkLookup(_) => <&mut SkLookup>::try_from(program).and_then(SkLookup::load),
        _ => return Err(missing(name)),
    };
    loaded.map_err(|error| RedirectError::ebpf(name, &error))
}

fn missing(name: &'static str) -> RedirectError {
    RedirectError::Ebpf { what: "the object lacks a program", message: name.to_owned() }
}

/// An object built from other sources than this daemon would misread the maps.
fn check_abi(name: &'static str, object: &[u8]) -> Result<(), RedirectError> {
    match abi_version(object) {
        Some(abi::VERSION) => Ok(()),
        found => Err(RedirectError::Abi { object: name, found, expected: abi::VERSION }),
    }
}

fn abi_version(object: &[u8]) -> Option<u32> {
    let file = object::File::parse(object).ok()?;
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(abi::VERSION_SYMBOL))?;
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    let bytes = section.data_range(symbol.address(), 4).ok()??;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_objects_speak_our_abi() {
        assert_eq!(abi_version(NODE), Some(abi::VERSION));
        assert_eq!(abi_version(POD), Some(abi::VERSION));
    }

    #[test]
    fn what_is_no_object_of_ours_is_refused() {
        assert!(matches!(check_abi("junk", b"not an object"), Err(RedirectError::Abi { found: None, .. })));
    }
}
