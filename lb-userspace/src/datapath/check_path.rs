//! The classifiers that send checks the way of traffic: the object `checks`, which is loaded and
//! attached while some check asks for it. Nothing of it is pinned: it goes with the process,
//! whose checks end then too.
//!
//! First on each interface (tcx): what others attach there sees packets as servers and clients
//! do, and is asked in any case.

use std::{collections::BTreeMap, os::fd::BorrowedFd};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, SkStorage},
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        tc::{SchedClassifierLink, TcAttachOptions},
    },
};
use lb_common::check_path::{CheckPath, map, program};
use nix::net::if_::if_nametoindex;

use super::{
    error::{DatapathError, InterfaceError, MapAccessError, ProgramFault},
    loader::{load_failed, verify_failed},
    object::CHECKS_OBJECT,
};

/// Programs, and on which side of an interface they are.
const PROGRAMS: [(&str, TcAttachType); 2] =
    [(program::OUT, TcAttachType::Egress), (program::BACK, TcAttachType::Ingress)];

/// The classifiers, loaded. Dropping them takes them off all interfaces.
pub struct CheckPaths {
    object: Ebpf,
    paths: SkStorage<MapData, CheckPath>,
    /// By interface: the index it had, and what holds the programs there.
    attached: BTreeMap<String, (u32, Vec<SchedClassifierLink>)>,
}

impl std::fmt::Debug for CheckPaths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckPaths").field("attached", &self.attached.keys()).finish()
    }
}

impl CheckPaths {
    /// Loads them; they are attached to nothing yet.
    ///
    /// # Errors
    /// If memory is short, or the kernel refuses a program.
    pub fn load() -> Result<Self, DatapathError> {
        let mut object = EbpfLoader::new().load(CHECKS_OBJECT).map_err(load_failed)?;
        for (name, _) in PROGRAMS {
            classifier(&mut object, name)?.load().map_err(verify_failed)?;
        }
        let paths = object.take_map(map::PATHS).ok_or(ProgramFault::Lacks(map::PATHS))?;
        let failed = |source| MapAccessError::Access { action: "open", map: map::PATHS, source };
        let paths = SkStorage::try_from(paths).map_err(failed)?;
        Ok(Self { object, paths, attached: BTreeMap::new() })
    }

    /// Attaches them to those of the interfaces that are there, and takes them off all others.
    /// Where they are already they stay.
    ///
    /// # Errors
    /// If an interface refuses; the others are done all the same.
    pub fn follow(&mut self, interfaces: &[String]) -> Result<(), DatapathError> {
        self.attached.retain(|name, _| interfaces.contains(name));
        let mut result = Ok(());
        for name in interfaces {
            let Ok(index) = if_nametoindex(name.as_str()) else {
                self.attached.remove(name);
                continue;
            };
            // An interface that was made anew has lost them with the old one.
            if self.attached.get(name).is_some_and(|(attached, _)| *attached == index) {
                continue;
            }
            match attach(&mut self.object, name) {
                Ok(links) => drop(self.attached.insert(name.clone(), (index, links))),
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// Says of a socket which way its packets go, until it is closed.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set(&mut self, socket: BorrowedFd<'_>, path: &CheckPath) -> Result<(), DatapathError> {
        self.paths.insert(&socket, path, 0).map_err(|source| {
            MapAccessError::Access { action: "write", map: map::PATHS, source }.into()
        })
    }
}

fn attach(object: &mut Ebpf, name: &str) -> Result<Vec<SchedClassifierLink>, DatapathError> {
    let mut links = Vec::new();
    for (program, side) in PROGRAMS {
        let program = classifier(object, program)?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let link = program.attach_with_options(name, side, options);
        let link = link.and_then(|link| program.take_link(link));
        let failed = |source| InterfaceError::Classifier { name: name.to_owned(), source };
        links.push(link.map_err(failed)?);
    }
    Ok(links)
}

fn classifier<'a>(
    object: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, ProgramFault> {
    let program = object.program_mut(name).ok_or(ProgramFault::Lacks(name))?;
    program.try_into().map_err(|_: ProgramError| ProgramFault::Lacks(name))
}
