//! Blocking sources and changing lists and limits at run time, and the rules that follow from
//! that and from the configuration.

use std::{sync::Arc, time::Instant};

use super::{
    Control,
    blocks::{BlockId, BlockRecord, Expiry, MAX_BLOCKS, show},
    overrides::MAX_ENTRIES,
};
use crate::{
    admin::{
        access::{AccessOrder, AccessView, LimitsOrder},
        api::{BlockView, BlocksView, RulesView},
        command::{BlockOrder, CommandError, UnblockOrder},
    },
    clock::{Moment, rfc3339},
    model::{frontend::Frontend, name::Name, snapshot::Snapshot},
    proxy::gate::{RuleBook, Ruling},
    reconcile::{Access, is_block},
};

impl Control {
    /// Makes the rules anew: configuration or blocks have changed.
    pub(super) fn rule(&mut self) {
        self.access = self.access_of(&self.snapshot);
        self.proxy.rule(self.ruling(&self.snapshot, &self.access));
    }

    /// The rules that follow from a configuration, from what is blocked and from what was said
    /// at run time.
    pub(super) fn access_of(&self, snapshot: &Snapshot) -> Access {
        Access::new(&self.overrides.apply(snapshot), &self.blocks.orders())
    }

    /// The same for the proxy: for its own frontends, and where it serves layer 4, those.
    pub(super) fn ruling(&self, snapshot: &Snapshot, access: &Access) -> Ruling {
        let own = Access::of_proxy(&self.overrides.apply(snapshot), &self.blocks.orders());
        let rules =
            |of: &Access| RuleBook::new(Arc::clone(&of.rules), of.flags, of.frontends.clone());
        let layer_4 = match self.kernel {
            Some(_) => RuleBook::default(),
            None => rules(access),
        };
        Ruling::new(rules(&own), layer_4, snapshot.datapath.max_sources)
    }

    /// Forgets blocks that have ended, which the data plane has noticed by itself, and comes
    /// back when the next one does.
    pub(super) fn end_blocks(&mut self) {
        let now = Moment::now();
        let ended = self.blocks.expire(now);
        for (frontend, network) in &ended {
            tracing::info!("the block of {}{} has ended", show(network), of(frontend.as_ref()));
        }
        if !ended.is_empty() {
            self.rule();
            self.remember();
        }
        if let Some(left) = self.blocks.next_expiry(now) {
            self.due = self.due.min(Instant::now() + left);
        }
    }

    /// Blocks a source and has it in force before that is confirmed.
    pub(super) async fn block(&mut self, order: BlockOrder) -> Result<BlockView, CommandError> {
        self.require_frontend(order.frontend.as_ref())?;
        let id = (order.frontend, order.network);
        if self.blocks.is_full_for(&id) {
            return Err(CommandError::NoRoom(MAX_BLOCKS));
        }
        let now = Moment::now();
        let expiry = order.time.map(|time| Expiry::after(now, time));
        let record = BlockRecord { since: now.wall, expiry, reason: order.reason };
        let view = view(&id, &record, now);
        let before = self.blocks.clone();
        self.blocks.insert(id, record);
        self.rule();
        if let Err(error) = self.require_room() {
            self.blocks = before;
            self.rule();
            return Err(error);
        }
        self.settle_rules().await?;
        tracing::info!("{}{} is blocked: {}", view.source, of_text(&view), view.reason);
        Ok(view)
    }

    /// Ends a block; what is still blocked.
    pub(super) async fn unblock(
        &mut self,
        order: UnblockOrder,
    ) -> Result<BlocksView, CommandError> {
        self.require_frontend(order.frontend.as_ref())?;
        let id = (order.frontend, order.network);
        if !self.blocks.remove(&id) {
            let (frontend, network) = id;
            let frontend = frontend.map(|name| name.to_string());
            return Err(CommandError::NotBlocked { network: show(&network), frontend });
        }
        self.rule();
        self.settle_rules().await?;
        tracing::info!("{}{} is not blocked any more", show(&id.1), of(id.0.as_ref()));
        Ok(self.blocks_view())
    }

    /// Says something of a network on a list and has it in force before that is confirmed.
    pub(super) async fn set_access(
        &mut self,
        order: AccessOrder,
    ) -> Result<AccessView, CommandError> {
        let AccessOrder { id, says, force } = order;
        self.require_frontend(id.0.as_ref())?;
        if self.overrides.is_full_for(&id) {
            return Err(CommandError::NoRoom(MAX_ENTRIES));
        }
        let before = self.overrides.clone();
        let was_only = self.lets_in_only_the_allowed(id.0.as_ref());
        let had = [true, false].map(|is_v4| self.access.count(is_v4));
        self.overrides.say(id.clone(), says);
        self.rule();
        let other_kind = match (was_only, self.lets_in_only_the_allowed(id.0.as_ref())) {
            (false, true) => Some("let nobody in but who is on it"),
            (true, false) => Some("let everybody in who is not denied"),
            _ => None,
        };
        let refused = other_kind.filter(|_| !force).map(CommandError::OtherKind);
        // A reload may have brought more than there is room for; what takes something back is
        // the way out of that.
        let grows = [true, false].map(|is_v4| self.access.count(is_v4)) > had;
        let grown = |error: &CommandError| grows || !matches!(error, CommandError::NoRoom(_));
        if let Some(error) = refused.or_else(|| self.require_room().err().filter(grown)) {
            self.overrides = before;
            self.rule();
            return Err(error);
        }
        self.settle_rules().await?;
        let list = id.0.as_ref().map_or_else(|| "the node".into(), |name| format!("'{name}'"));
        tracing::info!("{} on the list of {list}: {says:?}{}", show(&id.1), forced(force));
        Ok(self.overrides.view())
    }

    /// Changes limits and has them in force before that is confirmed.
    pub(super) async fn set_limits(
        &mut self,
        order: LimitsOrder,
    ) -> Result<AccessView, CommandError> {
        let LimitsOrder { frontend, set } = order;
        if !self.snapshot.l4_frontends().any(|(known, _)| *known == frontend) {
            let name = frontend.to_string();
            return Err(CommandError::Unknown { what: "frontend of layer 4", name });
        }
        self.overrides.limit(&frontend, &set);
        self.rule();
        self.settle_rules().await?;
        tracing::info!("limits of sources of frontend {frontend} were changed: {}", set.spoken());
        Ok(self.overrides.view())
    }

    /// Whether a list, as it is in force, lets nobody in who is not on it.
    fn lets_in_only_the_allowed(&self, frontend: Option<&Name>) -> bool {
        let configured = match frontend {
            None => Some(&self.snapshot.datapath.access),
            Some(name) => self.snapshot.frontends.get(name).map(Frontend::access),
        };
        configured.is_some_and(|list| !self.overrides.list(frontend, list).allow.is_empty())
    }

    /// Room for rules of each family.
    fn max_rules(&self) -> u32 {
        let configured = self.snapshot.datapath.max_prefixes;
        self.kernel.as_ref().map_or(configured, super::kernel::Kernel::max_rules)
    }

    /// Whether there is room for all rules.
    fn require_room(&self) -> Result<(), CommandError> {
        let most = self.max_rules() as usize;
        match self.access.count(true) > most || self.access.count(false) > most {
            true => Err(CommandError::NoRoom(most)),
            false => Ok(()),
        }
    }

    /// What to say if a reload has brought more rules than there is room for.
    pub(super) fn room_warning(&self) -> Option<String> {
        let most = self.kernel.as_ref()?.max_rules();
        let wanted = self.access.count(true).max(self.access.count(false));
        (wanted > most as usize).then(|| {
            format!(
                "{wanted} networks of one family are listed or blocked and there is room for \
                 {most}: some are not in force; take some back (pointsman access, pointsman \
                 unblock), or raise datapath.max_prefixes and restart the agent"
            )
        })
    }

    /// Everything that is blocked.
    pub(super) fn blocks_view(&self) -> BlocksView {
        let now = Moment::now();
        let blocks = self.blocks.iter().map(|(id, record)| view(id, record, now));
        BlocksView { blocks: blocks.collect() }
    }

    /// How many rules of layer 4 there are.
    pub(super) fn rules_view(&self) -> RulesView {
        let blocked = self.access.rules.iter().filter(|(prefix, _)| is_block(prefix)).count();
        RulesView {
            listed: self.access.rules.len() - blocked,
            blocked,
            capacity: self.max_rules().into(),
        }
    }

    async fn settle_rules(&mut self) -> Result<(), CommandError> {
        self.remember();
        self.compare().await;
        match &self.apply_error {
            Some(why) => Err(CommandError::NotApplied(why.clone())),
            None => Ok(()),
        }
    }

    fn require_frontend(&self, frontend: Option<&Name>) -> Result<(), CommandError> {
        match frontend {
            Some(name) if !self.snapshot.frontends.contains_key(name) => {
                Err(CommandError::Unknown { what: "frontend", name: name.to_string() })
            }
            _ => Ok(()),
        }
    }
}

fn view((frontend, network): &BlockId, record: &BlockRecord, now: Moment) -> BlockView {
    let left = |expiry: Expiry| expiry.at.duration_since(now.wall).unwrap_or_default();
    BlockView {
        source: show(network),
        frontend: frontend.as_ref().map(ToString::to_string),
        since: rfc3339(record.since),
        expires: record.expiry.map(|expiry| rfc3339(expiry.at)),
        left_s: record.expiry.map(|expiry| left(expiry).as_secs()),
        reason: record.reason.clone(),
    }
}

const fn forced(force: bool) -> &'static str {
    if force { ", by force" } else { "" }
}

fn of(frontend: Option<&Name>) -> String {
    frontend.map(|name| format!(" for frontend {name}")).unwrap_or_default()
}

fn of_text(view: &BlockView) -> String {
    view.frontend.as_ref().map(|name| format!(" for frontend {name}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use lb_common::settings::flag as node_flag;

    use super::*;
    use crate::{
        config,
        model::{access::Block, fixture::name},
    };

    fn block(frontend: Option<&str>, text: &str, expires_s: u32) -> Block {
        let network = text.parse().expect("tests use good networks");
        Block { frontend: frontend.map(name), network, expires_s }
    }

    #[test]
    fn frontends_of_the_proxy_have_their_lists_and_blocks_and_not_those_of_the_data_plane() {
        let yaml = "datapath: {interfaces: [eth0], allow: [10.0.0.0/8]}\nfrontends:\n  \
             pg: {mode: l4, bind: [\"10.0.0.1:80\"], backend: b, deny: [10.1.0.0/16]}\n  \
             web: {mode: http, bind: [\"10.0.0.2:80\"], backend: b, deny: [10.2.0.0/16]}\n  \
             db: {mode: tcp, bind: [\"10.0.0.3:80\"], backend: b, allow: [10.3.0.0/16]}\n\
             backends: {b: {servers: {s: \"10.0.1.1:80\"}}}\n";
        let snapshot = config::parse(yaml, "c").expect("it is good").snapshot;
        let blocks = [
            block(None, "10.9.0.1/32", 7),
            block(Some("web"), "10.9.0.2/32", 0),
            block(Some("pg"), "10.9.0.3/32", 0),
        ];
        let shown = |made: &Access| {
            let mut networks: Vec<String> =
                made.rules.iter().map(|(prefix, _)| prefix.network.to_string()).collect();
            networks.sort_unstable();
            networks.join(" ")
        };
        let made = Access::of_proxy(&snapshot, &blocks);
        assert_eq!(shown(&made), "10.2.0.0/16 10.3.0.0/16 10.9.0.1/32 10.9.0.2/32");
        let names: Vec<&str> = made.frontends.keys().map(Name::as_str).collect();
        assert_eq!(names, ["db", "web"]);
        assert_eq!(made.flags & node_flag::NODE_ALLOW_ONLY, 0);
        let made = Access::new(&snapshot, &blocks);
        assert_eq!(shown(&made), "10.0.0.0/8 10.1.0.0/16 10.9.0.1/32 10.9.0.3/32");
    }
}
