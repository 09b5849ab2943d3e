//! Making a ring: an array map with one slot an entry, filled before anybody sees it.

use aya::maps::MapData;
use aya_obj::generated::bpf_map_type;
use lb_common::{
    abi::{RING_SLOTS, map},
    backend::RingSlot,
};

use super::{
    batch::{self, BatchMap},
    error::MapAccessError,
};

/// Flags of a ring; the kernel takes it into `RINGS` only if they equal the template's.
pub(crate) const FLAGS: u32 = 0;

const INDEX_BYTES: u32 = 4;
const SLOT_BYTES: u32 = 4;
const _: () = assert!(size_of::<RingSlot>() == SLOT_BYTES as usize);

/// A new map that holds `slots`; 10 ms.
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
        SLOT_BYTES,
        RING_SLOTS,
        FLAGS,
    );
    let data = MapData::create(definition, "ring", None).map_err(|source| {
        MapAccessError::Access { action: "make a ring for", map: map::RINGS, source }
    })?;
    let ring = BatchMap::<u32, RingSlot>::new(map::RINGS, data)?;
    let indices: Vec<u32> = (0..RING_SLOTS).collect();
    ring.update(&indices, slots)?;
    Ok(ring.into_data())
}

/// Takes the ring of a backend out of `RINGS`; not an error if there is none.
///
/// # Errors
/// If there is no such id.
pub(crate) fn remove(rings: &MapData, backend: u16) -> Result<(), MapAccessError> {
    match batch::delete_one(rings, &u32::from(backend)) {
        Ok(_) => Ok(()),
        Err(source) => {
            Err(MapAccessError::Call { action: "remove a ring from", map: map::RINGS, source })
        }
    }
}
