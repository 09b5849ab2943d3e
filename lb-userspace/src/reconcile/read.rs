//! Reading what the maps hold. Decides nothing.

use super::actual::Actual;
use crate::datapath::{DatapathError, Maps};

impl Actual {
    /// Reads the maps; a few milliseconds.
    ///
    /// # Errors
    /// If a map can not be read.
    pub fn read(maps: &Maps) -> Result<Self, DatapathError> {
        let by_id = |index: usize| u16::try_from(index).unwrap_or(u16::MAX);
        let used_backends = maps.backends()?.into_iter().enumerate();
        let used_servers = maps.servers()?.into_iter().enumerate();
        let words = (0_u32..).zip(maps.filter()?);
        Ok(Self {
            settings: maps.settings()?,
            vips: maps.vips()?.into_iter().collect(),
            backends: used_backends
                .filter(|(_, entry)| entry.generation != 0)
                .map(|(index, entry)| (by_id(index), entry))
                .collect(),
            servers: used_servers
                .filter(|(_, entry)| entry.generation != 0)
                .map(|(index, entry)| (by_id(index), entry))
                .collect(),
            rings: maps.rings()?.into_iter().collect(),
            filter: words
                .filter(|(_, word)| word.bits != 0)
                .map(|(index, word)| (index, word.bits))
                .collect(),
        })
    }
}
