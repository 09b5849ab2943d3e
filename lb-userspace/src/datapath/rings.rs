//! Making a ring: an array map of lines of slots, filled before anybody sees it.

use aya::maps::MapData;
use aya_obj::generated::bpf_map_type;
use lb_common::{
    abi::{RING_SLOTS, map},
    backend::{RING_LINES, RingLine, RingSlot, SLOTS_PER_LINE},
};

use super::{
    batch::{self, BatchMap},
    error::MapAccessError,
};

/// Flags of a ring; the kernel takes it into `RINGS` only if they equal the template's.
pub(crate) const FLAGS: u32 = 0;

const INDEX_BYTES: u32 = 4;
const LINE_BYTES: u32 = 64;
const _: () = assert!(size_of::<RingLine>() == LINE_BYTES as usize);

/// A new map that holds `slots` and that nobody can write to any more; 2 ms.
///
/// # Errors
/// If `slots` are not [`RING_SLOTS`], or the kernel has no memory.
pub(crate) fn build(slots: &[RingSlot]) -> Result<MapData, MapAccessError> {
    if slots.len() != RING_SLOTS as usize {
        let expected = RING_SLOTS as usize;
        return Err(MapAccessError::RingSlots { found: slots.len(), expected });
    }
    let definition = aya_obj::Map::new_from_params(
        bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
        INDEX_BYTES,
        LINE_BYTES,
        RING_LINES,
        FLAGS,
    );
    let data = MapData::create(definition, "ring", None).map_err(|source| {
        MapAccessError::Access { action: "make a ring for", map: map::RINGS, source }
    })?;
    let ring = BatchMap::<u32, RingLine>::new(map::RINGS, data)?;
    let indices: Vec<u32> = (0..RING_LINES).collect();
    ring.update(&indices, &lines(slots))?;
    let data = ring.into_data();
    batch::freeze(&data).map_err(|source| MapAccessError::Call {
        action: "freeze a ring for",
        map: map::RINGS,
        source,
    })?;
    Ok(data)
}

/// The lines of a ring; the last is filled up.
fn lines(slots: &[RingSlot]) -> Vec<RingLine> {
    let line = |slots: &[RingSlot]| {
        let mut line = RingLine::default();
        line.slots.iter_mut().zip(slots).for_each(|(to, from)| *to = *from);
        line
    };
    slots.chunks(SLOTS_PER_LINE as usize).map(line).collect()
}

/// The slots of a ring's lines.
pub(crate) fn slots(lines: &[RingLine]) -> Vec<RingSlot> {
    lines.iter().flat_map(|line| line.slots).take(RING_SLOTS as usize).collect()
}
