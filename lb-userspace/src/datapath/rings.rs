//! Making a ring: an array map of lines, filled before anybody sees it.

use aya::maps::MapData;
use aya_obj::generated::bpf_map_type;
use lb_common::{
    abi::{RING_SLOTS, map},
    flow::Handle,
    ring::{self, RingLine, RingSlot},
};

use super::{
    batch::{self, BatchMap},
    error::MapAccessError,
};

/// Flags of a ring; the kernel takes it only if they, and its length, equal the template's.
pub(crate) const FLAGS: u32 = 0;

const INDEX_BYTES: u32 = 4;
const LINE_BYTES: u32 = 64;
const _: () = assert!(size_of::<RingLine>() == LINE_BYTES as usize);

/// Which of the two maps a ring belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// `RINGS`.
    Small,
    /// `LARGE_RINGS`: there are more servers than a small one can list.
    Large,
}

impl Size {
    /// The map.
    #[must_use]
    pub const fn map(self) -> &'static str {
        match self {
            Self::Small => map::RINGS,
            Self::Large => map::LARGE_RINGS,
        }
    }
}

/// A new map that holds `slots` and that nobody can write to any more: less than 1 ms, or 2 if
/// it is large.
///
/// # Errors
/// If `slots` are not [`RING_SLOTS`], or the kernel has no memory.
pub fn build(slots: &[RingSlot]) -> Result<(Size, MapData), MapAccessError> {
    if slots.len() != RING_SLOTS as usize {
        let expected = RING_SLOTS as usize;
        return Err(MapAccessError::RingSlots { found: slots.len(), expected });
    }
    let (size, lines) = match small(slots) {
        Some(lines) => (Size::Small, lines),
        None => (Size::Large, large(slots)),
    };
    let length = u32::try_from(lines.len()).unwrap_or(u32::MAX);
    let definition = aya_obj::Map::new_from_params(
        bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
        INDEX_BYTES,
        LINE_BYTES,
        length,
        FLAGS,
    );
    let map = size.map();
    let data = MapData::create(definition, "ring", None)
        .map_err(|source| MapAccessError::Access { action: "make a ring for", map, source })?;
    let ring = BatchMap::<u32, RingLine>::new(map, data)?;
    let indices: Vec<u32> = (0..length).collect();
    ring.update(&indices, &lines)?;
    let data = ring.into_data();
    batch::freeze(&data).map_err(|source| MapAccessError::Call {
        action: "freeze a ring for",
        map,
        source,
    })?;
    Ok((size, data))
}

/// The lines of a ring in `RINGS`, servers listed as slots name them first; none if there are too
/// many.
fn small(slots: &[RingSlot]) -> Option<Vec<RingLine>> {
    let mut servers: Vec<Handle> = Vec::new();
    let mut lines = vec![RingLine::default(); ring::LINES as usize];
    for (number, slot) in (0..).zip(slots) {
        let known = servers.iter().position(|server| *server == slot.server);
        let place = known.unwrap_or_else(|| {
            servers.push(slot.server);
            servers.len() - 1
        });
        if place >= ring::MOST_LISTED {
            return None;
        }
        let line = lines.get_mut(ring::line_of(number) as usize)?;
        line.set_place(number, u32::try_from(place).ok()?);
    }
    let list = lines.get_mut(ring::LIST as usize)?;
    list.words.iter_mut().zip(servers).for_each(|(to, from)| *to = from.to_bits());
    Some(lines)
}

/// The lines of a ring in `LARGE_RINGS`; the last is filled up.
fn large(slots: &[RingSlot]) -> Vec<RingLine> {
    let line = |slots: &[RingSlot]| {
        let mut line = RingLine::default();
        line.words.iter_mut().zip(slots).for_each(|(to, from)| *to = from.server.to_bits());
        line
    };
    slots.chunks(RingLine::default().words.len()).map(line).collect()
}

/// The slots of a ring's lines.
#[must_use]
pub fn slots(size: Size, lines: &[RingLine]) -> Vec<RingSlot> {
    let line = |index: u32| lines.get(index as usize).copied().unwrap_or_default();
    let list = line(ring::LIST);
    let server = |slot: u32| match size {
        Size::Small => list.listed(line(ring::line_of(slot)).place(slot)),
        Size::Large => line(ring::large_line_of(slot)).server(slot),
    };
    (0..RING_SLOTS).map(|slot| RingSlot { server: Handle::from_bits(server(slot)) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(servers: u16) -> Vec<RingSlot> {
        let slot = |number: u32| {
            let id = u16::try_from(number.wrapping_mul(0x9e37_79b1) % u32::from(servers));
            RingSlot { server: Handle { id: id.expect("small"), generation: 7 } }
        };
        (0..RING_SLOTS).map(slot).collect()
    }

    #[test]
    fn lines_hold_the_slots_whatever_servers_there_are() {
        for servers in [1, 2, 10, 16] {
            let ring = of(servers);
            let lines = small(&ring).expect("few servers");
            assert_eq!(lines.len(), ring::LINES as usize);
            assert!(slots(Size::Small, &lines) == ring, "{servers} servers");
        }
        for servers in [1, 17, 4096] {
            let ring = of(servers);
            assert_eq!(small(&ring).is_some(), servers <= 16, "{servers} servers");
            let lines = large(&ring);
            assert_eq!(lines.len(), ring::LARGE_LINES as usize);
            assert!(slots(Size::Large, &lines) == ring, "{servers} servers");
        }
    }

    #[test]
    fn a_slot_without_a_server_stays_one() {
        let mut ring = of(3);
        ring[17] = RingSlot::default();
        assert!(slots(Size::Small, &small(&ring).expect("few servers")) == ring);
        let nobody = vec![RingSlot::default(); RING_SLOTS as usize];
        assert!(slots(Size::Small, &small(&nobody).expect("nobody")) == nobody);
    }
}
