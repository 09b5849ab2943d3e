//! Carrying a plan out.

use std::convert::Infallible;

use lb_common::maglev::BuildError;

use super::{actual::Actual, operation::Operation, ring};
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

/// A plan that could not be carried out to its end. What was done stays done and is safe;
/// plan again from what the maps now hold.
#[derive(Debug, thiserror::Error)]
#[error("could not {operation} ({done} of {total} changes were made)")]
pub struct ApplyError<E: std::error::Error + 'static> {
    /// What failed.
    pub operation: String,
    /// Operations carried out before it.
    pub done: usize,
    /// Operations of the plan.
    pub total: usize,
    /// Why.
    pub source: E,
}

/// Carries out a plan, up to its end or the first failure. Blocks: a `SetRing` takes 10 to
/// 30 ms.
///
/// # Errors
/// The first operation that failed.
pub fn apply<K: Kernel>(kernel: &mut K, plan: &[Operation]) -> Result<(), ApplyError<K::Error>> {
    for (done, operation) in plan.iter().enumerate() {
        kernel.execute(operation).map_err(|source| ApplyError {
            operation: operation.to_string(),
            done,
            total: plan.len(),
            source,
        })?;
    }
    Ok(())
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
