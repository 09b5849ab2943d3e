//! The shape of maps: what the object asks for against what is pinned. aya adopts a
//! pinned map without comparing, and a larger value there would overrun its buffers.

use std::fmt;

use aya::maps::{MapInfo, MapType};
use aya_obj::{Object, generated::bpf_map_type};
use lb_common::{abi::map, ended, half_open};

use super::{
    error::{DatapathError, MapAccessError, PinsError, ProgramFault},
    pins::Pins,
};
use crate::model::snapshot::Datapath;

/// Capacities that the configuration decides, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Of `FLOWS4` and of `FLOWS6`.
    pub flows: u32,
    /// Of `HALF_OPEN4` and of `HALF_OPEN6`; an entry is a bucket.
    pub half_open: u32,
    /// Of `ACCESS4` and of `ACCESS6`.
    pub prefixes: u32,
    /// Of `SOURCES` and of `AFFINITY`.
    pub sources: u32,
}

impl Capacities {
    /// A confirmed flow takes two entries; a bucket has room for four half-open ones.
    #[must_use]
    pub const fn of(configuration: &Datapath) -> Self {
        Self {
            flows: configuration.max_flows.saturating_mul(2),
            half_open: configuration.max_half_open.div_ceil(half_open::FLOWS_PER_BUCKET),
            prefixes: configuration.max_prefixes,
            sources: configuration.max_sources,
        }
    }

    /// Places of each processor's rings of flows that are over.
    pub(crate) fn ended_places(self) -> u32 {
        // As many as the kernel makes values of a per-CPU map for; without a number, the rings
        // are as short as on a very large machine.
        let processors = aya::util::nr_cpus().unwrap_or(1024);
        ended::places(self.flows, u32::try_from(processors).unwrap_or(u32::MAX))
    }

    /// These, save for the maps that keep another one. Both families of a table are sized
    /// alike, always.
    pub(crate) fn except(self, kept: &[CapacityKept]) -> Self {
        let of = |four, six, configured: u32| {
            let kept = kept.iter().filter(|kept| [four, six].contains(&kept.map));
            kept.map(|kept| kept.pinned).min().unwrap_or(configured)
        };
        Self {
            flows: of(map::FLOWS4, map::FLOWS6, self.flows),
            half_open: of(map::HALF_OPEN4, map::HALF_OPEN6, self.half_open),
            prefixes: of(map::ACCESS4, map::ACCESS6, self.prefixes),
            sources: of(map::SOURCES, map::AFFINITY, self.sources),
        }
    }

    /// The capacity of a map; none if the configuration does not decide it.
    pub(crate) fn get(&self, name: &str) -> Option<u32> {
        match name {
            map::FLOWS4 | map::FLOWS6 => Some(self.flows),
            map::HALF_OPEN4 | map::HALF_OPEN6 => Some(self.half_open),
            map::ACCESS4 | map::ACCESS6 => Some(self.prefixes),
            map::SOURCES | map::AFFINITY => Some(self.sources),
            _ => None,
        }
    }
}

/// A pinned map keeps a capacity that the configuration has changed: its flows matter more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapacityKept {
    /// The map.
    pub map: &'static str,
    /// Entries it has.
    pub pinned: u32,
    /// Entries the configuration asks for.
    pub configured: u32,
}

impl fmt::Display for CapacityKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { map, pinned, configured } = self;
        write!(
            f,
            "map {map} keeps its {pinned} entries where the configuration asks for {configured}, \
             because what is in it would be lost; stop the agent with --detach-on-exit and start it \
             to change the size"
        )
    }
}

/// What a map's users rely on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shape {
    pub(super) kind: MapType,
    pub(super) key: u32,
    pub(super) value: u32,
    pub(super) entries: u32,
    pub(super) flags: u32,
}

/// Compares every pinned map with the object; the capacities that are kept.
///
/// # Errors
/// If a map differs in anything but a configured capacity.
pub(crate) fn compare(
    object: &Object,
    pins: &Pins,
    capacities: Capacities,
) -> Result<Vec<CapacityKept>, DatapathError> {
    let mut kept = Vec::new();
    for name in map::ALL {
        let wanted = wanted(object, name, capacities)?;
        let path = pins.map(name);
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path).map_err(|source| inspect(name, source))?;
        let found = pinned(&info).map_err(|source| inspect(name, source))?;
        let difference = difference(wanted, found, capacities.get(name).is_some());
        if let Some((what, expected, found)) = difference {
            let directory = pins.directory().to_owned();
            let map = name.to_owned();
            return Err(PinsError::OtherShape { directory, map, what, found, expected }.into());
        }
        if wanted.entries != found.entries {
            let (pinned, configured) = (found.entries, wanted.entries);
            kept.push(CapacityKept { map: name, pinned, configured });
        }
    }
    Ok(kept)
}

fn inspect(map: &'static str, source: aya::maps::MapError) -> MapAccessError {
    MapAccessError::Access { action: "inspect", map, source }
}

/// The shape of a map of an object at these capacities.
pub(super) fn wanted(
    object: &Object,
    name: &'static str,
    capacities: Capacities,
) -> Result<Shape, ProgramFault> {
    let map = object.maps.get(name).ok_or(ProgramFault::Lacks(name))?;
    let kind = bpf_map_type::try_from(map.map_type())
        .ok()
        .and_then(|kind| MapType::try_from(kind).ok())
        .ok_or(ProgramFault::Lacks(name))?;
    // A ring buffer has neither keys nor values; the object names the type of its records.
    let records = kind == MapType::RingBuf;
    Ok(Shape {
        kind,
        key: if records { 0 } else { map.key_size() },
        value: if records { 0 } else { map.value_size() },
        entries: capacities.get(name).unwrap_or(map.max_entries()),
        flags: map.map_flags(),
    })
}

fn pinned(info: &MapInfo) -> Result<Shape, aya::maps::MapError> {
    Ok(Shape {
        kind: info.map_type()?,
        key: info.key_size(),
        value: info.value_size(),
        entries: info.max_entries(),
        flags: info.map_flags(),
    })
}

/// The first property that may not differ and does: its name, wanted, found.
fn difference(
    wanted: Shape,
    found: Shape,
    configured_capacity: bool,
) -> Option<(&'static str, String, String)> {
    if wanted.kind != found.kind {
        return Some(("type", format!("{:?}", wanted.kind), format!("{:?}", found.kind)));
    }
    let numbers = [
        ("key size", wanted.key, found.key),
        ("value size", wanted.value, found.value),
        ("flags", wanted.flags, found.flags),
        ("max_entries", wanted.entries, found.entries),
    ];
    let (what, wanted, found) = numbers
        .into_iter()
        .filter(|(what, ..)| !(configured_capacity && *what == "max_entries"))
        .find(|(_, wanted, found)| wanted != found)?;
    Some((what, wanted.to_string(), found.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::{object::PROGRAM_OBJECT, rings};
    use lb_common::ring;

    const SHAPE: Shape = Shape { kind: MapType::Hash, key: 16, value: 80, entries: 100, flags: 0 };

    #[test]
    fn a_configured_capacity_may_differ_and_others_may_not() {
        let larger = Shape { entries: 200, ..SHAPE };
        assert_eq!(difference(SHAPE, larger, true), None);
        let expected = Some(("max_entries", "100".to_owned(), "200".to_owned()));
        assert_eq!(difference(SHAPE, larger, false), expected);
    }

    #[test]
    fn every_other_property_must_agree() {
        let check = |found: Shape, what: &str| {
            let difference = difference(SHAPE, found, true).expect("a difference");
            assert_eq!(difference.0, what);
        };
        check(Shape { kind: MapType::LruHash, ..SHAPE }, "type");
        check(Shape { key: 40, ..SHAPE }, "key size");
        check(Shape { value: 72, ..SHAPE }, "value size");
        check(Shape { flags: 1, ..SHAPE }, "flags");
    }

    #[test]
    fn the_object_has_every_map_of_the_abi() {
        let object = Object::parse(PROGRAM_OBJECT).expect("the embedded object parses");
        for name in map::ALL {
            wanted(&object, name, Capacities { flows: 8, half_open: 8, prefixes: 8, sources: 8 })
                .expect(name);
        }
    }

    #[test]
    fn rings_are_made_like_the_template_in_the_object() {
        let object = Object::parse(PROGRAM_OBJECT).expect("the embedded object parses");
        for (name, lines) in [(map::RINGS, ring::LINES), (map::LARGE_RINGS, ring::LARGE_LINES)] {
            let template = object.maps[name].inner().expect("a template");
            assert_eq!(template.max_entries(), lines);
            assert_eq!(template.value_size() as usize, size_of::<ring::RingLine>());
            assert_eq!(template.map_flags(), rings::FLAGS);
        }
    }
}
