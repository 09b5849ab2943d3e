//! Brings the data plane up: maps from the pins or anew, a program that was tried before
//! anybody relies on it, attachment through pinned links. Programs that are pinned and the very
//! ones that would be loaded are gone on with (`origin`).
//!
//! The order matters: everything that can be refused is refused before the running
//! program is touched, so whatever was forwarding goes on forwarding.

use std::path::PathBuf;

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{MapData, MapError, MapType},
    programs::ProgramError,
};
use aya_obj::Object;
use lb_common::{
    abi::{ABI_VERSION, PROGRAM, RUN_BY_AGENT, map},
    settings::Settings,
};

use super::{
    attach::{self, Attachment},
    batch, canned,
    error::{DatapathError, HostError, MapAccessError, PinsError, ProgramFault},
    host,
    maps::Maps,
    object::PROGRAM_OBJECT,
    origin::{Fingerprint, Origin},
    pins::LockedPins,
    programs::Programs,
    shape::{self, Capacities, CapacityKept},
    stages,
};
use crate::model::snapshot::AttachMode;

/// The loaded data plane. Dropping it leaves the kernel half as it is.
#[derive(Debug)]
pub struct DataPlane {
    pins: LockedPins,
    programs: Programs,
    /// What is attached in their place while packets are traced.
    pub(super) traced: Option<Programs>,
    /// What is to be noted of the programs once they are pinned; none if it is.
    origin: Option<Origin>,
    adopted: bool,
    kept: Vec<CapacityKept>,
    /// As they are.
    capacities: Capacities,
    /// Whether the kernel has SYN cookies for XDP programs.
    cookies: bool,
}

impl DataPlane {
    /// Loads the program and adopts the pinned maps, or makes and pins them; a pinned program
    /// that is the same is adopted too. Nothing is attached and no running program replaced.
    ///
    /// # Errors
    /// If the host lacks something, the pinned maps are not ours to use, memory is short,
    /// or the program is faulty. Pins that this call made are removed again.
    pub fn load(pins: LockedPins, capacities: Capacities) -> Result<Self, DatapathError> {
        host::require()?;
        match judge_pins(&pins)? {
            Finding::Good => {}
            Finding::HalfMade => {
                tracing::warn!(
                    "{} holds what an agent left that was ended in its first start; it is \
                     removed",
                    pins.directory().display()
                );
                remove(&pins, false)?;
            }
        }
        let parsed = Object::parse(PROGRAM_OBJECT)
            .map_err(|error| ProgramFault::Object(EbpfError::ParseError(error)))?;
        let kept = shape::compare(&parsed, &pins, capacities)?;
        let capacities = capacities.except(&kept);
        let missing: Vec<PathBuf> =
            map::ALL.iter().map(|name| pins.map(name)).filter(|path| !path.exists()).collect();
        let adopted = missing.is_empty();
        let cookies = stages::has_cookies();
        let fingerprint = Programs::fingerprint(cookies);
        let (programs, origin) = match Programs::adopt(&pins, fingerprint) {
            Ok(programs) => (programs, None),
            Err(doubt) => {
                let doubt = anyhow::Error::from(doubt);
                tracing::debug!("programs are loaded: {doubt:#}");
                let loaded = load_object(&pins, capacities, fingerprint);
                let (object, origin) = loaded.inspect_err(|_| {
                    for pin in &missing {
                        // The first failure is the one to report.
                        drop(pins.remove(pin));
                    }
                })?;
                (Programs::Loaded(object), origin)
            }
        };
        Ok(Self { pins, programs, traced: None, origin, adopted, kept, capacities, cookies })
    }

    /// Whether every map was there already.
    #[must_use]
    pub const fn adopted(&self) -> bool {
        self.adopted
    }

    /// Whether the programs were there already, too.
    #[must_use]
    pub const fn adopted_programs(&self) -> bool {
        matches!(self.programs, Programs::Adopted(_))
    }

    /// Buckets of `HALF_OPEN4` and of `HALF_OPEN6` as they are.
    #[must_use]
    pub fn half_open_buckets(&self) -> u32 {
        self.capacities.half_open
    }

    /// Whether the kernel has SYN cookies for XDP programs.
    #[must_use]
    pub const fn has_cookies(&self) -> bool {
        self.cookies
    }

    /// Places of each processor's rings of flows that are over, so that these fill no table.
    #[must_use]
    pub fn ended_places(&self) -> u32 {
        self.capacities.ended_places()
    }

    /// Room in `ACCESS4` and in `ACCESS6` as they are.
    #[must_use]
    pub fn max_rules(&self) -> u32 {
        self.capacities.prefixes
    }

    /// The maps whose pinned capacity was kept against the configuration.
    #[must_use]
    pub fn capacities_kept(&self) -> &[CapacityKept] {
        &self.kept
    }

    /// Where everything is pinned.
    #[must_use]
    pub const fn pins(&self) -> &LockedPins {
        &self.pins
    }

    /// Opens the maps.
    ///
    /// # Errors
    /// If a map can not be opened.
    pub fn maps(&self) -> Result<Maps, DatapathError> {
        Maps::open(&self.pins)
    }

    /// Attaches the program to an interface of the calling thread's network namespace, or
    /// replaces the one its pinned link holds, without losing a packet. Does nothing if
    /// `mode` is `Off`.
    ///
    /// # Errors
    /// If the interface is missing, taken by another program, or its driver refuses.
    /// What was attached before is then still attached.
    pub fn attach(
        &mut self,
        interface: &str,
        mode: AttachMode,
    ) -> Result<Option<Attachment>, DatapathError> {
        if mode == AttachMode::Off {
            return Ok(None);
        }
        let programs = self.traced.as_mut().unwrap_or(&mut self.programs);
        stages::pin(programs.stages()?, &self.pins)?;
        let (program, pin) = (programs.entry()?, self.pins.program());
        let attached = attach::attach(program, &self.pins, interface, mode)
            .and_then(|attached| attach::pin_program(program, &self.pins, &pin).map(|()| attached));
        self.prune();
        if attached.is_ok() && self.traced.is_none() {
            self.note_origin();
        }
        attached.map(Some)
    }

    /// Notes what the pinned programs are, so that the next agent need not load them.
    fn note_origin(&mut self) {
        let Some(origin) = self.origin.take() else { return };
        if let Err(error) = origin.pin(&self.pins) {
            let error = anyhow::Error::from(error);
            tracing::warn!("the next start will load the programs anew: {error:#}");
        }
    }

    /// Takes the program off an interface; false if it was not attached there. Its flows
    /// stay in the maps.
    ///
    /// # Errors
    /// If the link's pin can not be removed.
    pub fn detach(&mut self, interface: &str) -> Result<bool, DatapathError> {
        let detached = attach::detach(&self.pins, interface)?;
        self.prune();
        Ok(detached)
    }

    /// Forgets stages that no interface needs any more.
    fn prune(&self) {
        // Stages left behind cost memory and do no harm; the next attachment tries again.
        drop(stages::prune(&self.pins));
    }

    /// Runs the program on one packet as `BPF_PROG_TEST_RUN` does: verdict and the packet
    /// afterwards.
    ///
    /// # Errors
    /// If the kernel refuses the packet (less than 14 bytes, for one).
    pub fn test_run(&mut self, packet: &[u8]) -> Result<(u32, Vec<u8>), DatapathError> {
        canned::test_run(self.programs.entry()?, packet)
    }
}

/// Takes the program off every interface and removes every pin: forwarding stops. With
/// `keep_maps`, flows and configuration stay for the next start.
///
/// # Errors
/// If a pin can not be removed; the others are removed all the same.
pub fn remove(pins: &LockedPins, keep_maps: bool) -> Result<(), DatapathError> {
    let links = pins.linked_interfaces()?.into_iter().map(|interface| pins.link(&interface));
    let programs = pins.replaced();
    let maps = map::ALL.iter().filter(|_| !keep_maps).map(|name| pins.map(name));
    let mut result = Ok(());
    let stages = pins.all_stages()?;
    for pin in links.chain(programs).chain(stages).chain(maps) {
        if let Err(error) = pins.remove(&pin) {
            result = Err(error.into());
        }
    }
    result
}

/// What a start finds pinned.
enum Finding {
    /// Maps of this ABI version, or nothing.
    Good,
    /// Maps of a start that ended before it could use them.
    HalfMade,
}

/// Whether what is pinned can be adopted.
///
/// Maps are pinned one after the other, and `SETTINGS` says its version as soon as all are:
/// before any interface gets the program. So pins without a version and without an interface
/// hold nothing that anybody needs.
///
/// # Errors
/// If the maps were made by another ABI version, or nobody knows by which.
fn judge_pins(pins: &LockedPins) -> Result<Finding, DatapathError> {
    let path = pins.map(map::SETTINGS);
    let foreign = |found: String| PinsError::ForeignAbi {
        directory: pins.directory().to_owned(),
        found,
        expected: ABI_VERSION,
    };
    let unfinished = || match pins.linked_interfaces()?.is_empty() {
        true => Ok(Finding::HalfMade),
        false => Err(foreign("unknown".into()).into()),
    };
    if !path.exists() {
        let any = map::ALL.iter().any(|name| pins.map(name).exists());
        return if any { unfinished() } else { Ok(Finding::Good) };
    }
    let version = abi_version(path).map_err(|source| MapAccessError::Access {
        action: "read",
        map: map::SETTINGS,
        source,
    })?;
    match version {
        Some(ABI_VERSION) => Ok(Finding::Good),
        Some(0) => unfinished(),
        Some(other) => Err(foreign(other.to_string()).into()),
        None => Err(foreign("unknown".into()).into()),
    }
}

/// The version in a pinned `SETTINGS`, which starts with it in every version; none if it is
/// no array.
fn abi_version(path: PathBuf) -> Result<Option<u32>, MapError> {
    let data = MapData::from_pin(path)?;
    if data.info()?.map_type()? != MapType::Array {
        return Ok(None);
    }
    Ok(Some(batch::word(&data, 0)?))
}

/// Makes or adopts the maps, loads the programs and tries the one that is attached; those and
/// what there is to note of them.
fn load_object(
    pins: &LockedPins,
    capacities: Capacities,
    fingerprint: Fingerprint,
) -> Result<(Ebpf, Option<Origin>), DatapathError> {
    let mut loader = EbpfLoader::new();
    for name in map::ALL {
        loader.map_pin_path(name, pins.map(name));
        if let Some(entries) = capacities.get(name) {
            loader.map_max_entries(name, entries);
        }
    }
    let mut object = loader.load(PROGRAM_OBJECT).map_err(load_failed)?;
    let mut maps = Maps::open(pins)?;
    if maps.settings()?.abi_version == 0 {
        let settings = Settings {
            half_open_buckets: capacities.half_open,
            ended_places: capacities.ended_places(),
            ..Settings::default()
        };
        maps.set_settings(&settings)?;
    }
    stages::load(&mut object)?;
    canned::try_canned(stages::program(&mut object, PROGRAM)?)?;
    stages::load_run_by_agent(&mut object)?;
    for name in RUN_BY_AGENT {
        let program = stages::program(&mut object, name)?;
        attach::pin_program(program, pins, &pins.run_by_agent(name))?;
    }
    #[cfg(feature = "dataplane-log")]
    super::packet_log::start(&mut object)?;
    let origin = Programs::origin_of(&object, fingerprint, pins);
    let origin = origin.inspect_err(|doubt| tracing::warn!("nothing is noted: {doubt}"));
    Ok((object, origin.ok()))
}

/// Who is to blame for an object that did not load.
pub(super) fn load_failed(error: EbpfError) -> DatapathError {
    let (map, source) = match error {
        EbpfError::MapError(MapError::CreateError { name, io_error }) => (name, io_error),
        other => return ProgramFault::Object(other).into(),
    };
    match source.raw_os_error() {
        Some(libc::ENOMEM | libc::E2BIG) => HostError::Memory { map, source }.into(),
        Some(libc::EPERM | libc::EACCES) => {
            HostError::Refused { action: "making maps", source }.into()
        }
        Some(libc::ENOSYS) => HostError::NoXdp { source }.into(),
        _ => {
            let error = MapError::CreateError { name: map, io_error: source };
            ProgramFault::Object(EbpfError::MapError(error)).into()
        }
    }
}

/// Who is to blame for a program that did not load.
pub(super) fn verify_failed(error: ProgramError) -> DatapathError {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return ProgramFault::Verifier(error).into();
    };
    let silent = verifier_log.to_string().trim().is_empty();
    match io_error.raw_os_error() {
        Some(libc::EPERM) if silent => {
            HostError::Refused { action: "loading the program", source: io_error }.into()
        }
        Some(libc::ENOMEM) => HostError::Memory { map: "unknown".into(), source: io_error }.into(),
        // The kernel does not know the program type.
        Some(libc::EINVAL | libc::ENOSYS) if silent => HostError::NoXdp { source: io_error }.into(),
        _ => ProgramFault::Verifier(ProgramError::LoadError { io_error, verifier_log }).into(),
    }
}
