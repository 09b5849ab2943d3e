//! What is known of the pinned programs: what they were loaded from, and over which maps. It is
//! what lets an agent go on with the programs of the one before it, in place of having the
//! verifier read the same ones once more.
//!
//! Whoever loads programs notes it in a map that is frozen before it is pinned (`DIRECTORY/origin`),
//! so that nobody changes what it says. It speaks of programs and maps by the kernel's ids, which
//! nothing else gets before the next boot, and a BPF file system ends with the boot. So a note
//! that others moved here, or that something else was pinned beside since, speaks of other
//! ids than those that are found; and whoever is in doubt loads anew (decision 0041).

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use aya::{
    maps::{MapData, MapError, MapInfo},
    programs::{ProgramError, Xdp},
};
use aya_obj::{generated::bpf_map_type, programs::XdpAttachType};
use lb_common::{
    abi::{RUN_BY_AGENT, map},
    stage::Stage,
};
use sha2::{Digest as _, Sha256};

use super::{
    batch::{self, BatchMap},
    error::{DatapathError, MapAccessError, PinsError},
    pins::Pins,
};

/// Changes with what is made of the same object: how it is loaded, how stages find each other.
const METHOD: u32 = 1;

const STAGES: usize = Stage::ALL.len();
const MAPS: usize = map::ALL.len();
const RUN: usize = RUN_BY_AGENT.len();
const WORDS: usize = 8 + 4 + RUN + STAGES + MAPS;

/// As it is in the map.
type Words = [u32; WORDS];

/// What programs are made from, as a number of 256 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint([u32; 8]);

impl Fingerprint {
    /// Of an object and of what is decided while it is loaded: whether there are stages that
    /// need SYN cookies. Another release of the agent has another one in any case.
    pub(super) fn of(object: &[u8], cookies: bool) -> Self {
        let mut hash = Sha256::new();
        let release = env!("CARGO_PKG_VERSION").as_bytes();
        hash.update(METHOD.to_le_bytes());
        hash.update([u8::from(cookies)]);
        hash.update((release.len() as u64).to_le_bytes());
        hash.update(release);
        hash.update(object);
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(hash.finalize().chunks_exact(4)) {
            *word = bytes.try_into().map_or(0, u32::from_le_bytes);
        }
        Self(words)
    }
}

/// Programs of one load, and what they belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    fingerprint: Fingerprint,
    /// Id of the program that is attached, and the kernel's hash of its instructions.
    entry: u32,
    tag: u64,
    /// Ids of the programs that the agent runs, in the order of [`RUN_BY_AGENT`].
    run_by_agent: [u32; RUN],
    /// Id of the array of stages, and of each stage's program; 0 if it has none.
    array: u32,
    stages: [u32; STAGES],
    /// Ids of the pinned maps, in the order of [`map::ALL`].
    maps: [u32; MAPS],
}

/// Programs that need not be loaded, because an agent before has done it.
#[derive(Debug)]
pub(super) struct Adopted {
    /// The program that is attached.
    pub(super) entry: Xdp,
    /// The array of the stages behind it.
    pub(super) stages: MapData,
}

/// Why pinned programs are not gone on with.
#[derive(Debug, thiserror::Error)]
pub enum Doubt {
    /// There are none, or nobody noted what they are.
    #[error("{0} is not pinned")]
    Missing(&'static str),
    /// Something about them can not be read.
    #[error("{0} can not be read")]
    Unreadable(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// The note is none of ours.
    #[error("the note of what was loaded is not an agent's")]
    Foreign,
    /// They do not do what they should.
    #[error("the program was tried")]
    Faulty(#[source] Box<DatapathError>),
    /// They are not what this agent would load, or not what was noted.
    #[error("{0} differ from what was noted")]
    Other(&'static str),
}

impl Origin {
    /// What is pinned, as programs of that fingerprint.
    pub(super) fn of(
        fingerprint: Fingerprint,
        entry: &Xdp,
        run_by_agent: [&Xdp; RUN],
        stages: &MapData,
        pins: &Pins,
    ) -> Result<Self, Doubt> {
        let program = |error: ProgramError| unreadable("a program", error);
        let map = |error: MapError| unreadable("a map", error);
        let info = entry.info().map_err(program)?;
        let mut origin = Self {
            fingerprint,
            entry: info.id(),
            tag: info.tag(),
            run_by_agent: [0; RUN],
            array: stages.info().map_err(map)?.id(),
            stages: [0; STAGES],
            maps: [0; MAPS],
        };
        for (run, id) in run_by_agent.into_iter().zip(&mut origin.run_by_agent) {
            *id = run.info().map_err(program)?.id();
        }
        for (stage, id) in Stage::ALL.into_iter().zip(&mut origin.stages) {
            *id = program_in(stages, stage).map_err(|error| unreadable("the stages", error))?;
        }
        for (name, id) in map::ALL.into_iter().zip(&mut origin.maps) {
            *id = MapInfo::from_pin(pins.map(name)).map_err(map)?.id();
        }
        Ok(origin)
    }

    /// Notes it for the next agent, in the place of what was noted before.
    ///
    /// # Errors
    /// If the kernel has no memory for a map, or it can not be pinned.
    pub(super) fn pin(&self, pins: &Pins) -> Result<(), DatapathError> {
        const NAME: &str = "origin";
        let size = u32::try_from(size_of::<Words>()).unwrap_or(u32::MAX);
        let kind = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
        let definition = aya_obj::Map::new_from_params(kind, 4, size, 1, 0);
        let failed = |source| MapAccessError::Access { action: "make", map: NAME, source };
        let data = MapData::create(definition, NAME, None).map_err(failed)?;
        let note = BatchMap::<u32, Words>::new(NAME, data)?;
        note.update(&[0], &[self.words()])?;
        let data = note.into_data();
        let failed = |source| MapAccessError::Call { action: "freeze", map: NAME, source };
        batch::freeze(&data).map_err(failed)?;
        pins.replace(&pins.origin(), |path| {
            data.pin(path).map_err(|source| PinsError::Pin { path: path.to_owned(), source })
        })?;
        Ok(())
    }

    /// What was noted.
    fn read(path: &Path) -> Result<Self, Doubt> {
        if !path.exists() {
            return Err(Doubt::Missing("a note of what was loaded"));
        }
        let what = "the note of what was loaded";
        let data = MapData::from_pin(path).map_err(|error| unreadable(what, error))?;
        if !is_frozen(&data).map_err(|error| unreadable(what, error))? {
            return Err(Doubt::Foreign);
        }
        let note = BatchMap::<u32, Words>::new("origin", data).map_err(|_| Doubt::Foreign)?;
        let words = note.get(&0).map_err(|error| unreadable(what, error))?;
        let words = words.ok_or(Doubt::Foreign)?;
        Ok(Self::of_words(&words))
    }

    fn words(&self) -> Words {
        let [low, high] = [self.tag & u64::from(u32::MAX), self.tag >> 32];
        let [low, high] = [low, high].map(|half| u32::try_from(half).unwrap_or(u32::MAX));
        let numbers = [self.entry, low, high, self.array];
        let all = self.fingerprint.0.iter().chain(&numbers).chain(&self.run_by_agent);
        let all = all.chain(&self.stages).chain(&self.maps);
        let mut words = [0; WORDS];
        words.iter_mut().zip(all).for_each(|(to, from)| *to = *from);
        words
    }

    fn of_words(words: &Words) -> Self {
        let mut rest = words.iter().copied();
        let mut next = || rest.next().unwrap_or_default();
        Self {
            fingerprint: Fingerprint(std::array::from_fn(|_| next())),
            entry: next(),
            tag: u64::from(next()) | u64::from(next()) << 32,
            array: next(),
            run_by_agent: std::array::from_fn(|_| next()),
            stages: std::array::from_fn(|_| next()),
            maps: std::array::from_fn(|_| next()),
        }
    }

    /// What differs first; none if nothing does.
    fn difference(&self, found: &Self) -> Option<&'static str> {
        let pairs = [
            (self.fingerprint == found.fingerprint, "the object and how it is loaded"),
            (self.maps == found.maps, "the maps"),
            (self.entry == found.entry && self.tag == found.tag, "the program"),
            (self.run_by_agent == found.run_by_agent, "the programs behind the sweep"),
            (self.array == found.array && self.stages == found.stages, "the stages"),
        ];
        pairs.into_iter().find(|(same, _)| !same).map(|(_, what)| what)
    }
}

/// The pinned programs, if they are what this agent would load, over the maps that are pinned.
pub(super) fn adopt(pins: &Pins, fingerprint: Fingerprint) -> Result<Adopted, Doubt> {
    let noted = Origin::read(&pins.origin())?;
    let program = |path: &Path, what| match path.exists() {
        true => {
            Xdp::from_pin(path, XdpAttachType::Interface).map_err(|error| unreadable(what, error))
        }
        false => Err(Doubt::Missing(what)),
    };
    let entry = program(&pins.program(), "the program")?;
    let run = |name| program(&pins.run_by_agent(name), "a program behind the sweep");
    let [settle, expire4, expire6] = RUN_BY_AGENT.map(run);
    let (settle, expire4, expire6) = (settle?, expire4?, expire6?);
    let run_by_agent = [&settle, &expire4, &expire6];
    let path = pins.stages(noted.array);
    if !path.exists() {
        return Err(Doubt::Missing("the array of stages"));
    }
    let stages = MapData::from_pin(path).map_err(|error| unreadable("the stages", error))?;
    let found = Origin::of(fingerprint, &entry, run_by_agent, &stages, pins)?;
    match noted.difference(&found) {
        Some(what) => Err(Doubt::Other(what)),
        None => Ok(Adopted { entry, stages }),
    }
}

/// Id of a stage's program; 0 if it has none.
fn program_in(stages: &MapData, stage: Stage) -> io::Result<u32> {
    match batch::word(stages, stage as u32) {
        // The kernel says so of an empty place.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        other => other,
    }
}

/// Whether nobody can write to a map any more; the kernel tells that of a descriptor alone.
fn is_frozen(map: &MapData) -> io::Result<bool> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
    Ok(says_frozen(&text))
}

fn says_frozen(fdinfo: &str) -> bool {
    fdinfo.lines().any(|line| line.strip_prefix("frozen:").is_some_and(|rest| rest.trim() == "1"))
}

fn unreadable(
    what: &'static str,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Doubt {
    Doubt::Unreadable(what, error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin {
            fingerprint: Fingerprint::of(b"object", true),
            entry: 1,
            tag: 0x0123_4567_89ab_cdef,
            array: 3,
            run_by_agent: std::array::from_fn(|index| 4 + u32::try_from(index).expect("small")),
            stages: std::array::from_fn(|index| 100 + u32::try_from(index).expect("small")),
            maps: std::array::from_fn(|index| 200 + u32::try_from(index).expect("small")),
        }
    }

    #[test]
    fn what_is_noted_is_read_back() {
        assert_eq!(Origin::of_words(&origin().words()), origin());
    }

    #[test]
    fn another_object_or_another_switch_is_another_fingerprint() {
        let one = Fingerprint::of(b"object", true);
        assert_eq!(one, Fingerprint::of(b"object", true));
        for other in [Fingerprint::of(b"objecu", true), Fingerprint::of(b"object", false)] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn every_difference_is_a_doubt() {
        let check = |change: fn(&mut Origin), expected: &str| {
            let mut found = origin();
            change(&mut found);
            let what = origin().difference(&found).expect("a difference");
            assert!(what.contains(expected), "{what}");
        };
        check(|it| it.fingerprint = Fingerprint::of(b"object", false), "object");
        check(|it| it.maps[MAPS - 1] += 1, "maps");
        check(|it| it.entry += 1, "the program");
        check(|it| it.tag += 1, "the program");
        check(|it| it.run_by_agent[RUN - 1] += 1, "sweep");
        check(|it| it.array += 1, "stages");
        check(|it| it.stages[STAGES - 1] = 0, "stages");
        assert_eq!(origin().difference(&origin()), None);
    }

    #[test]
    fn only_a_frozen_map_is_taken_for_one() {
        assert!(says_frozen("map_type:\t2\nfrozen:\t1\n"));
        assert!(!says_frozen("map_type:\t2\nfrozen:\t0\n"));
        assert!(!says_frozen("map_type:\t2\n"));
    }
}
