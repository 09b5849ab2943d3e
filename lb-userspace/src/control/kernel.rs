//! The control loop's hold on the data plane: loaded, reconciled, attached, read.
//!
//! Everything here blocks for the length of system calls (tens of milliseconds where a
//! ring changes), so it runs on the thread of the control loop and on no other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use lb_common::{access::action, drop_reason::DropReason, flow::Handle, server::state};
use nix::net::if_::if_nametoindex;
use tokio::sync::watch;

use super::{book::Memory, flows::FlowLister, idle_bits::IdleBits, view::TrafficBook};
use crate::{
    admin::api::InterfaceView,
    clock::Moment,
    datapath::{
        AddressBits, Attachment, Capacities, DataPlane, DatapathError, EventReader, FlowTables,
        LockedPins, Maps, Pins, Resetter, Settler,
        error::{InterfaceError, MapAccessError},
        loader,
    },
    model::{
        address::ServerAddress,
        name::Name,
        next_hop::NextHop,
        snapshot::{AttachMode, Bind, Datapath, Snapshot, SynCookies},
        state::AdminState,
    },
    reconcile::{self, Actual, ApplyError, Desired, ExecuteError, Places, PlanError, Rules},
};

/// The loaded data plane and what is known of it.
#[derive(Debug)]
pub struct Kernel {
    pub(super) plane: DataPlane,
    maps: Maps,
    /// The same once more, for whoever reads counters beside the loop.
    counters: Arc<Maps>,
    /// What the maps hold, as of the last reconciliation.
    actual: Actual,
    /// The rules for sources that the maps hold; none if that is not known for sure.
    rules: Option<Rules>,
    /// Bits of the address filter that flows may need, or need no more.
    idle: IdleBits,
    attachments: BTreeMap<String, Attachment>,
    flows: FlowLister,
}

/// Why the data plane is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// It could not be read or attached.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The configuration does not fit into it.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A change of the maps failed.
    #[error(transparent)]
    Apply(#[from] Box<ApplyError<ExecuteError>>),
}

impl KernelError {
    /// Whether an interface is not there, and nothing else is wrong.
    #[must_use]
    pub const fn is_missing(&self) -> bool {
        let Self::Datapath(DatapathError::Interface(error)) = self else { return false };
        matches!(error, InterfaceError::Missing { .. })
    }
}

impl Kernel {
    /// Loads the program and adopts the pinned maps, or makes them. Nothing is attached.
    ///
    /// # Errors
    /// See [`DataPlane::load`]; whatever was forwarding goes on forwarding.
    pub fn load(config: &Datapath) -> Result<Self, KernelError> {
        let pins = LockedPins::acquire(Pins::new(&config.pin_directory))?;
        let plane = DataPlane::load(pins, Capacities::of(config))?;
        let maps = plane.maps()?;
        let counters = Arc::new(plane.maps()?);
        let actual = Actual::read(&maps, None)?;
        let flows = FlowLister::new(FlowTables::open(plane.pins())?);
        Ok(Self {
            plane,
            maps,
            counters,
            actual,
            rules: None,
            idle: IdleBits::default(),
            attachments: BTreeMap::new(),
            flows,
        })
    }

    /// The tables of flows, to be listed.
    #[must_use]
    pub const fn flows(&self) -> &FlowLister {
        &self.flows
    }

    /// The reader of finished flows.
    ///
    /// # Errors
    /// If it can not be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn events(&self) -> Result<EventReader, KernelError> {
        Ok(EventReader::open(self.plane.pins())?)
    }

    /// What counts down what swept flows counted for.
    ///
    /// # Errors
    /// If it can not be opened.
    pub fn settler(&self) -> Result<Settler, KernelError> {
        Ok(Settler::open(self.plane.pins())?)
    }

    /// What resets idle clients of dead servers; `changes` says when the maps have changed.
    ///
    /// # Errors
    /// If the maps can not be opened.
    pub fn resetter(&self, changes: watch::Receiver<()>) -> Result<Resetter, KernelError> {
        Ok(Resetter::open(self.plane.pins(), changes)?)
    }

    /// The tables of flows, to be swept.
    ///
    /// # Errors
    /// If they can not be opened.
    pub fn flow_tables(&self) -> Result<FlowTables, KernelError> {
        Ok(FlowTables::open(self.plane.pins())?)
    }

    /// Whether the maps were there already.
    #[must_use]
    pub const fn adopted(&self) -> bool {
        self.plane.adopted()
    }

    /// Whether the programs were there already, too.
    #[must_use]
    pub const fn adopted_programs(&self) -> bool {
        self.plane.adopted_programs()
    }

    /// The way to each server as the maps remember it.
    #[must_use]
    pub fn next_hops(&self) -> BTreeMap<IpAddr, NextHop> {
        self.actual.next_hops()
    }

    /// What the maps remember of the state of servers, for want of a better memory: a dead
    /// server was found dead, or taken out if nothing checks it; a drained one was drained.
    #[must_use]
    pub fn memories(&self, snapshot: &Snapshot, now: std::time::SystemTime) -> Vec<Memory> {
        let (mut memories, places) = (Vec::new(), self.actual.places());
        for (backend_name, backend) in &snapshot.backends {
            for (server_name, server) in &backend.servers {
                let address = server.address.socket();
                let entry = address.and_then(|at| places.server(backend_name, at));
                let id = (backend_name.clone(), server_name.clone());
                match entry.map(|(_, entry)| entry.state) {
                    Some(state::DOWN) if backend.check.is_some() => {
                        memories.push(Memory::of_death(id, *server, now));
                    }
                    Some(state::DOWN) => {
                        memories.push(Memory::of_admin(id, *server, AdminState::Maint, now));
                    }
                    Some(state::DRAIN) => {
                        memories.push(Memory::of_admin(id, *server, AdminState::Drain, now));
                    }
                    _ => {}
                }
            }
        }
        memories
    }

    /// Buckets of each half-open table as it is.
    #[must_use]
    pub fn half_open_buckets(&self) -> u32 {
        self.plane.half_open_buckets()
    }

    /// Whether the kernel has SYN cookies for XDP programs.
    #[must_use]
    pub const fn has_cookies(&self) -> bool {
        self.plane.has_cookies()
    }

    /// Places of each processor's rings of flows that are over.
    #[must_use]
    pub fn ended_places(&self) -> u32 {
        self.plane.ended_places()
    }

    /// Takes note of the addresses that a sweep found flows to use.
    pub fn note_sweep(&mut self, used: &AddressBits) {
        self.idle.note_sweep(used);
    }

    /// Brings the maps to what is desired; how many changes that took.
    ///
    /// # Errors
    /// If the maps can not be read, hold the desired state, or be written. What was done
    /// is safe; calling again goes on.
    pub fn reconcile(&mut self, desired: &Desired) -> Result<usize, KernelError> {
        let mut changes = 0;
        let known = self.rules.take();
        let (was_known, mut known) = (known.is_some(), known);
        loop {
            self.actual = Actual::read(&self.maps, known)?;
            self.actual.idle = self.idle.words();
            let mut plan = reconcile::plan(desired, &self.actual)?;
            plan.make_room(&self.actual, self.plane.max_rules() as usize);
            if let Err(error) = reconcile::apply(&mut self.maps, &plan.operations) {
                // What was done is what counters and flows are told by.
                self.actual = Actual::read(&self.maps, None)?;
                self.idle.follow(&self.actual);
                return Err(Box::new(error).into());
            }
            for operation in &plan.operations {
                tracing::debug!(%operation, "applied");
                self.actual.apply(operation);
            }
            self.idle.follow(&self.actual);
            changes += plan.operations.len();
            // Equal to what they were made; this one is the one that plans compare with.
            self.actual.rules = Rules::clone(&desired.rules);
            known = Some(Rules::clone(&desired.rules));
            // Otherwise ids were short, and some are free now. Each plan frees some or is
            // an error, so this ends.
            if plan.complete {
                if !was_known {
                    // An agent may have ended between a change of the lists and this.
                    self.maps.judge_anew().map_err(DatapathError::from)?;
                }
                self.rules = known;
                return Ok(changes);
            }
        }
    }

    /// Attaches the program where the configuration wants it, with its mode, and then takes it
    /// off wherever else it is: not before, so that something goes on forwarding if an
    /// interface refuses. One that was deleted and made again counts as new.
    ///
    /// # Errors
    /// The first interface that refused, or else the first that is not there; the others are
    /// attached all the same.
    pub fn attach(&mut self, config: &Datapath) -> Result<(), KernelError> {
        let attached = self.attach_to(config.interfaces.iter(), config.mode);
        self.settle_others(config, attached)
    }

    /// Takes the program off interfaces that it should not be attached to, once it is attached
    /// where it should be. One that is not there does not hold that up, if another is.
    fn settle_others(
        &mut self,
        config: &Datapath,
        attached: Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        let forwards = config.interfaces.iter().any(|name| self.is_attached(name));
        match &attached {
            Err(error) if !(error.is_missing() && forwards) => attached,
            _ => self.detach_others(config).and(attached),
        }
    }

    fn detach_others(&mut self, config: &Datapath) -> Result<(), KernelError> {
        let wanted: BTreeSet<&String> = config.interfaces.iter().collect();
        for name in self.plane.pins().linked_interfaces().map_err(DatapathError::from)? {
            if !wanted.contains(&name) {
                self.plane.detach(&name)?;
                self.attachments.remove(&name);
                tracing::info!("the program was taken off {name}");
            }
        }
        Ok(())
    }

    /// Attaches the program to interfaces that it is not attached to: those that were
    /// deleted and made again, or refused before.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn attach_missing(&mut self, config: &Datapath) -> Result<(), KernelError> {
        let missing: Vec<_> =
            config.interfaces.iter().filter(|name| !self.is_attached(name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let attached = self.attach_to(missing.into_iter(), config.mode);
        self.settle_others(config, attached)
    }

    /// Whether the program is attached to every interface that it should be attached to.
    #[must_use]
    pub fn is_attached_to_all(&self, config: &Datapath) -> bool {
        config.interfaces.iter().all(|name| self.is_attached(name))
    }

    /// Whether the program is attached anywhere.
    #[must_use]
    pub fn is_attached_somewhere(&self) -> bool {
        !self.attachments.is_empty()
    }

    /// Whether an interface is the one that the program was attached to, not one that was
    /// made anew under its name.
    fn is_attached(&self, name: &str) -> bool {
        let attached = self.attachments.get(name).map(|attachment| attachment.ifindex);
        attached.is_some() && if_nametoindex(name).ok() == attached
    }

    fn attach_to<'a>(
        &mut self,
        names: impl Iterator<Item = &'a String>,
        mode: AttachMode,
    ) -> Result<(), KernelError> {
        let (mut refused, mut missing) = (None, None);
        for name in names {
            match self.plane.attach(name, mode) {
                Ok(Some(attachment)) => self.note_attachment(attachment, mode),
                Ok(None) => {}
                Err(error) => {
                    self.attachments.remove(name);
                    let error = KernelError::from(error);
                    let first = if error.is_missing() { &mut missing } else { &mut refused };
                    first.get_or_insert(error);
                }
            }
        }
        refused.or(missing).map_or(Ok(()), Err)
    }

    /// How the program is attached to each of these interfaces.
    #[must_use]
    pub fn interfaces(&self, config: &Datapath) -> Vec<InterfaceView> {
        let view = |name: &String| {
            let mode = match self.attachments.get(name) {
                None => AttachMode::Off,
                Some(attachment) if attachment.generic => AttachMode::Generic,
                Some(_) => AttachMode::Native,
            };
            InterfaceView { name: name.clone(), mode }
        };
        config.interfaces.iter().map(view).collect()
    }

    /// What an operator should know of the data plane.
    #[must_use]
    pub fn warnings(&self, snapshot: &Snapshot) -> Vec<String> {
        let config = &snapshot.datapath;
        let attachments = self.attachments.values();
        let generic = attachments.filter_map(|one| generic_warning(one, config.mode));
        let kept = self.plane.capacities_kept().iter().map(|kept| {
            format!(
                "{} keeps its capacity of {} entries although {} are configured; to change it, \
                 stop the agent with --detach-on-exit and start it again (every flow is forgotten)",
                kept.map, kept.pinned, kept.configured
            )
        });
        let wants_cookies = snapshot.l4_frontends().any(|(_, frontend)| {
            frontend.syn_cookies.unwrap_or(config.syn_cookies) != SynCookies::Off
        });
        let cookies = (wants_cookies && !self.has_cookies()).then(|| {
            "this kernel has no SYN cookies for XDP programs (Linux 6.0 with CONFIG_SYN_COOKIES \
             has): `syn_cookies` does nothing, a flood of SYNs pushes half-open flows out"
                .to_owned()
        });
        generic.chain(kept).chain(cookies).collect()
    }

    /// Whether so many SYNs come that they are answered with cookies.
    ///
    /// # Errors
    /// If the map can not be read.
    pub fn is_flooded(&self) -> Result<bool, MapAccessError> {
        Ok(self.maps.cookies()?.is_active(Moment::now().monotonic_ns))
    }

    /// The counters of every VIP and server.
    ///
    /// # Errors
    /// If they can not be read.
    pub fn traffic(&self, snapshot: &Snapshot) -> Result<TrafficBook, MapAccessError> {
        let mut traffic = TrafficBook::default();
        for bind in snapshot.l4_frontends().flat_map(|(_, frontend)| &frontend.bind) {
            if let Some(entry) = self.actual.vip(bind) {
                traffic.vips.insert(*bind, self.maps.vip_counters(entry.id)?.into());
            }
        }
        let places = self.actual.places();
        for (name, backend) in &snapshot.backends {
            for server in backend.servers.values() {
                self.count_server(&places, name, server.address, &mut traffic)?;
            }
        }
        Ok(traffic)
    }

    /// The counters of one server.
    ///
    /// # Errors
    /// If they can not be read.
    pub fn traffic_of(
        &self,
        backend: &Name,
        server: ServerAddress,
    ) -> Result<TrafficBook, MapAccessError> {
        let mut traffic = TrafficBook::default();
        self.count_server(&self.actual.places(), backend, server, &mut traffic)?;
        Ok(traffic)
    }

    fn count_server(
        &self,
        places: &Places<'_>,
        backend: &Name,
        server: ServerAddress,
        traffic: &mut TrafficBook,
    ) -> Result<(), MapAccessError> {
        if let Some((id, _)) = server.socket().and_then(|at| places.server(backend, at)) {
            let place = (backend.clone(), server);
            traffic.flows.insert(place.clone(), self.maps.server_flows(id)?);
            traffic.servers.insert(place, self.maps.server_counters(id)?.into());
        }
        Ok(())
    }

    /// The maps, to read counters from.
    #[must_use]
    pub fn counters(&self) -> Arc<Maps> {
        Arc::clone(&self.counters)
    }

    /// The id and generation of a VIP.
    #[must_use]
    pub fn vip_handle(&self, bind: &Bind) -> Option<Handle> {
        let entry = self.actual.vip(bind)?;
        Some(Handle { id: entry.id, generation: entry.generation })
    }

    /// Where the servers are in the maps.
    #[must_use]
    pub fn places(&self) -> Places<'_> {
        self.actual.places()
    }

    /// Room for rules of each family.
    #[must_use]
    pub fn max_rules(&self) -> u32 {
        self.plane.max_rules()
    }

    /// What the maps remember of blocks, for want of a better memory: scope, network, and
    /// the second of the data plane's clock when it expires, 0 for never.
    pub fn blocks(&self) -> impl Iterator<Item = (u32, IpNet, u32)> {
        let rules = self.actual.rules.iter().filter(|(_, rule)| rule.action == action::BLOCK);
        rules.map(|(prefix, rule)| (prefix.scope, prefix.network, rule.expires_s))
    }

    /// Dropped packets by reason.
    ///
    /// # Errors
    /// If they can not be read.
    pub fn drops(&self) -> Result<Vec<(DropReason, u64)>, MapAccessError> {
        self.maps.drops()
    }

    /// Takes the program off every interface and removes every pin: forwarding stops.
    ///
    /// # Errors
    /// If a pin can not be removed.
    pub fn remove(self) -> Result<(), KernelError> {
        let Self { plane, maps, counters, .. } = self;
        loader::remove(plane.pins(), false)?;
        // The last descriptors; with them the maps go.
        drop((maps, counters, plane));
        Ok(())
    }

    fn note_attachment(&mut self, attachment: Attachment, wanted: AttachMode) {
        let before = self.attachments.get(&attachment.interface);
        if before.is_none_or(|before| before.ifindex != attachment.ifindex) {
            let mode = if attachment.generic { "generic" } else { "native" };
            let how = if attachment.replaced { "took over" } else { "attached" };
            tracing::info!("XDP program {how} on {} ({mode})", attachment.interface);
            if let Some(warning) = generic_warning(&attachment, wanted) {
                tracing::warn!("{warning}");
            }
        }
        self.attachments.insert(attachment.interface.clone(), attachment);
    }
}

/// Native XDP with fallback to generic, said loudly; no warning where generic was asked for.
fn generic_warning(attachment: &Attachment, wanted: AttachMode) -> Option<String> {
    if !attachment.generic || wanted == AttachMode::Generic {
        return None;
    }
    let why = match &attachment.fallback {
        Some(why) => format!("its driver refused native XDP: {why}"),
        None => "it was attached so before".to_owned(),
    };
    let name = &attachment.interface;
    Some(format!("{name} forwards in GENERIC mode, several times slower than native ({why})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(generic: bool, fallback: Option<&str>) -> Attachment {
        Attachment {
            interface: "eth0".into(),
            ifindex: 2,
            generic,
            fallback: fallback.map(str::to_owned),
            replaced: false,
        }
    }

    #[test]
    fn generic_mode_that_nobody_asked_for_is_said_loudly() {
        let fallen = attachment(true, Some("Operation not supported (os error 95)"));
        let warning = generic_warning(&fallen, AttachMode::Auto).expect("a warning");
        assert_eq!(
            warning,
            "eth0 forwards in GENERIC mode, several times slower than native (its driver refused \
             native XDP: Operation not supported (os error 95))"
        );
        let adopted = generic_warning(&attachment(true, None), AttachMode::Auto);
        assert!(adopted.expect("a warning").ends_with("(it was attached so before)"));
    }

    #[test]
    fn what_was_asked_for_is_no_warning() {
        let generic = attachment(true, None);
        assert_eq!(generic_warning(&generic, AttachMode::Generic), None);
        let native = attachment(false, None);
        for wanted in [AttachMode::Auto, AttachMode::Native] {
            assert_eq!(generic_warning(&native, wanted), None);
        }
    }
}
