//! How many checks have passed and failed, for whoever asks. Checks count without waiting for
//! anybody.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::machine::{CheckResult, Verdict};
use crate::model::state::ServerId;

/// The checks of every server that is checked.
#[derive(Clone, Debug, Default)]
pub struct CheckCounts(Arc<Mutex<BTreeMap<ServerId, Arc<Count>>>>);

/// The checks of one server so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Checks that passed, also if they asked for no new flows.
    pub passed: u64,
    /// Checks that failed.
    pub failed: u64,
    /// How long the last one took; none before the first.
    pub last: Option<Duration>,
}

/// Where the worker of one server counts.
#[derive(Debug, Default)]
pub(super) struct Count {
    passed: AtomicU64,
    failed: AtomicU64,
    /// Nanoseconds that the last one took.
    last_ns: AtomicU64,
}

impl CheckCounts {
    /// Every server that is checked.
    #[must_use]
    pub fn all(&self) -> BTreeMap<ServerId, Checked> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(server, count)| (server.clone(), count.read())).collect()
    }

    /// Where checks of a server are counted from now on; what was counted stays.
    pub(super) fn of(&self, server: &ServerId) -> Arc<Count> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(counts.entry(server.clone()).or_default())
    }

    /// The server is not checked any more.
    pub(super) fn forget(&self, server: &ServerId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(server);
    }
}

impl Count {
    pub(super) fn note(&self, result: &CheckResult) {
        let took = u64::try_from(result.duration.as_nanos()).unwrap_or(u64::MAX);
        self.last_ns.store(took, Ordering::Relaxed);
        let counter = match result.verdict {
            Verdict::Failed => &self.failed,
            _ => &self.passed,
        };
        // Last, so that there is no count without a time.
        counter.fetch_add(1, Ordering::Release);
    }

    fn read(&self) -> Checked {
        let (passed, failed) =
            (self.passed.load(Ordering::Acquire), self.failed.load(Ordering::Acquire));
        let last = Duration::from_nanos(self.last_ns.load(Ordering::Relaxed));
        Checked { passed, failed, last: (passed + failed > 0).then_some(last) }
    }
}
