//! The stages of the data plane: programs that reach each other through an array of their own.
//!
//! The kernel empties such an array once no process and no pin holds it, whatever still runs
//! over it. So it is pinned before its entry program is attached, and stays until no link of
//! ours holds that program: `DIRECTORY/stages-ID`, by the id of the map, because one interface
//! may still have the program of an agent before while another has the new one.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Ebpf,
    maps::{Map, MapData, ProgramArray},
    programs::{
        ProgramError, ProgramFd, ProgramType, Xdp,
        links::{FdLink, PinnedLink},
    },
    sys::{BpfHelper, is_helper_supported},
};
use lb_common::{
    abi::{RUN_BY_AGENT, STAGES},
    stage::Stage,
};

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
    let wanted = Stage::ALL.into_iter().filter(|stage| cookies || !stage.needs_cookies());
    let descriptors = load_all(object, wanted)?;
    let fill = |source| MapAccessError::Access { action: "fill", map: STAGES, source };
    let map = object.map_mut(STAGES).ok_or(ProgramFault::Lacks(STAGES))?;
    let mut array = ProgramArray::try_from(map).map_err(fill)?;
    for (stage, descriptor) in descriptors {
        array.set(stage as u32, &descriptor, 0).map_err(fill)?;
    }
    Ok(cookies)
}

/// Loads stages, as many at a time as there are processors: the verifier takes two seconds for
/// all of them, and nearly all of a start.
fn load_all(
    object: &mut Ebpf,
    wanted: impl Iterator<Item = Stage>,
) -> Result<Vec<(Stage, ProgramFd)>, DatapathError> {
    let mut programs: HashMap<&str, &mut Xdp> = object
        .programs_mut()
        .filter_map(|(name, program)| Some((name, program.try_into().ok()?)))
        .collect();
    let found = wanted.map(|stage| {
        let program = programs.remove(stage.program());
        Ok((stage, program.ok_or(ProgramFault::Lacks(stage.program()))?))
    });
    let found: Vec<(Stage, &mut Xdp)> = found.collect::<Result<_, ProgramFault>>()?;
    let workers = thread::available_parallelism().map_or(1, usize::from).min(found.len());
    let queue = Mutex::new(found.into_iter());
    let work = || {
        let mut loaded = Vec::new();
        loop {
            // Nobody panics with the lock.
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((stage, program)) = next else { return Ok(loaded) };
            loaded.push((stage, load_one(program)?));
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut loaded = Vec::new();
        for worker in workers {
            let done: Result<Vec<_>, DatapathError> =
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            loaded.extend(done?);
        }
        Ok(loaded)
    })
}

fn load_one(program: &mut Xdp) -> Result<ProgramFd, DatapathError> {
    program.load().map_err(verify_failed)?;
    let descriptor = program.fd().and_then(|fd| fd.try_clone().map_err(ProgramError::IOError));
    Ok(descriptor.map_err(ProgramFault::Descriptor)?)
}

/// Loads the programs of an object that the agent runs itself.
///
/// # Errors
/// If the kernel refuses one, or the object is not the data plane's.
pub fn load_run_by_agent(object: &mut Ebpf) -> Result<(), DatapathError> {
    for name in RUN_BY_AGENT {
        program(object, name)?.load().map_err(verify_failed)?;
    }
    Ok(())
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

/// The array of a loaded object.
///
/// # Errors
/// If the object has none.
pub(super) fn array(object: &Ebpf) -> Result<&MapData, ProgramFault> {
    match object.map(STAGES) {
        Some(Map::ProgramArray(data)) => Ok(data),
        _ => Err(ProgramFault::Lacks(STAGES)),
    }
}

/// Pins an array, unless that is done.
pub(super) fn pin(data: &MapData, pins: &Pins) -> Result<(), DatapathError> {
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
    match batch::word(&data, Stage::Entry as u32) {
        // The kernel says so of an empty place.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        other => other,
    }
}
