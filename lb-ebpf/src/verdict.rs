//! What becomes of a packet.

use aya_ebpf::bindings::xdp_action;
use lb_common::drop_reason::DropReason;

use crate::{counters, one_way::Way};

/// What a step of the way through the data plane leads to.
#[derive(Clone, Copy)]
pub enum Step {
    /// The packet is settled.
    Settled(Verdict),
    /// There is a half-open flow.
    HalfOpen,
    /// Its half-open flow has just left: look for a confirmed one once more.
    Again,
    /// There is no flow (any more): look for a VIP.
    Admit,
    /// Counted, and to be sent to a server that answers the client itself.
    OneWay(Way),
    /// Nothing was done about the packet: it is longer than this many bytes, which would fit
    /// into the link to the server once they are encapsulated.
    TooBig(u32),
    /// A SYN that is answered with a cookie, or a packet that may bring one back.
    Cookie,
    /// Noted, and of a flow behind a cookie: the draft has it.
    Splice,
    /// Of a confirmed flow behind a cookie; admitted, and not noted.
    Shift,
    /// Answer the sender with a RST, and count the reason.
    Reset(DropReason),
}

/// The fate of a packet, before it is counted and turned into an XDP action.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// Not ours: the kernel handles it.
    Pass,
    /// Send it out; the action is `XDP_TX` or `XDP_REDIRECT`.
    Send(u32),
    /// Drop it, for a reason that is counted.
    Drop(DropReason),
}

impl Verdict {
    /// The XDP action; counts a drop.
    #[inline(always)]
    #[must_use]
    pub fn into_action(self) -> u32 {
        match self {
            Self::Pass => xdp_action::XDP_PASS,
            Self::Send(action) => action,
            Self::Drop(reason) => {
                counters::count_drop(reason);
                xdp_action::XDP_DROP
            }
        }
    }
}
