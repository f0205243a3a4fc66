//! The eBPF objects embedded in this binary: checking, loading.

use std::ops::Range;

use aya::{
    Ebpf, EbpfLoader,
    programs::{CgroupSockAddr, CgroupSockopt, Program, ProgramError, ProgramFd, SkLookup, SockOps},
};
use object::{Object, ObjectSection, ObjectSymbol};
use parking_lot::Mutex;

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

/// Reads objects into the kernel, on the pinned maps if there are any. One for the daemon's life: aya reads the kernel's
/// own types for each that is made, 20 MiB in small pieces, of which no program of ours has a use.
pub(crate) struct Loader(Mutex<EbpfLoader<'static>>);

impl Loader {
    pub(crate) fn new(pins: &Pins) -> Self {
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        for name in abi::map::ALL {
            loader.map_pin_path(name, pins.map(name));
        }
        Self(Mutex::new(loader))
    }

    /// The node's programs.
    pub(crate) fn load_node(&self, node_cookie: u64, kubelet_cgroup: u64) -> Result<Ebpf, RedirectError> {
        let globals =
            [(abi::global::NODE_COOKIE, node_cookie), (abi::global::KUBELET_CGROUP, kubelet_cgroup)];
        let mut object = self.load(NODE, &globals)?;
        for (name, _) in NODE_PROGRAMS {
            load_program(&mut object, name)?;
        }
        Ok(object)
    }

    /// One pod's own lookup program.
    pub(crate) fn load_pod(&self, cookie: u64) -> Result<Ebpf, RedirectError> {
        let mut object = self.load(POD, &[(abi::global::POD_COOKIE, cookie)])?;
        load_program(&mut object, POD_PROGRAM)?;
        Ok(object)
    }

    /// A loader remembers its globals for ever, so they are set in the object itself.
    fn load(&self, object: &[u8], globals: &[(&'static str, u64)]) -> Result<Ebpf, RedirectError> {
        let mut object = object.to_vec();
        for &(name, value) in globals {
            let place = place_of(&object, name, size_of::<u64>());
            let place = place.and_then(|place| object.get_mut(place));
            let missing =
                RedirectError::Ebpf { what: "the object lacks a variable", message: name.to_owned() };
            place.ok_or(missing)?.copy_from_slice(&value.to_ne_bytes());
        }
        self.0.lock().load(&object).map_err(|error| RedirectError::ebpf("loading maps", &error))
    }
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
    let bytes = object.get(place_of(object, abi::VERSION_SYMBOL, size_of::<u32>())?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// Where in the file a variable of so many bytes stands.
fn place_of(object: &[u8], name: &str, size: usize) -> Option<Range<usize>> {
    let file = object::File::parse(object).ok()?;
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name))?;
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    let offset = symbol.address().checked_sub(section.address())?;
    let (start, length) = section.file_range()?;
    let fits = offset.checked_add(size as u64)? <= length && symbol.size() == size as u64;
    let start = usize::try_from(start.checked_add(offset)?).ok().filter(|_| fits)?;
    Some(start..start.checked_add(size)?)
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

    /// A pod's program that judged by another's namespace would hand its connections to the wrong listeners.
    #[test]
    fn every_variable_has_its_place() {
        let places = [
            place_of(NODE, abi::global::NODE_COOKIE, 8),
            place_of(NODE, abi::global::KUBELET_CGROUP, 8),
            place_of(POD, abi::global::POD_COOKIE, 8),
        ];
        assert!(places.iter().all(Option::is_some), "{places:?}");
        assert_ne!(places[0], places[1]);
        assert_eq!(place_of(POD, abi::global::POD_COOKIE, 4), None, "of another size");
        assert_eq!(place_of(POD, abi::global::NODE_COOKIE, 8), None, "the node's");
    }
}
