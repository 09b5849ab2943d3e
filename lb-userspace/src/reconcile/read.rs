//! Reading what the maps hold. Decides nothing.

use std::collections::BTreeMap;

use lb_common::{access::AdmissionEntry, backend::BackendEntry};

use super::{access::Rules, actual::Actual};
use crate::datapath::{DatapathError, Maps};

impl Actual {
    /// Reads the maps; a few milliseconds. The rules for sources are taken to be those that
    /// are `known`, because reading a hundred thousand takes longer than all the rest and
    /// nobody else writes them.
    ///
    /// # Errors
    /// If a map can not be read.
    pub fn read(maps: &Maps, known: Option<Rules>) -> Result<Self, DatapathError> {
        let rules = match known {
            Some(rules) => rules,
            None => {
                let mut rules = maps.rules()?;
                rules.sort_unstable_by_key(|(prefix, _)| *prefix);
                rules.into()
            }
        };
        let by_id = |index: usize| u16::try_from(index).unwrap_or(u16::MAX);
        let backends = maps.backends()?.into_iter().enumerate();
        let used_backends = backends.filter(|(_, entry)| entry.generation != 0);
        let mut backends: BTreeMap<u16, BackendEntry> =
            used_backends.map(|(index, entry)| (by_id(index), entry)).collect();
        for id in maps.exchanged_rings()? {
            // Whatever that ring is, the signature does not speak of it.
            backends.entry(id).and_modify(|entry| entry.ring_signature = 0);
        }
        let used_servers = maps.servers()?.into_iter().enumerate();
        let words = (0_u32..).zip(maps.filter()?);
        Ok(Self {
            settings: maps.settings()?,
            vips: maps.vips()?.into_iter().collect(),
            backends,
            servers: used_servers
                .filter(|(_, entry)| entry.generation != 0)
                .map(|(index, entry)| (by_id(index), entry))
                .collect(),
            rules,
            admissions: (0..)
                .zip(maps.admissions()?)
                .filter(|(_, entry)| *entry != AdmissionEntry::default())
                .collect(),
            rings: maps.rings()?.into_iter().collect(),
            filter: words
                .filter(|(_, word)| word.bits != 0)
                .map(|(index, word)| (index, word.bits))
                .collect(),
            idle: BTreeMap::new(),
        })
    }
}
