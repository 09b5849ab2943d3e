//! Counts of servers' flows: comparing them with the flows, and putting them right.
//!
//! They change by atomic instructions of the data plane only, so a program of its object does
//! it, run by `BPF_PROG_TEST_RUN` and attached to nothing.

use std::{collections::HashMap, mem::size_of};

use aya::{
    TestRunOptions,
    maps::{Array, MapData, MapError},
    programs::{TestRun as _, Xdp},
};
use aya_obj::programs::XdpAttachType;
use lb_common::{
    abi::{EXPIRE4, EXPIRE6, MAX_SERVERS, SETTLE, map},
    flow::Handle,
    server::{MOST_MISCOUNTS, Miscount, ServerFlows},
};
use tracing::debug;

use super::{
    batch::bytes_of,
    error::{DatapathError, MapAccessError, ProgramFault},
    expire::Expirer,
    maps::typed,
    pins::Pins,
    recount::Recount,
};

/// The programs, on the pinned maps.
pub struct Settler {
    settle: Xdp,
    expire: [Xdp; 2],
    flows: Array<MapData, ServerFlows>,
    recount: Recount,
}

impl std::fmt::Debug for Settler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settler").finish_non_exhaustive()
    }
}

impl Settler {
    /// Opens the pinned programs.
    ///
    /// # Errors
    /// If they are not pinned, or the maps are not.
    pub fn open(pins: &Pins) -> Result<Self, DatapathError> {
        let open = |name| {
            let program = Xdp::from_pin(pins.run_by_agent(name), XdpAttachType::Interface);
            program.map_err(ProgramFault::Descriptor)
        };
        Ok(Self {
            settle: open(SETTLE)?,
            expire: [open(EXPIRE4)?, open(EXPIRE6)?],
            flows: typed(pins, map::SERVER_FLOWS)?,
            recount: Recount::default(),
        })
    }

    /// What removes idle flows.
    #[must_use]
    pub const fn expirer(&self) -> Expirer<'_> {
        let [four, six] = &self.expire;
        Expirer { four, six }
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

    /// Puts counts of servers right that stay wrong, given what they were before a sweep
    /// ([`Self::counts`]) and the flows that it found.
    ///
    /// # Errors
    /// If counts can not be read, or the kernel refuses; some may have been put right.
    pub fn put_right(
        &mut self,
        before: &HashMap<Handle, u32>,
        found: &HashMap<Handle, u32>,
    ) -> Result<(), DatapathError> {
        let flows = &self.flows;
        let after = |server: Handle| {
            let entry = flows.get(&u32::from(server.id), 0);
            entry.map(|entry| entry.flows).map_err(|source| unreadable(map::SERVER_FLOWS, source))
        };
        let wrong = self.recount.judge(before, found, after)?;
        let miscounts: Vec<Miscount> = wrong
            .into_iter()
            .map(|(server, flows)| {
                debug!(?server, flows, "its flows were counted wrong");
                let flows = 0_u32.wrapping_add_signed(flows);
                Miscount { server: server.to_bits(), flows, padding: 0 }
            })
            .collect();
        for part in miscounts.chunks(MOST_MISCOUNTS) {
            let options =
                TestRunOptions { data_in: Some(bytes_of(part)), repeat: 1, ..Default::default() };
            self.settle.test_run(options).map_err(ProgramFault::TestRun)?;
        }
        Ok(())
    }
}

const fn unreadable(map: &'static str, source: MapError) -> MapAccessError {
    MapAccessError::Access { action: "read", map, source }
}

const _: () = assert!(size_of::<Miscount>() * MOST_MISCOUNTS <= 1024);
