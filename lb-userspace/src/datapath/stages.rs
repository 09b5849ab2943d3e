//! The stages of the data plane: programs that reach each other through an array of their own.
//!
//! The kernel empties such an array once no process and no pin holds it, whatever still runs
//! over it. So it is pinned before its entry program is attached, and stays until no link of
//! ours holds that program: `DIRECTORY/stages-ID`, by the id of the map, because one interface
//! may still have the program of an agent before while another has the new one.

use std::{collections::BTreeSet, io, path::Path};

use aya::{
    Ebpf,
    maps::{Map, MapData, ProgramArray},
    programs::{
        ProgramError, ProgramType, Xdp,
        links::{FdLink, PinnedLink},
    },
    sys::{BpfHelper, is_helper_supported},
};
use lb_common::{abi::STAGES, stage::Stage};

use super::{
    batch,
    error::{DatapathError, MapAccessError, PinsError, ProgramFault},
    loader::verify_failed,
    pins::Pins,
};

/// Loads every stage and lets them find each other; false if the kernel has no SYN cookies for
/// XDP programs, whose stages are then missing.
///
/// # Errors
/// If the kernel refuses a program, or the object is not the data plane's.
pub fn load(object: &mut Ebpf) -> Result<bool, DatapathError> {
    let cookies = has_cookies();
    let mut descriptors = Vec::new();
    for stage in Stage::ALL.into_iter().filter(|stage| cookies || !stage.needs_cookies()) {
        let program = program(object, stage.program())?;
        program.load().map_err(verify_failed)?;
        let descriptor = program.fd().and_then(|fd| fd.try_clone().map_err(ProgramError::IOError));
        descriptors.push((stage as u32, descriptor.map_err(ProgramFault::Descriptor)?));
    }
    let fill = |source| MapAccessError::Access { action: "fill", map: STAGES, source };
    let map = object.map_mut(STAGES).ok_or(ProgramFault::Lacks(STAGES))?;
    let mut array = ProgramArray::try_from(map).map_err(fill)?;
    for (index, descriptor) in descriptors {
        array.set(index, &descriptor, 0).map_err(fill)?;
    }
    Ok(cookies)
}

/// Whether the kernel lets XDP programs make and check SYN cookies (Linux 6.0), and was built with
/// cookies at all (`CONFIG_SYN_COOKIES`): otherwise the helpers refuse each. If it does not say,
/// loading will.
#[must_use]
pub fn has_cookies() -> bool {
    let helper = BpfHelper::BPF_FUNC_tcp_raw_gen_syncookie_ipv4;
    let is_built = !Path::new("/proc/sys/net/ipv4").exists()
        || Path::new("/proc/sys/net/ipv4/tcp_syncookies").exists();
    is_built && is_helper_supported(ProgramType::Xdp, helper).unwrap_or(true)
}

/// A program of an object by its name.
///
/// # Errors
/// If the object has no such XDP program.
pub fn program<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, ProgramFault> {
    let program = object.program_mut(name).ok_or(ProgramFault::Lacks(name))?;
    program.try_into().map_err(|_: ProgramError| ProgramFault::Lacks(name))
}

/// Pins the array of a loaded object, unless that is done.
pub(super) fn pin(object: &Ebpf, pins: &Pins) -> Result<(), DatapathError> {
    let Some(Map::ProgramArray(data)) = object.map(STAGES) else {
        return Err(ProgramFault::Lacks(STAGES).into());
    };
    let info = data.info().map_err(|source| MapAccessError::Access {
        action: "read the id of",
        map: STAGES,
        source,
    })?;
    let path = pins.stages(info.id());
    if path.exists() {
        return Ok(());
    }
    data.pin(&path).map_err(|source| PinsError::Pin { path, source }.into())
}

/// Removes the arrays of programs that no pinned link holds any more.
pub(super) fn prune(pins: &Pins) -> Result<(), PinsError> {
    let mut held = BTreeSet::new();
    for interface in pins.linked_interfaces()? {
        let path = pins.link(&interface);
        let link = PinnedLink::from_pin(&path).map(FdLink::from);
        let info = link.and_then(|link| link.info());
        held.insert(info.map_err(|source| PinsError::Link { path, source })?.program_id());
    }
    for path in pins.all_stages()? {
        // One that can not be read may be in use.
        if entry_program(&path).is_ok_and(|program| !held.contains(&program)) {
            pins.remove(&path)?;
        }
    }
    Ok(())
}

/// Id of the program that a pinned array has for the entry; 0 if it has none.
fn entry_program(path: &Path) -> io::Result<u32> {
    let data = MapData::from_pin(path).map_err(io::Error::other)?;
    match batch::first_word(&data) {
        // The kernel says so of an empty place.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        other => other,
    }
}
