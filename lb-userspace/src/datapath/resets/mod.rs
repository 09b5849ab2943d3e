//! Telling both ends of idle connections that their server is dead or gone, within a second of
//! the eviction, where `on_down` says so. Ends that send something are told by the data plane.
//!
//! The agent plays the client's next packet to the program (`BPF_PROG_TEST_RUN`), which answers
//! it as any other: it looks once more whether the server is dead, marks, counts and reports
//! the flow, and builds the RST. The agent only sends that on. What the two ends believe is a RST
//! with the number that they expect next (RFC 5961 section 3.2), which the entries keep from
//! their last segments.
//!
//! RSTs get lost like any packet. So clients are asked once more a little later, with a segment in
//! front of their window, as a keepalive probe is: whoever still has the connection answers with
//! an ACK (RFC 9293 section 3.10.7.4), and that is answered by the data plane.

mod fate;
mod program;
mod segment;
mod wire;

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use aya::Pod;
use lb_common::{
    address::Address,
    flow::{Direction, FlowEntry, FlowKey, Handle},
    half_open::Bucket,
    tcp_state::Progress,
};
use tokio::{sync::watch, task::spawn_blocking, time::sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::{fate::Fates, program::EntryProgram, segment::Segment, wire::Wire};
use super::{
    error::DatapathError,
    maps::Maps,
    pins::Pins,
    tables::{Family, FlowTables},
};

/// IP protocol number of TCP.
const TCP: u8 = 6;
/// How long after the RSTs clients are asked.
const ASK_AFTER: Duration = Duration::from_millis(300);

/// What was done for the flows of dead servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Report {
    /// Clients that were sent a RST.
    clients: u64,
    /// Servers' ends that were sent a RST.
    servers: u64,
    /// Clients that were asked whether they still have the connection.
    asked: u64,
    /// Segments that could not be sent.
    unsent: u64,
}

/// The task that resets idle connections.
pub struct Resetter {
    tables: FlowTables,
    maps: Maps,
    pins: Pins,
    /// Says that something in the maps has changed.
    changes: watch::Receiver<()>,
    /// The servers that lived when it was last looked; none before the first look.
    lived: Option<BTreeSet<Handle>>,
    /// When to ask the clients that were reset; none if there are none.
    ask_at: Option<Instant>,
}

impl std::fmt::Debug for Resetter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resetter").finish_non_exhaustive()
    }
}

/// What is sent in a walk over the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walk {
    /// RSTs to both ends of flows that are not over.
    Reset,
    /// Questions to the clients of those that were reset.
    Ask,
}

impl Resetter {
    /// Opens the pinned maps. `changes` says that something in them has changed.
    ///
    /// # Errors
    /// If a map is not pinned or may not be opened.
    pub fn open(pins: &Pins, changes: watch::Receiver<()>) -> Result<Self, DatapathError> {
        Ok(Self {
            tables: FlowTables::open(pins)?,
            maps: Maps::open(pins)?,
            pins: pins.clone(),
            changes,
            lived: None,
            ask_at: None,
        })
    }

    /// Resets flows of servers that die until cancelled. What fails is logged: those clients
    /// learn it from their next packet.
    ///
    /// # Cancel safety
    /// Dropping the future leaves a walk under way to finish on its own.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut walk = Walk::Reset;
        loop {
            let token = cancel.clone();
            let task = spawn_blocking(move || {
                let done = match walk {
                    Walk::Reset => self.look(&token),
                    Walk::Ask => self.ask(&token),
                };
                if let Err(error) = done {
                    let error = anyhow::Error::from(error);
                    warn!("idle clients of dead servers were not reset: {error:#}");
                }
                self
            });
            match task.await {
                Ok(same) => self = same,
                Err(error) => {
                    warn!(%error, "the task that resets idle clients ended unexpectedly");
                    return;
                }
            }
            let ask_at = self.ask_at;
            walk = tokio::select! {
                () = cancel.cancelled() => return,
                changed = self.changes.changed() => match changed {
                    Ok(()) => Walk::Reset,
                    // The end of the agent.
                    Err(_) => return cancel.cancelled().await,
                },
                () = until(ask_at) => Walk::Ask,
            };
        }
    }

    /// Looks whether a server has died, and resets the flows of all that are dead if so.
    fn look(&mut self, cancel: &CancellationToken) -> Result<(), DatapathError> {
        self.changes.mark_unchanged();
        let fates = Fates::read(&self.maps)?;
        let living = fates.living();
        let died = match &self.lived {
            Some(lived) => !lived.is_subset(&living),
            None => fates.any_dead(),
        };
        self.lived = Some(living);
        if !died {
            return Ok(());
        }
        let start = Instant::now();
        let Report { clients, servers, unsent, .. } = self.walk(Walk::Reset, fates, cancel)?;
        if clients > 0 {
            let took = start.elapsed();
            info!("reset {clients} clients and {servers} server ends of dead servers in {took:?}");
            if unsent > 0 {
                debug!(unsent, "segments could not be sent");
            }
            self.ask_at.get_or_insert_with(|| Instant::now() + ASK_AFTER);
        }
        Ok(())
    }

    /// Asks the clients that were reset.
    fn ask(&mut self, cancel: &CancellationToken) -> Result<(), DatapathError> {
        self.ask_at = None;
        let fates = Fates::read(&self.maps)?;
        let report = self.walk(Walk::Ask, fates, cancel)?;
        debug!(?report, "asked clients once more");
        Ok(())
    }

    fn walk(
        &self,
        walk: Walk,
        fates: Fates,
        cancel: &CancellationToken,
    ) -> Result<Report, DatapathError> {
        let program = EntryProgram::open(&self.pins)?;
        let wire = Wire::open()?;
        let mut round = Round { fates, wire, program, cancel, report: Report::default() };
        self.walk_family(&self.tables.four, &mut round, walk)?;
        self.walk_family(&self.tables.six, &mut round, walk)?;
        Ok(round.report)
    }

    fn walk_family<A: Address>(
        &self,
        family: &Family<A>,
        round: &mut Round<'_>,
        walk: Walk,
    ) -> Result<(), DatapathError>
    where
        FlowKey<A>: Pod,
        FlowEntry<A>: Pod + Default,
        Bucket<A>: Pod,
    {
        let (mut keys, mut entries) = (Vec::new(), Vec::new());
        let mut batches = family.confirmed.batches();
        while batches.next_into(&mut keys, &mut entries)? {
            if round.cancel.is_cancelled() {
                return Ok(());
            }
            // What dies during a long walk is among the dead for the rest of it, and the walk
            // that follows does what this one has passed.
            if self.changes.has_changed().unwrap_or(false) {
                round.fates = Fates::read(&self.maps)?;
            }
            for (key, entry) in keys.iter().zip(&entries) {
                if !round.wants(walk, key, entry) {
                    continue;
                }
                match walk {
                    Walk::Reset => round.reset(family, key, entry)?,
                    Walk::Ask => round.ask(key, entry),
                }
            }
            thread::yield_now();
        }
        Ok(())
    }
}

/// Waits for that time, for ever if there is none.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// What walks over the tables need.
struct Round<'a> {
    fates: Fates,
    wire: Wire,
    program: EntryProgram,
    cancel: &'a CancellationToken,
    report: Report,
}

impl Round<'_> {
    fn wants<A: Address>(&self, walk: Walk, key: &FlowKey<A>, entry: &FlowEntry<A>) -> bool {
        let progress = Progress(entry.progress);
        let open = match walk {
            Walk::Reset => !progress.is_over(),
            // A client that answered with a RST has no connection any more.
            Walk::Ask => {
                progress.0 & Progress::SERVER_DOWN != 0 && progress.0 & Progress::CLIENT_RST == 0
            }
        };
        open && entry.direction() == Direction::Forward
            && key.protocol == TCP
            && self.fates.ends(entry.server, key)
    }

    /// Lets the program end a flow, sends its RST to the client, and one to the server.
    fn reset<A: Address>(
        &mut self,
        family: &Family<A>,
        key: &FlowKey<A>,
        entry: &FlowEntry<A>,
    ) -> Result<(), DatapathError>
    where
        FlowKey<A>: Pod,
        FlowEntry<A>: Pod + Default,
        Bucket<A>: Pod,
    {
        let one_way = Progress(entry.progress).is_one_way();
        let partner = if one_way { None } else { family.confirmed.get(&entry.partner_key())? };
        let hop = entry.client_hop;
        let sequence = partner.map_or(0, |partner| partner.acknowledged.get());
        let next = Segment::ack(key, sequence, entry.acknowledged.get());
        let Some(answer) = self.program.answer(&next.framed(hop.neighbour, hop.own), hop.ifindex)
        else {
            // The server is back, or the interface is gone.
            return Ok(());
        };
        self.report.clients += 1;
        let sent = self.wire.send_frame(&answer, hop.ifindex);
        self.note(sent);
        if let Some(partner) = partner {
            let reset = Segment::rst(&entry.rewritten(), partner.acknowledged.get());
            let sent = match self.fates.hop(entry.server) {
                Some(hop) => {
                    self.wire.send_frame(&reset.framed(hop.own, hop.neighbour), hop.ifindex)
                }
                None => self.wire.send_routed(&reset),
            };
            self.report.servers += u64::from(sent);
            self.note(sent);
        }
        Ok(())
    }

    /// Asks a client, by the kernel's own route: if the way that the RST took is not the right one
    /// any more, that may be.
    fn ask<A: Address>(&mut self, key: &FlowKey<A>, entry: &FlowEntry<A>) {
        let before = entry.acknowledged.get().wrapping_sub(1);
        let sent = self.wire.send_routed(&Segment::ack(&key.reversed(), before, 0));
        self.report.asked += u64::from(sent);
        self.note(sent);
    }

    fn note(&mut self, sent: bool) {
        self.report.unsent += u64::from(!sent);
    }
}
