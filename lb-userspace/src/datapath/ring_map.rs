//! One of the two maps of rings: `RINGS`, `LARGE_RINGS`.

use aya::maps::{Array, ArrayOfMaps, Map, MapData, MapError};
use lb_common::ring::{RingLine, RingSlot};

use super::{
    batch::BatchMap,
    error::{DatapathError, MapAccessError},
    maps::{Source, batched, typed},
    rings::{self, Size},
};

/// Rings of one size, by backend id.
pub(super) struct RingMap {
    size: Size,
    rings: ArrayOfMaps<MapData, Array<MapData, RingLine>>,
    /// The same map once more: aya's type has no removal and does not tell the ids of rings.
    ids: BatchMap<u32, u32>,
}

impl RingMap {
    pub(super) fn open(source: &impl Source, size: Size) -> Result<Self, DatapathError> {
        let map = size.map();
        Ok(Self { size, rings: typed(source, map)?, ids: batched(source, map)? })
    }

    /// The slots of a ring; none if there is none.
    pub(super) fn get(&self, backend: u16) -> Result<Option<Vec<RingSlot>>, MapAccessError> {
        let failed = |source| self.failed("read", source);
        let ring = match self.rings.get(&u32::from(backend), 0) {
            Ok(ring) => ring,
            Err(MapError::KeyNotFound) => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        let lines: Result<Vec<RingLine>, MapError> = ring.iter().collect();
        Ok(Some(rings::slots(self.size, &lines.map_err(failed)?)))
    }

    /// Puts a ring there; the id of its map.
    pub(super) fn set(&mut self, backend: u16, data: MapData) -> Result<u32, MapAccessError> {
        let map = self.size.map();
        let failed = |action| move |source| MapAccessError::Access { action, map, source };
        let id = data.info().map_err(failed("inspect a ring for"))?.id();
        let ring = Array::try_from(Map::Array(data)).map_err(failed("write"))?;
        self.rings.set(u32::from(backend), &ring, 0).map_err(failed("write"))?;
        Ok(id)
    }

    /// Takes a ring away; not an error if there is none.
    pub(super) fn remove(&self, backend: u16) -> Result<(), MapAccessError> {
        self.ids.remove(&u32::from(backend)).map(drop)
    }

    /// The backends that have one, ascending, and the ids of the rings' maps.
    pub(super) fn ids(&self) -> Result<Vec<(u16, u32)>, MapAccessError> {
        let ids = self.ids.elements()?.into_iter();
        Ok(ids.filter_map(|(backend, id)| Some((u16::try_from(backend).ok()?, id))).collect())
    }

    fn failed(&self, action: &'static str, source: MapError) -> MapAccessError {
        MapAccessError::Access { action, map: self.size.map(), source }
    }
}
