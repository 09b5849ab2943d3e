//! One change to one map.

use std::fmt;

use lb_common::{
    access::{AccessRule, AdmissionEntry},
    backend::BackendEntry,
    flow::Handle,
    server::{ServerEntry, state},
    settings::Settings,
    vip::{FilterWord, TOMBSTONE_PROTOCOL, VipEntry, VipKey},
};

use super::ring::{self, Layout, RingMember};
use crate::model::{access::Prefix, index::plain_address};

/// One change to one map. Each is atomic as a packet sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Write the settings.
    PutSettings(Settings),
    /// Forget what a VIP id counted for somebody else; count for this generation.
    ZeroVipCounters(Handle),
    /// Forget what a server id counted for somebody else; count for this generation.
    ZeroServerCounters(Handle),
    /// Write rules for sources, in order of their prefixes.
    PutRules(Vec<(Prefix, AccessRule)>),
    /// Remove rules for sources; prefixes in order.
    RemoveRules(Vec<Prefix>),
    /// Write what the frontend of a VIP asks of sources.
    PutAdmission {
        /// The VIP's id.
        id: u16,
        /// What to write; what is left ([`AdmissionEntry::left`]) if the id has no VIP.
        entry: AdmissionEntry,
    },
    /// Have the clients of all flows judged once more.
    JudgeAnew,
    /// Write a server; a retired one stays as a tombstone that keeps its generation.
    PutServer {
        /// Its id.
        id: u16,
        /// What to write.
        entry: ServerEntry,
    },
    /// Build a ring of these servers and swap it in.
    SetRing {
        /// The backend's id.
        backend: u16,
        /// Its members; at least one gets flows.
        members: Vec<RingMember>,
        /// How they share its slots.
        layout: Layout,
    },
    /// Write a backend.
    PutBackend {
        /// Its id.
        id: u16,
        /// What to write.
        entry: BackendEntry,
    },
    /// Write a word of the address filter that lets more addresses through than before.
    WidenFilter {
        /// Its index.
        index: u32,
        /// What to write.
        word: FilterWord,
    },
    /// Write a word of the address filter that lets fewer addresses through than before.
    NarrowFilter {
        /// Its index.
        index: u32,
        /// What to write.
        word: FilterWord,
    },
    /// Write a VIP, an address record or a tombstone.
    PutVip {
        /// Where.
        key: VipKey,
        /// What to write.
        entry: VipEntry,
    },
    /// Remove a VIP, an address record or a tombstone.
    RemoveVip {
        /// Where.
        key: VipKey,
    },
    /// Take a backend's ring away.
    ClearRing {
        /// The backend's id.
        backend: u16,
    },
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutSettings(_) => f.write_str("write the settings"),
            Self::ZeroVipCounters(vip) => write!(f, "zero the counters of VIP id {}", vip.id),
            Self::ZeroServerCounters(server) => {
                write!(f, "zero the counters of server id {}", server.id)
            }
            Self::PutRules(rules) => write!(f, "write {} rules for sources", rules.len()),
            Self::RemoveRules(prefixes) => {
                write!(f, "remove {} rules for sources", prefixes.len())
            }
            Self::PutAdmission { id, .. } => {
                write!(f, "write what VIP id {id} asks of sources")
            }
            Self::JudgeAnew => f.write_str("have all clients judged anew"),
            Self::PutServer { id, entry } => {
                let word = match entry.state {
                    state::UP => "up",
                    state::DRAIN => "draining",
                    state::DOWN => "down",
                    _ => return write!(f, "retire server id {id}"),
                };
                let (address, port) = (plain_address(entry.address), entry.port.get());
                write!(f, "write server {address} port {port} (id {id}) as {word}")
            }
            Self::SetRing { backend, members, .. } => {
                write!(f, "give backend id {backend} a ring of {} servers", ring::usable(members))
            }
            Self::PutBackend { id, .. } => write!(f, "write backend id {id}"),
            Self::WidenFilter { index, .. } => write!(f, "set bits of word {index} of the filter"),
            Self::NarrowFilter { index, .. } => {
                write!(f, "clear bits of word {index} of the filter")
            }
            Self::PutVip { key, .. } => write!(f, "write {}", Key(key)),
            Self::RemoveVip { key } => write!(f, "remove {}", Key(key)),
            Self::ClearRing { backend } => write!(f, "take the ring of backend id {backend}"),
        }
    }
}

/// A key of `VIPS`, for people.
struct Key<'a>(&'a VipKey);

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = plain_address(self.0.address);
        let port = self.0.port.get();
        match self.0.protocol {
            0 => write!(f, "the record of address {address}"),
            TOMBSTONE_PROTOCOL => write!(f, "the tombstone of VIP id {port}"),
            protocol => write!(f, "VIP {address} port {port} protocol {protocol}"),
        }
    }
}
