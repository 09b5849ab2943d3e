//! Who may be a client of the proxy: lists and blocks of sources, and for layer 4 in user space
//! the limits that the data plane would apply, in the form in which it would get them, and the
//! counters of what is refused there.
//!
//! | file | owns |
//! |---|---|
//! | `ruling` | lists, blocks and limits, immutable |
//! | `buckets` | what sources have used up of their rates |
//!
//! Everything is judged when a flow begins, and again when the rules have changed.

mod buckets;
mod ruling;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use lb_common::{access::AdmissionEntry, drop_reason::DropReason};
use tokio::sync::watch;

use self::buckets::{Buckets, Kind};
pub use self::ruling::{RuleBook, Ruling};
use crate::{clock::Moment, model::name::Name};

/// Rules for all frontends that the proxy serves, over all workers, and counters of those of
/// layer 4.
#[derive(Debug)]
pub struct GateKeeper {
    ruling: watch::Sender<Arc<Ruling>>,
    /// Changes with every ruling.
    generation: AtomicU64,
    buckets: Buckets,
    drops: [AtomicU64; DropReason::COUNT as usize],
}

impl Default for GateKeeper {
    /// Everybody is let in.
    fn default() -> Self {
        Self {
            ruling: watch::Sender::default(),
            generation: AtomicU64::new(1),
            buckets: Buckets::default(),
            drops: [const { AtomicU64::new(0) }; DropReason::COUNT as usize],
        }
    }
}

impl GateKeeper {
    /// Judges by this from now on, those who are in, too.
    pub fn rule(&self, ruling: Ruling) {
        self.buckets.make(ruling.max_sources, ruling.has_rates());
        self.ruling.send_replace(Arc::new(ruling));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Counts a packet, or a connection, that was refused or lost.
    pub fn count(&self, reason: DropReason) {
        self.drops[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted, every reason.
    #[must_use]
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        let count =
            |reason: &DropReason| (*reason, self.drops[*reason as usize].load(Ordering::Relaxed));
        DropReason::ALL.iter().map(count).collect()
    }
}

/// The gate of one frontend.
#[derive(Clone, Debug)]
pub struct Gate {
    keeper: Arc<GateKeeper>,
    frontend: Name,
}

impl Gate {
    /// That of a frontend.
    #[must_use]
    pub const fn new(keeper: Arc<GateKeeper>, frontend: Name) -> Self {
        Self { keeper, frontend }
    }

    /// The number of the rules in force: who was let in under an earlier one is to be judged
    /// again.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.keeper.generation.load(Ordering::Acquire)
    }

    /// Whether lists and blocks let a source in. Who comes by a unix socket has none, and is
    /// let in.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(&self, source: Option<IpAddr>) -> Result<(), DropReason> {
        let Some(source) = source else { return Ok(()) };
        let now_s = Moment::now().monotonic_ns / 1_000_000_000;
        let now_s = u32::try_from(now_s).unwrap_or(u32::MAX);
        self.ruling().judge(&self.frontend, source, now_s)
    }

    /// Whether a source may begin one more flow, as far as lists, blocks and its rate go; how
    /// many it has is for [`super::limits`] to know.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, source: IpAddr) -> Result<(), DropReason> {
        self.judge(Some(source))?;
        let entry = self.entry();
        if entry.flow_interval_ns == 0 {
            return Ok(());
        }
        let rate = (entry.flow_interval_ns, entry.flow_burst_ns);
        match self.keeper.buckets.take(Kind::Flows, entry.scope, source, rate) {
            true => Ok(()),
            false => Err(DropReason::NewRate),
        }
    }

    /// Whether a source may send one more packet, as far as its rate goes.
    ///
    /// # Errors
    /// [`DropReason::PacketRate`].
    pub fn packet(&self, entry: &AdmissionEntry, source: IpAddr) -> Result<(), DropReason> {
        let rate = (entry.packet_interval_ns, entry.packet_burst_ns);
        match self.keeper.buckets.take(Kind::Packets, entry.scope, source, rate) {
            true => Ok(()),
            false => Err(DropReason::PacketRate),
        }
    }

    /// What the frontend asks of sources.
    #[must_use]
    pub fn entry(&self) -> AdmissionEntry {
        self.ruling().entry(&self.frontend)
    }

    /// Most flows of a source.
    #[must_use]
    pub fn per_source(&self) -> u32 {
        match self.entry().flows_per_source {
            0 => u32::MAX,
            limit => limit,
        }
    }

    /// Counts something that was refused or lost.
    pub fn count(&self, reason: DropReason) {
        self.keeper.count(reason);
    }

    /// Ends when the rules do not let a source in any more that they once did.
    pub async fn expelled(&self, source: Option<IpAddr>) {
        let mut changes = self.keeper.ruling.subscribe();
        while self.judge(source).is_ok() {
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn ruling(&self) -> Arc<Ruling> {
        Arc::clone(&self.keeper.ruling.borrow())
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{access, token_bucket::Rate};

    use super::*;

    #[test]
    fn a_rate_of_new_flows_holds_for_each_source_and_refusals_are_counted() {
        let name = Name::new("dns").unwrap();
        let Rate { interval_ns, burst_ns } = Rate::new(1, 3);
        let entry = AdmissionEntry {
            scope: access::list_scope("dns"),
            flow_interval_ns: interval_ns,
            flow_burst_ns: burst_ns,
            ..AdmissionEntry::default()
        };
        let keeper = Arc::new(GateKeeper::default());
        let book = RuleBook::new([].into(), 0, [(name.clone(), entry)].into());
        keeper.rule(Ruling::new(RuleBook::default(), book, 1024));
        let gate = Gate::new(Arc::clone(&keeper), name);
        for source in ["192.0.2.1", "2001:db8::1"] {
            let source = source.parse().unwrap();
            let passed = (0..10).take_while(|_| gate.admit(source).is_ok()).count();
            // One more if the second turns meanwhile.
            assert!((3..=4).contains(&passed), "{passed}");
        }
        // The rest of its network shares the bucket.
        let neighbour = "2001:db8::2".parse().unwrap();
        assert_eq!(gate.admit(neighbour), Err(DropReason::NewRate));
        gate.count(DropReason::NewRate);
        let counted: Vec<_> = keeper.drops().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(DropReason::NewRate, 1)]);
    }

    #[tokio::test]
    async fn who_is_in_is_told_when_the_rules_change() {
        let name = Name::new("dns").unwrap();
        let keeper = Arc::new(GateKeeper::default());
        let gate = Gate::new(Arc::clone(&keeper), name);
        let before = gate.generation();
        let source = Some("192.0.2.1".parse().unwrap());
        let told = tokio::spawn({
            let gate = gate.clone();
            async move { gate.expelled(source).await }
        });
        let network = "192.0.2.0/24".parse().unwrap();
        let prefix = crate::model::access::Prefix { scope: access::NODE_LIST, network };
        let rule = access::AccessRule { action: access::action::DENY, expires_s: 0 };
        let book = RuleBook::new([(prefix, rule)].into(), 0, [].into());
        keeper.rule(Ruling::new(RuleBook::default(), book, 0));
        told.await.unwrap();
        assert_ne!(gate.generation(), before);
        assert_eq!(gate.judge(source), Err(DropReason::Denied));
        // By a unix socket.
        assert_eq!(gate.judge(None), Ok(()));
    }
}
