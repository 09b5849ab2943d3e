//! Counting down what flows counted for that the sweep has deleted: the flows of their servers
//! and of their sources.
//!
//! Counts change under locks that only the data plane can take, so a program of its object
//! does it, run by `BPF_PROG_TEST_RUN` and attached to nothing.

use std::{collections::HashMap, mem::size_of};

use aya::{
    TestRunOptions,
    maps::{Array, MapData, MapError},
    programs::{TestRun as _, Xdp},
};
use aya_obj::programs::XdpAttachType;
use lb_common::{
    abi::{MAX_SERVERS, map},
    access::AdmissionEntry,
    address::Address6,
    flow::Handle,
    server::ServerFlows,
    sources::{EndedFlows, MOST_ENDED, SourceKey},
};
use tracing::debug;

use super::{
    error::{DatapathError, MapAccessError, ProgramFault},
    maps::typed,
    pins::Pins,
    recount::Recount,
};

/// Flows that the sweep has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// How many of each server; modulo 2^32, for counts that were too low.
    pub servers: HashMap<Handle, u32>,
    /// The VIP and the client of each that counted among those of its source.
    pub counted: Vec<(Handle, Address6)>,
}

impl Ends {
    /// Whether there is nothing to count down.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.counted.is_empty()
    }
}

/// The program, on the pinned maps.
pub struct Settler {
    program: Xdp,
    admission: Array<MapData, AdmissionEntry>,
    flows: Array<MapData, ServerFlows>,
    recount: Recount,
}

impl std::fmt::Debug for Settler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settler").finish_non_exhaustive()
    }
}

impl Settler {
    /// Opens the pinned program.
    ///
    /// # Errors
    /// If it is not pinned, or the maps are not.
    pub fn open(pins: &Pins) -> Result<Self, DatapathError> {
        let program = Xdp::from_pin(pins.settle(), XdpAttachType::Interface);
        Ok(Self {
            program: program.map_err(ProgramFault::Descriptor)?,
            admission: typed(pins, map::ADMISSION)?,
            flows: typed(pins, map::SERVER_FLOWS)?,
            recount: Recount::default(),
        })
    }

    /// The flows that every server counts.
    ///
    /// # Errors
    /// If they can not be read.
    pub fn counts(&self) -> Result<HashMap<Handle, u32>, MapAccessError> {
        let ids = 0..u16::try_from(MAX_SERVERS).unwrap_or(u16::MAX);
        let entries = ids.map(|id| Ok((id, self.flows.get(&u32::from(id), 0)?)));
        let entries: Result<Vec<(u16, ServerFlows)>, MapError> = entries.collect();
        let entries = entries.map_err(|source| unreadable(map::SERVER_FLOWS, source))?;
        let used = entries.into_iter().filter_map(|(id, entry)| {
            let generation = u16::try_from(entry.generation).ok().filter(|one| *one != 0)?;
            Some((Handle { id, generation }, entry.flows))
        });
        Ok(used.collect())
    }

    /// What counts of servers have too many, given what they were before a sweep
    /// ([`Self::counts`]) and the flows that it found.
    ///
    /// # Errors
    /// If counts can not be read.
    pub fn recount(
        &mut self,
        before: &HashMap<Handle, u32>,
        found: &HashMap<Handle, u32>,
    ) -> Result<Ends, MapAccessError> {
        let flows = &self.flows;
        let after = |server: Handle| {
            let entry = flows.get(&u32::from(server.id), 0);
            entry.map(|entry| entry.flows).map_err(|source| unreadable(map::SERVER_FLOWS, source))
        };
        let mut ends = Ends::default();
        for (server, flows) in self.recount.judge(before, found, after)? {
            debug!(?server, flows, "its flows were counted wrong");
            ends.servers.insert(server, 0_u32.wrapping_add_signed(flows));
        }
        Ok(ends)
    }

    /// Takes flows that have ended off the counts of their sources.
    ///
    /// # Errors
    /// If the kernel refuses; some may have been taken off.
    pub fn settle(&mut self, ends: &Ends) -> Result<(), DatapathError> {
        let mut flows: HashMap<SourceKey, u32> = HashMap::new();
        for (vip, client) in &ends.counted {
            if let Some(key) = self.source(*vip, *client)? {
                *flows.entry(key).or_default() += 1;
            }
        }
        let sources = flows.into_iter().map(|(key, flows)| EndedFlows { key, flows, server: 0 });
        let servers = ends.servers.iter().map(|(server, flows)| EndedFlows {
            key: SourceKey::default(),
            flows: *flows,
            server: server.to_bits(),
        });
        let records: Vec<EndedFlows> = sources.chain(servers).collect();
        for part in records.chunks(MOST_ENDED) {
            let packet: Vec<u8> = part.iter().flat_map(EndedFlows::to_bytes).collect();
            debug_assert_eq!(packet.len(), size_of_val(part));
            let options =
                TestRunOptions { data_in: Some(&packet), repeat: 1, ..Default::default() };
            self.program.test_run(options).map_err(ProgramFault::TestRun)?;
        }
        Ok(())
    }

    /// As what a client is counted; none if its VIP is not there any more.
    fn source(&self, vip: Handle, client: Address6) -> Result<Option<SourceKey>, DatapathError> {
        let entry = self.admission.get(&u32::from(vip.id), 0);
        let entry = entry.map_err(|source| unreadable(map::ADMISSION, source))?;
        Ok((entry.generation == vip.generation).then(|| match client.unmapped() {
            Some(address) => SourceKey::v4(entry.scope, address),
            None => SourceKey::v6(entry.scope, client),
        }))
    }
}

const fn unreadable(map: &'static str, source: MapError) -> MapAccessError {
    MapAccessError::Access { action: "read", map, source }
}

const _: () = assert!(size_of::<EndedFlows>() * MOST_ENDED <= 1024);
