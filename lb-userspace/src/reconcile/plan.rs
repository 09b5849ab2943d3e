//! From what the maps hold to what they should hold, in an order that hurts nobody.
//!
//! After each operation, a VIP that had a usable server and keeps one has one; the filter
//! lets the replies of every server in a ring in; an id is
//! never found under a handle that belonged to something else; and if the agent dies
//! there, a new plan from what the maps then hold leads to the same end. That is why
//! things that are new come first, what points to them next, and what is no longer
//! pointed to last.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    abi::{MAX_BACKENDS, MAX_SERVERS, MAX_VIPS},
    access::AdmissionEntry,
    backend::BackendEntry,
    server::{ServerEntry, state},
    settings::flag,
    vip::{FilterWord, TOMBSTONE_PROTOCOL, VipKey},
};

use super::{
    access,
    actual::Actual,
    desired::Desired,
    operation::Operation,
    target::{self, Target},
};

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// More things than ids.
    #[error("there are more {0} than the data plane has ids for ({1})")]
    NoIds(&'static str, u32),
    /// Everything old has to stay until something new is there, and there is no room.
    #[error(
        "all {1} ids of {0} are in use, and none can be freed without leaving a VIP without a \
         server; make the change in two reloads, the first of which removes something"
    )]
    Full(&'static str, u32),
}

/// What leads from one state of the maps to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to do, in this order; nothing if the maps are as desired.
    pub operations: Vec<Operation>,
    /// This leads all the way. If not, ids were short: carrying the operations out frees
    /// some, and another plan goes on from there.
    pub complete: bool,
}

impl Plan {
    /// Has old rules for sources removed before new ones are written, if there is no room for
    /// both: for a moment, some sources are then on no list.
    pub fn make_room(&mut self, actual: &Actual, max_rules: usize) {
        let put = self.operations.iter().find_map(|operation| match operation {
            Operation::PutRules(rules) => Some(access::most_at_once(&actual.rules, rules)),
            _ => None,
        });
        if put.is_none_or(|most| most <= max_rules) {
            return;
        }
        let removes = |operation: &Operation| matches!(operation, Operation::RemoveRules(_));
        if let Some(at) = self.operations.iter().position(removes) {
            let removal = self.operations.remove(at);
            self.operations.insert(0, removal);
        }
    }
}

/// How many ids there are of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) vips: u32,
    pub(super) backends: u32,
    pub(super) servers: u32,
}

/// Those of the data plane.
const MOST: Limits = Limits { vips: MAX_VIPS, backends: MAX_BACKENDS, servers: MAX_SERVERS };

/// The operations that lead from `actual` to `desired`, or at least nearer.
///
/// # Errors
/// If there are more VIPs, backends or servers than ids.
pub fn plan(desired: &Desired, actual: &Actual) -> Result<Plan, PlanError> {
    plan_within(MOST, desired, actual)
}

pub(super) fn plan_within(
    limits: Limits,
    desired: &Desired,
    actual: &Actual,
) -> Result<Plan, PlanError> {
    let target = target::target(limits, desired, actual)?;
    let planner = Planner::new(&target, actual);
    let mut operations = Vec::new();
    let (rules, gone) = access::difference(&actual.rules, &target.rules);
    // Lists before what refers to them, so that no list is in force without its networks.
    if !rules.is_empty() {
        operations.push(Operation::PutRules(rules));
    }
    planner.admissions(&mut operations, |target| target.is_some());
    planner.settings(&mut operations);
    // Before anything leads flows to a new server: its replies come to a new address.
    planner.widen_filter(&mut operations);
    planner.fresh_counters(&mut operations);
    planner.servers(&mut operations, Planner::harmless);
    planner.backends(&mut operations, |planner, id| !planner.emptied(id));
    planner.vips(&mut operations);
    planner.backends(&mut operations, Planner::emptied);
    planner.unused_backends(&mut operations);
    planner.servers(&mut operations, |_, id| planner.retired(id));
    planner.narrow_filter(&mut operations);
    planner.admissions(&mut operations, |target| target.is_none());
    if !gone.is_empty() {
        operations.push(Operation::RemoveRules(gone));
    }
    let listed = target.settings.flags & flag::ACCESS != 0;
    let changes = |operation| changes_access(operation) || listed && changes_vip(operation);
    if operations.iter().any(changes) || planner.access_differs() {
        operations.push(Operation::JudgeAnew);
    }
    match target.deferred {
        None => Ok(Plan { operations, complete: true }),
        // Nothing would be freed: the next plan would be the same.
        Some(kind) if operations.is_empty() => Err(kind.full(limits)),
        Some(_) => Ok(Plan { operations, complete: false }),
    }
}

struct Planner<'a> {
    target: &'a Target,
    actual: &'a Actual,
    /// Servers that go out of use and stay, by the id of their backend.
    degraded: BTreeMap<u16, Vec<u16>>,
    /// Ids of backends that VIPs have as the maps are.
    named: BTreeSet<u16>,
}

impl<'a> Planner<'a> {
    fn new(target: &'a Target, actual: &'a Actual) -> Self {
        let vips = actual.vips.iter().filter(|(key, _)| target::is_vip(key));
        let named = vips.map(|(_, vip)| vip.backend).collect();
        let mut planner = Self { target, actual, degraded: BTreeMap::new(), named };
        for (id, entry) in &target.servers {
            if planner.degraded(*id) && !planner.retired(*id) {
                planner.degraded.entry(entry.backend).or_default().push(*id);
            }
        }
        planner
    }

    fn settings(&self, operations: &mut Vec<Operation>) {
        if self.target.settings != self.actual.settings {
            operations.push(Operation::PutSettings(self.target.settings));
        }
    }

    /// Writes what VIPs ask of sources where that differs, for the chosen: ids that are to
    /// have something, or that are to have nothing any more.
    fn admissions(
        &self,
        operations: &mut Vec<Operation>,
        chosen: impl Fn(Option<&AdmissionEntry>) -> bool,
    ) {
        let (before, after) = (&self.actual.admissions, &self.target.admissions);
        let ids: BTreeSet<u16> = before.keys().chain(after.keys()).copied().collect();
        for id in ids.into_iter().filter(|id| chosen(after.get(id))) {
            let wanted = after.get(&id).copied();
            let left = before.get(&id).map_or_else(AdmissionEntry::default, AdmissionEntry::left);
            let entry = wanted.unwrap_or(left);
            if before.get(&id) != Some(&entry) {
                operations.push(Operation::PutAdmission { id, entry });
            }
        }
    }

    /// Whether lists are switched on or off.
    fn access_differs(&self) -> bool {
        let lists = flag::ACCESS | flag::NODE_LIST | flag::NODE_ALLOW_ONLY | flag::NODE_BLOCKS;
        (self.target.settings.flags ^ self.actual.settings.flags) & lists != 0
    }

    /// Before anything counts under them.
    fn fresh_counters(&self, operations: &mut Vec<Operation>) {
        let vips = self.target.fresh_vips.iter().map(|vip| Operation::ZeroVipCounters(*vip));
        let servers =
            self.target.fresh_servers.iter().map(|server| Operation::ZeroServerCounters(*server));
        operations.extend(vips.chain(servers));
    }

    /// Writes the servers that differ and are chosen.
    fn servers(&self, operations: &mut Vec<Operation>, chosen: impl Fn(&Self, u16) -> bool) {
        for (id, entry) in &self.target.servers {
            if chosen(self, *id) {
                self.server(operations, *id, entry);
            }
        }
    }

    /// Writes a server if it differs.
    fn server(&self, operations: &mut Vec<Operation>, id: u16, entry: &ServerEntry) {
        if self.actual.servers.get(&id) != Some(entry) {
            operations.push(Operation::PutServer { id, entry: *entry });
        }
    }

    /// A change that takes no server out of use: rings may still name those.
    fn harmless(&self, id: u16) -> bool {
        !self.retired(id) && !self.degraded(id)
    }

    fn retired(&self, id: u16) -> bool {
        self.state(id) == state::UNUSED
    }

    fn degraded(&self, id: u16) -> bool {
        let was_up = self.actual.servers.get(&id).is_some_and(|entry| entry.state == state::UP);
        was_up && self.state(id) != state::UP
    }

    fn state(&self, id: u16) -> u8 {
        self.target.servers.get(&id).map_or(state::UNUSED, |entry| entry.state)
    }

    /// Rings first, then the servers that went out of them. One backend after the other,
    /// so that the first dead servers are settled before the last ring is built.
    fn backends(&self, operations: &mut Vec<Operation>, chosen: impl Fn(&Self, u16) -> bool) {
        let used = self.target.backends.iter().filter(|(_, entry)| !is_tombstone(entry));
        for (id, entry) in used.filter(|(id, _)| chosen(self, **id)) {
            self.backend(operations, *id, entry);
            for server in self.degraded.get(id).into_iter().flatten() {
                if let Some(entry) = self.target.servers.get(server) {
                    self.server(operations, *server, entry);
                }
            }
        }
    }

    /// A backend that has no ring any more, and VIPs that may be about to move elsewhere.
    fn emptied(&self, id: u16) -> bool {
        !self.target.rings.contains_key(&id) && self.named.contains(&id)
    }

    /// The signature is taken away before the ring changes and given back afterwards, so
    /// that it never speaks of another ring.
    fn backend(&self, operations: &mut Vec<Operation>, id: u16, entry: &BackendEntry) {
        let before = self.actual.backends.get(&id).copied().unwrap_or_default();
        let has_ring = self.actual.rings.contains(&id);
        let right_ring = has_ring && before.ring_signature == entry.ring_signature;
        let members = self.target.rings.get(&id).filter(|_| !right_ring);
        if let Some(members) = members {
            if before.ring_signature != 0 {
                let entry = BackendEntry { ring_signature: 0, ring_members: 0, ..before };
                operations.push(Operation::PutBackend { id, entry });
            }
            let layout = self.target.layout(id);
            operations.push(Operation::SetRing { backend: id, members: members.clone(), layout });
        }
        if before != *entry || members.is_some_and(|_| before.ring_signature != 0) {
            operations.push(Operation::PutBackend { id, entry: *entry });
        }
        if has_ring && entry.ring_signature == 0 {
            operations.push(Operation::ClearRing { backend: id });
        }
    }

    /// Sets the bits of all addresses that are to be served.
    fn widen_filter(&self, operations: &mut Vec<Operation>) {
        for (index, needed) in &self.target.filter {
            let before = self.actual.filter.get(index).copied().unwrap_or(0);
            let bits = before | needed;
            if bits != before {
                operations
                    .push(Operation::WidenFilter { index: *index, word: FilterWord { bits } });
            }
        }
    }

    /// Clears the bits of addresses that are not, once no flow needs them any more.
    fn narrow_filter(&self, operations: &mut Vec<Operation>) {
        for (index, before) in &self.actual.filter {
            let needed = self.target.filter.get(index).copied().unwrap_or(0);
            let gone = before & !needed & self.actual.idle.get(index).copied().unwrap_or(0);
            if gone != 0 {
                let bits = (before | needed) & !gone;
                operations
                    .push(Operation::NarrowFilter { index: *index, word: FilterWord { bits } });
            }
        }
    }

    /// What is new first, unless the map has no room for both.
    fn vips(&self, operations: &mut Vec<Operation>) {
        let differs = |key: &&VipKey| self.actual.vips.get(*key) != self.target.vips.get(*key);
        let mut put: Vec<&VipKey> = self.target.vips.keys().filter(differs).collect();
        put.sort_by_key(|key| kind(key));
        let mut gone: Vec<&VipKey> =
            self.actual.vips.keys().filter(|key| !self.target.vips.contains_key(key)).collect();
        gone.sort_by_key(|key| kind(key));
        let puts = put.into_iter().filter_map(|key| {
            let entry = *self.target.vips.get(key)?;
            Some(Operation::PutVip { key: *key, entry })
        });
        let removals = gone.into_iter().map(|key| Operation::RemoveVip { key: *key });
        let new = self.target.vips.keys().filter(|key| !self.actual.vips.contains_key(key)).count();
        if self.actual.vips.len() + new > 2 * MAX_VIPS as usize {
            operations.extend(removals.chain(puts));
        } else {
            operations.extend(puts.chain(removals));
        }
    }

    /// Rings that no VIP names any more, and what remembers them.
    fn unused_backends(&self, operations: &mut Vec<Operation>) {
        for (id, entry) in self.target.backends.iter().filter(|(_, entry)| is_tombstone(entry)) {
            if self.actual.backends.get(id) != Some(entry) {
                operations.push(Operation::PutBackend { id: *id, entry: *entry });
            }
        }
        for id in &self.actual.rings {
            if self.target.backends.get(id).is_none_or(is_tombstone) {
                operations.push(Operation::ClearRing { backend: *id });
            }
        }
    }
}

/// Whether clients may have to be judged otherwise after an operation.
const fn changes_access(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::PutRules(_) | Operation::RemoveRules(_) | Operation::PutAdmission { .. }
    )
}

/// Whether an address and port may be another VIP after an operation, or none; processors
/// remember whom they have not let in by these.
const fn changes_vip(operation: &Operation) -> bool {
    matches!(operation, Operation::PutVip { .. } | Operation::RemoveVip { .. })
}

fn is_tombstone(entry: &BackendEntry) -> bool {
    entry.name.first() == Some(&0)
}

/// VIPs, then address records, then tombstones: a generation is written down before the
/// last entry that holds it goes, and forgotten after the first entry that holds it came.
const fn kind(key: &VipKey) -> u8 {
    match key.protocol {
        TOMBSTONE_PROTOCOL => 2,
        0 => 1,
        _ => 0,
    }
}
