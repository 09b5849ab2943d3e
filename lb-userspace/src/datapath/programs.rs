//! The programs of the data plane as an agent holds them: loaded by itself, or by one before it.

use aya::{
    Ebpf,
    maps::MapData,
    programs::{Program, Xdp},
};
use lb_common::abi::{PROGRAM, RUN_BY_AGENT};

use super::{
    canned::try_canned,
    error::ProgramFault,
    object::PROGRAM_OBJECT,
    origin::{self, Adopted, Doubt, Fingerprint, Origin},
    pins::Pins,
    stages,
};

/// The programs of one load, and what holds them.
#[derive(Debug)]
pub(super) enum Programs {
    /// Loaded by this agent.
    Loaded(Ebpf),
    /// By one before it.
    Adopted(Box<Adopted>),
}

/// Whether a start would go on with the programs that are pinned.
///
/// # Errors
/// Why it would load them anew.
pub fn adoptable(pins: &Pins) -> Result<(), Doubt> {
    Programs::adopt(pins, Programs::fingerprint(stages::has_cookies())).map(drop)
}

impl Programs {
    /// Those that are pinned, if they are what would be loaded and let a packet pass.
    pub(super) fn adopt(pins: &Pins, fingerprint: Fingerprint) -> Result<Self, Doubt> {
        // Whoever reads what programs log has to load them.
        if cfg!(feature = "dataplane-log") {
            return Err(Doubt::Missing("the log of packets"));
        }
        let adopted = origin::adopt(pins, fingerprint)?;
        try_canned(&adopted.entry).map_err(|error| Doubt::Faulty(Box::new(error)))?;
        Ok(Self::Adopted(Box::new(adopted)))
    }

    /// What is decided by the machine while the object is loaded, and the object.
    pub(super) fn fingerprint(cookies: bool) -> Fingerprint {
        Fingerprint::of(PROGRAM_OBJECT, cookies)
    }

    /// What there is to note of a loaded object.
    pub(super) fn origin_of(
        object: &Ebpf,
        fingerprint: Fingerprint,
        pins: &Pins,
    ) -> Result<Origin, Doubt> {
        let program = |name| match object.program(name) {
            Some(Program::Xdp(program)) => Ok(program),
            _ => Err(Doubt::Missing(name)),
        };
        let stages = stages::array(object).map_err(|_| Doubt::Missing("the array of stages"))?;
        let [settle, expire4, expire6] = RUN_BY_AGENT.map(program);
        let run_by_agent = [settle?, expire4?, expire6?];
        Origin::of(fingerprint, program(PROGRAM)?, run_by_agent, stages, pins)
    }

    /// The program that is attached.
    pub(super) fn entry(&mut self) -> Result<&mut Xdp, ProgramFault> {
        match self {
            Self::Loaded(object) => stages::program(object, PROGRAM),
            Self::Adopted(adopted) => Ok(&mut adopted.entry),
        }
    }

    /// The array of the stages behind it.
    pub(super) fn stages(&self) -> Result<&MapData, ProgramFault> {
        match self {
            Self::Loaded(object) => stages::array(object),
            Self::Adopted(adopted) => Ok(&adopted.stages),
        }
    }
}
