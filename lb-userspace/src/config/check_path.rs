//! `check: {via: vip}`: whether there is a way of traffic that checks can go.

use super::{
    backend::RawBackend,
    fault::{Refusal, Sink, quoted},
    frontend::{RawFrontend, RawMode},
    resolve::family,
};
use crate::model::{frontend::Forward, name::Name, snapshot::Via};

/// A backend against every frontend, and whatever else uses it, that has its packets.
pub(super) fn judge<'a>(
    name: &Name,
    backend: &RawBackend,
    users: impl Iterator<Item = &'a RawFrontend>,
    rules_use_it: bool,
    sink: &Sink,
) {
    let via = backend.check.as_ref().and_then(|check| check.via.as_ref());
    let Some(via) = via.filter(|via| via.value == Via::Vip) else { return };
    let is_asked =
        |frontend: &&RawFrontend| frontend.references().any(|reference| reference.value == *name);
    let mut vips = Vec::new();
    let mut others = rules_use_it;
    for user in users.filter(is_asked) {
        match &user.mode {
            Some(RawMode::L4(layer_4)) => {
                // What is at fault may be anything.
                let is_one_way = layer_4.forward.is_none_or(Forward::is_one_way);
                others |= !is_one_way;
                vips.extend(layer_4.vips.iter().filter_map(|bind| Some(bind.value?.address)));
            }
            Some(RawMode::Tcp(_) | RawMode::Http(_)) => others = true,
            None => {}
        }
    }
    if others {
        let message = format!(
            "{} needs frontends whose `forward` is dsr, ipip or gue, and this backend has others",
            quoted("vip")
        );
        let hint = "server: there the check goes the way of traffic anyway";
        sink.fault(&via.place, Refusal::new(message).hint(hint));
        return;
    }
    let servers = backend.servers.values();
    let mut servers = servers.filter_map(|server| server.value.as_ref()?.address()?.socket());
    let Some(server) = servers.next() else { return };
    if !vips.is_empty() && vips.iter().all(|vip| vip.is_ipv4() != server.is_ipv4()) {
        let message = format!(
            "the servers are {}, and no VIP of this backend is: checks are in their family",
            family(server)
        );
        let hint = "give a frontend of that family the backend too, or use server";
        sink.fault(&via.place, Refusal::new(message).hint(hint));
    }
}
