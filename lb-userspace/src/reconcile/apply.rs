//! Carrying a plan out.

use std::{collections::BTreeSet, convert::Infallible};

use lb_common::{maglev::BuildError, server::state, vip::TOMBSTONE_PROTOCOL};

use super::{actual::Actual, operation::Operation, ring, target::is_vip};
use crate::datapath::{Maps, error::MapAccessError};

/// What operations are carried out on.
pub trait Kernel {
    /// Why an operation failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Carries one operation out.
    ///
    /// # Errors
    /// If it failed; it then changed nothing.
    fn execute(&mut self, operation: &Operation) -> Result<(), Self::Error>;
}

/// A plan that could not be carried out as a whole. What was done stays done and is safe;
/// plan again from what the maps now hold.
#[derive(Debug, thiserror::Error)]
#[error("could not {operation} ({done} of {total} changes were made)")]
pub struct ApplyError<E: std::error::Error + 'static> {
    /// What failed.
    pub operation: String,
    /// Operations that were carried out.
    pub done: usize,
    /// Operations of the plan.
    pub total: usize,
    /// Why.
    pub source: E,
}

/// Carries a plan out. Where an operation fails, what needs it waits for the next plan, and so
/// does all that takes something away; what has nothing to do with it is done: servers of other
/// backends, their rings and VIPs. Blocks: a `SetRing` takes 10 to 30 ms.
///
/// # Errors
/// The first operation that failed.
pub fn apply<K: Kernel>(kernel: &mut K, plan: &[Operation]) -> Result<(), ApplyError<K::Error>> {
    let mut waiting = Waiting::default();
    let mut failure = None;
    let mut done = 0;
    for operation in plan {
        if failure.is_some() && waiting.includes(operation) {
            waiting.add(operation);
            continue;
        }
        match kernel.execute(operation) {
            Ok(()) => done += 1,
            Err(source) => {
                waiting.add(operation);
                failure.get_or_insert((operation.to_string(), source));
            }
        }
    }
    let total = plan.len();
    failure.map_or(Ok(()), |(operation, source)| Err(ApplyError { operation, done, total, source }))
}

/// What can not be done because something before it was not.
#[derive(Debug, Default)]
struct Waiting {
    /// Backends whose ring or servers are not as they should be: nothing may come to them.
    backends: BTreeSet<u16>,
    /// What VIPs ask of sources is not as it should be.
    vips: bool,
    /// A VIP may still be at the backend that it is to leave.
    moves: bool,
    /// A generation has not been written down, which the entry of a VIP still holds.
    generations: bool,
    /// The filter does not let all replies in.
    flows: bool,
}

impl Waiting {
    /// An operation was not carried out.
    fn add(&mut self, operation: &Operation) {
        match operation {
            Operation::SetRing { backend, .. } => {
                self.backends.insert(*backend);
            }
            Operation::PutBackend { id, .. } => {
                self.backends.insert(*id);
            }
            Operation::PutServer { entry, .. } if entry.state != state::UNUSED => {
                self.backends.insert(entry.backend);
            }
            Operation::PutSettings(_)
            | Operation::PutRules(_)
            | Operation::PutAdmission { .. }
            | Operation::ZeroVipCounters(_) => self.vips = true,
            Operation::PutVip { key, .. } if key.protocol == TOMBSTONE_PROTOCOL => {
                self.generations = true;
            }
            Operation::PutVip { .. } => self.moves = true,
            Operation::WidenFilter { .. } | Operation::ZeroServerCounters(_) => self.flows = true,
            // Nothing is built on these.
            Operation::PutServer { .. }
            | Operation::RemoveVip { .. }
            | Operation::RemoveRules(_)
            | Operation::ClearRing { .. }
            | Operation::NarrowFilter { .. }
            | Operation::JudgeAnew => {}
        }
    }

    /// Whether an operation has to wait, after one that failed.
    fn includes(&self, operation: &Operation) -> bool {
        match operation {
            Operation::PutServer { entry, .. } => match entry.state {
                // A dead one serves nobody, whatever ring still names it.
                state::DOWN => false,
                state::UP => self.flows,
                state::DRAIN => self.flows || self.moves || self.backends.contains(&entry.backend),
                _ => true,
            },
            Operation::SetRing { backend, .. } => self.flows || self.backends.contains(backend),
            Operation::PutBackend { id, entry } => {
                entry.name.first() == Some(&0) || self.flows || self.backends.contains(id)
            }
            Operation::PutVip { key, entry } if is_vip(key) => {
                self.vips || self.flows || self.backends.contains(&entry.backend)
            }
            Operation::RemoveVip { key } => self.generations || !is_vip(key),
            Operation::PutSettings(_) | Operation::PutAdmission { .. } => true,
            Operation::RemoveRules(_)
            | Operation::ClearRing { .. }
            | Operation::NarrowFilter { .. } => true,
            Operation::PutRules(_)
            | Operation::PutVip { .. }
            | Operation::WidenFilter { .. }
            | Operation::ZeroVipCounters(_)
            | Operation::ZeroServerCounters(_)
            | Operation::JudgeAnew => false,
        }
    }
}

/// Why the maps refused an operation.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The kernel refused.
    #[error(transparent)]
    Map(#[from] MapAccessError),
    /// The ring can not be built.
    #[error(transparent)]
    Ring(#[from] BuildError),
}

impl Kernel for Maps {
    type Error = ExecuteError;

    fn execute(&mut self, operation: &Operation) -> Result<(), ExecuteError> {
        match operation {
            Operation::PutSettings(settings) => self.set_settings(settings)?,
            Operation::ZeroVipCounters(vip) => self.zero_vip_counters(*vip)?,
            Operation::ZeroServerCounters(server) => self.zero_server_counters(*server)?,
            Operation::PutRules(rules) => self.put_rules(rules)?,
            Operation::RemoveRules(prefixes) => self.remove_rules(prefixes)?,
            Operation::PutAdmission { id, entry } => self.put_admission(*id, entry)?,
            Operation::JudgeAnew => self.judge_anew()?,
            Operation::PutServer { id, entry } => self.put_server(*id, entry)?,
            Operation::SetRing { backend, members, layout } => {
                self.set_ring(*backend, &ring::slots(members, *layout)?)?;
            }
            Operation::PutBackend { id, entry } => self.put_backend(*id, entry)?,
            Operation::WidenFilter { index, word } | Operation::NarrowFilter { index, word } => {
                self.set_filter_word(*index, *word)?;
            }
            Operation::PutVip { key, entry } => self.put_vip(key, entry)?,
            Operation::RemoveVip { key } => self.remove_vip(key)?,
            Operation::ClearRing { backend } => self.clear_ring(*backend)?,
        }
        Ok(())
    }
}

/// For planning ahead and for tests: nothing but the values change.
impl Kernel for Actual {
    type Error = Infallible;

    fn execute(&mut self, operation: &Operation) -> Result<(), Infallible> {
        self.apply(operation);
        Ok(())
    }
}
