//! The life of a TCP flow as seen from between its two ends.
//!
//! What was seen is a set of bits that only grows ([`Progress`]); the named state
//! ([`TcpState`]) is a function of the set. Bits may be or-ed into an entry from several
//! CPUs in any order and the result is the same, which no stored state number could give.
//! No sequence numbers are tracked: the ends judge those, and a forged segment that an
//! end ignores can at worst shorten the idle timeout of its flow.
//!
//! Follows RFC 9293 section 3.3.2; which flags make sense together is taken from
//! netfilter's `tcp_valid_flags` (net/netfilter/nf_conntrack_proto_tcp.c).

use crate::{flow::Direction, forward::Forward};

/// Control bits of a TCP header, as they stand in its fourteenth octet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// Push.
    pub const PSH: u8 = 8;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 16;

    const CONTROL: u8 = Self::FIN | Self::SYN | Self::RST;

    /// Whether all of `bits` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }

    /// Opens a connection: SYN without ACK, RST or FIN.
    #[inline(always)]
    #[must_use]
    pub const fn is_fresh_syn(self) -> bool {
        matches!(self.segment(), Segment::Syn)
    }

    /// Answers an opening: SYN and ACK without RST or FIN.
    #[inline(always)]
    #[must_use]
    pub const fn is_syn_ack(self) -> bool {
        matches!(self.segment(), Segment::SynAck)
    }

    /// Whether the flags make sense together.
    #[inline(always)]
    #[must_use]
    pub const fn is_well_formed(self) -> bool {
        !matches!(self.segment(), Segment::Malformed)
    }

    #[inline(always)]
    const fn segment(self) -> Segment {
        const FIN_ACK: u8 = TcpFlags::FIN | TcpFlags::ACK;
        const SYN_ACK: u8 = TcpFlags::SYN | TcpFlags::ACK;
        const RST_ACK: u8 = TcpFlags::RST | TcpFlags::ACK;
        match self.0 & (Self::CONTROL | Self::ACK) {
            Self::ACK => Segment::Ack,
            FIN_ACK => Segment::Fin,
            Self::SYN => Segment::Syn,
            SYN_ACK => Segment::SynAck,
            Self::RST | RST_ACK => Segment::Rst,
            _ => Segment::Malformed,
        }
    }
}

/// What a segment is, all flags considered. Pushing, urgency and congestion bits do not
/// matter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Segment {
    Syn,
    SynAck,
    Ack,
    /// With ACK; a FIN without it is malformed.
    Fin,
    /// With or without ACK.
    Rst,
    Malformed,
}

/// What a RST is worth, judged by its sequence number (RFC 5961 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belief {
    /// It has the number that its receiver acknowledged last: the connection is over.
    Full,
    /// It is ahead of that, as it is when segments before it are not acknowledged yet. Then its
    /// receiver believes it; if they never were, it asks and goes on.
    Doubtful,
    /// No receiver takes it.
    None,
}

impl Belief {
    /// How far ahead a RST may be, bytes: what can be under way without an acknowledgement.
    const WINDOW: u32 = 1 << 24;

    /// Of a RST with the number `sequence`, whose receiver last acknowledged `expected`; both as
    /// the receiver of the RST counts, or both as its sender does.
    #[inline(always)]
    #[must_use]
    pub const fn of_rst(sequence: u32, expected: u32) -> Self {
        match sequence.wrapping_sub(expected) {
            0 => Self::Full,
            1..=Self::WINDOW => Self::Doubtful,
            _ => Self::None,
        }
    }
}

/// What was seen of a flow: a set of bits that only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress(pub u32);

impl Progress {
    /// The client's SYN.
    pub const SYN: u32 = 1;
    /// The server's SYN-ACK.
    pub const SYN_ACK: u32 = 2;
    /// The client's ACK after the SYN-ACK, or the server's answer to a picked-up flow.
    pub const CONFIRMED: u32 = 4;
    /// A FIN of the client.
    pub const CLIENT_FIN: u32 = 8;
    /// A FIN of the server.
    pub const SERVER_FIN: u32 = 16;
    /// An ACK after the FINs of both.
    pub const LAST_ACK: u32 = 32;
    /// A RST of the client.
    pub const CLIENT_RST: u32 = 64;
    /// A RST of the server.
    pub const SERVER_RST: u32 = 128;
    /// The flow was taken up in its middle; set by whoever creates the entry.
    pub const PICKED_UP: u32 = 256;
    /// The end was reported; set by whoever reports it.
    pub const REPORTED: u32 = 512;
    /// The client was reset because the server died; set by whoever resets it.
    pub const SERVER_DOWN: u32 = 1024;
    /// The flow counts among those of its source (`SOURCES`); set when it is confirmed, for
    /// UDP too.
    pub const COUNTED: u32 = 2048;
    /// The flow does not count among those of its server any more (`SERVER_FLOWS`). In the entry
    /// for the server's packets, or the only one, alone; whoever sets it counts down.
    pub const UNCOUNTED: u32 = 1 << 27;

    /// A RST of the client that its server may believe or not ([`Belief::Doubtful`]).
    pub const CLIENT_DOUBT: u32 = 1 << 15;
    /// A RST of the server that its client may believe or not.
    pub const SERVER_DOUBT: u32 = 1 << 16;

    /// The flow began with a SYN cookie: its server numbers its bytes otherwise than its client
    /// knows; set by whoever creates the entry.
    pub const COOKIE: u32 = 4096;

    /// The first bits of a flow that a FIN was the first packet of: carried to its end, and
    /// neither counted nor reported.
    pub const CARRIED: u32 = Self::PICKED_UP | Self::CLIENT_FIN | Self::REPORTED;

    /// Lowest of the bits that hold how the flow's packets reach its server; set by whoever
    /// creates the entry, and the same ever after.
    const FORWARD_SHIFT: u32 = 28;
    /// Lowest of the two bits that hold the client's segment size in a flow that began with a
    /// SYN cookie.
    const SEGMENT_SIZE_SHIFT: u32 = 13;
    /// Those bits; any of them: the flow is one-way.
    const FORWARD: u32 = 3 << Self::FORWARD_SHIFT;

    const BOTH_FIN: u32 = Self::CLIENT_FIN | Self::SERVER_FIN;
    const ABORTED: u32 = Self::CLIENT_RST | Self::SERVER_RST | Self::SERVER_DOWN;
    /// The server has answered, as far as anybody here can tell.
    const ANSWERED: u32 = Self::SYN_ACK | Self::FORWARD;
    const LEAVING: u32 = Self::BOTH_FIN | Self::ABORTED;

    /// These bits in a flow whose packets reach its server this way.
    #[inline(always)]
    #[must_use]
    pub const fn with_forward(self, forward: Forward) -> Self {
        Self(self.0 | (forward.to_raw() as u32) << Self::FORWARD_SHIFT)
    }

    /// How the flow's packets reach its server.
    #[inline(always)]
    #[must_use]
    pub const fn forward(self) -> Forward {
        Forward::from_raw((self.0 >> Self::FORWARD_SHIFT & 3) as u8)
    }

    /// The first bits of a flow that a SYN cookie began, with the client's segment size as its
    /// index in [`crate::syn_cookie::segment_size`].
    #[inline(always)]
    #[must_use]
    pub const fn behind_cookie(size_index: u32) -> u32 {
        Self::SYN | Self::COOKIE | (size_index & 3) << Self::SEGMENT_SIZE_SHIFT
    }

    /// The index that [`Self::behind_cookie`] was given.
    #[inline(always)]
    #[must_use]
    pub const fn segment_size_index(self) -> u32 {
        self.0 >> Self::SEGMENT_SIZE_SHIFT & 3
    }

    /// Whether a SYN cookie began the flow.
    #[inline(always)]
    #[must_use]
    pub const fn is_behind_cookie(self) -> bool {
        self.has_any(Self::COOKIE)
    }

    /// Whether the server's sequence numbers are not known yet in a flow that a SYN cookie
    /// began.
    #[inline(always)]
    #[must_use]
    pub const fn awaits_server(self) -> bool {
        self.0 & (Self::COOKIE | Self::SYN_ACK) == Self::COOKIE
    }

    /// Whether only the client's packets are seen.
    #[inline(always)]
    #[must_use]
    pub const fn is_one_way(self) -> bool {
        self.has_any(Self::FORWARD)
    }

    /// The named state.
    #[inline]
    #[must_use]
    pub const fn state(self) -> TcpState {
        if self.is_over() {
            TcpState::Closed
        } else if self.has_all(Self::BOTH_FIN) {
            TcpState::Closing
        } else if self.has_any(Self::CLIENT_FIN) {
            TcpState::ClientClosing
        } else if self.has_any(Self::SERVER_FIN) {
            TcpState::ServerClosing
        } else if self.is_confirmed() {
            TcpState::Established
        } else if self.has_any(Self::SYN_ACK | Self::PICKED_UP) {
            TcpState::SynReceived
        } else {
            TcpState::SynSent
        }
    }

    /// Whether both sides took part, so that the flow is no mere attempt.
    #[inline(always)]
    #[must_use]
    pub const fn is_confirmed(self) -> bool {
        self.has_any(Self::CONFIRMED)
    }

    /// Whether the flow has ended: closed and acknowledged by both, or reset.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(self) -> bool {
        self.has_any(Self::ABORTED) || self.has_all(Self::BOTH_FIN | Self::LAST_ACK)
    }

    /// Whether a RST came that the flow may have ended by.
    #[inline(always)]
    #[must_use]
    pub const fn is_in_doubt(self) -> bool {
        self.has_any(Self::CLIENT_DOUBT | Self::SERVER_DOUBT)
    }

    /// Of bits that a RST adds ([`Self::observe`]), those that it adds for what it is worth.
    #[inline(always)]
    #[must_use]
    pub const fn believe(bits: u32, belief: Belief) -> u32 {
        match (belief, bits) {
            (Belief::Full, _) => bits,
            (Belief::Doubtful, Self::CLIENT_RST) => Self::CLIENT_DOUBT,
            (Belief::Doubtful, Self::SERVER_RST) => Self::SERVER_DOUBT,
            (Belief::Doubtful | Belief::None, _) => 0,
        }
    }

    /// Whether a fresh SYN may take over the tuple: the flow is over, or both ends sent
    /// FIN and at most one of them lingers in TIME-WAIT (RFC 9293 section 3.10.7.4 lets
    /// a SYN reopen that), or no more than a FIN is carried. Of a one-way flow the client's FIN
    /// is all that can be seen.
    #[inline(always)]
    #[must_use]
    pub const fn recyclable(self) -> bool {
        self.has_any(Self::ABORTED)
            || self.has_all(Self::BOTH_FIN)
            || self.has_all(Self::CARRIED)
            || self.is_one_way() && self.has_any(Self::CLIENT_FIN)
    }

    /// Whether a packet may change anything. False only for the many: plain segments of
    /// an established flow, for which [`Self::observe`] has nothing to add; never of one that a
    /// SYN cookie began.
    #[inline(always)]
    #[must_use]
    pub const fn needs_attention(self, flags: TcpFlags) -> bool {
        let established =
            self.0 & (Self::CONFIRMED | Self::COOKIE | Self::LEAVING) == Self::CONFIRMED;
        !established || flags.0 & TcpFlags::CONTROL != 0
    }

    /// The bits that a segment adds; 0 if it is malformed or does not fit.
    #[inline(always)]
    #[must_use]
    pub const fn observe(self, direction: Direction, flags: TcpFlags) -> u32 {
        match (flags.segment(), direction) {
            (Segment::Ack, Direction::Forward) => self.client_ack() | self.last_ack(),
            (Segment::Ack, Direction::Reply) => self.server_ack() | self.last_ack(),
            (Segment::Fin, Direction::Forward) => {
                self.client_ack() | self.if_any(Self::ANSWERED | Self::PICKED_UP, Self::CLIENT_FIN)
            }
            (Segment::Fin, Direction::Reply) => {
                self.server_ack() | self.if_any(Self::SYN_ACK | Self::PICKED_UP, Self::SERVER_FIN)
            }
            (Segment::Syn, Direction::Forward) => Self::SYN,
            (Segment::SynAck, Direction::Reply) => self.if_any(Self::SYN, Self::SYN_ACK),
            (Segment::Rst, Direction::Forward) => Self::CLIENT_RST,
            (Segment::Rst, Direction::Reply) => Self::SERVER_RST,
            (Segment::Syn, Direction::Reply)
            | (Segment::SynAck, Direction::Forward)
            | (Segment::Malformed, _) => 0,
        }
    }

    /// The client acknowledges: the third step of the handshake, if the second was taken. In
    /// a one-way flow nobody sees the second; the client must have, unless it goes on after a
    /// FIN that was carried.
    #[inline(always)]
    const fn client_ack(self) -> u32 {
        let one_way = self.is_one_way() && !self.has_any(Self::CLIENT_FIN);
        if one_way { Self::CONFIRMED } else { self.if_any(Self::SYN_ACK, Self::CONFIRMED) }
    }

    /// The server acknowledges: that proves a picked-up flow, and nothing else. It does not
    /// prove one whose client has sent FIN: the server may be acknowledging that once more,
    /// long after its own.
    #[inline(always)]
    const fn server_ack(self) -> u32 {
        let picked_up = self.0 & (Self::PICKED_UP | Self::CLIENT_FIN) == Self::PICKED_UP;
        if picked_up { Self::CONFIRMED } else { 0 }
    }

    #[inline(always)]
    const fn last_ack(self) -> u32 {
        if self.has_all(Self::BOTH_FIN) { Self::LAST_ACK } else { 0 }
    }

    #[inline(always)]
    const fn if_any(self, condition: u32, bits: u32) -> u32 {
        if self.has_any(condition) { bits } else { 0 }
    }

    #[inline(always)]
    const fn has_any(self, bits: u32) -> bool {
        self.0 & bits != 0
    }

    #[inline(always)]
    const fn has_all(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

/// The state of a TCP flow, in the order of its life; it never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TcpState {
    /// The client has sent its SYN.
    SynSent,
    /// The server has answered it, or the flow was picked up and the server has not
    /// answered yet.
    SynReceived,
    /// Both sides have confirmed.
    Established,
    /// The client has sent FIN.
    ClientClosing,
    /// The server has sent FIN.
    ServerClosing,
    /// Both have sent FIN.
    Closing,
    /// Both FINs are acknowledged, or somebody sent RST.
    Closed,
}

impl TcpState {
    /// The stable name used in tables, JSON and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::Established => "established",
            Self::ClientClosing => "client_closing",
            Self::ServerClosing => "server_closing",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }

    /// How far the flow has come: 0 to 5. The two half-closed states are equally far.
    #[must_use]
    pub const fn rank(self) -> u8 {
        match self {
            Self::SynSent => 0,
            Self::SynReceived => 1,
            Self::Established => 2,
            Self::ClientClosing | Self::ServerClosing => 3,
            Self::Closing => 4,
            Self::Closed => 5,
        }
    }
}

/// What to do with a client's TCP packet that belongs to no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstPacket {
    /// It opens a flow.
    Open,
    /// It comes from the middle of a flow whose entry was lost or is on another node;
    /// take the flow up.
    PickUp,
    /// It is the last of a flow whose entry was lost or is on another node, or comes once more
    /// after its flow has left; its answer is to find the way back, and no more.
    Carry,
    /// It can not start anything.
    Refuse,
}

/// What to do with a client's packet that belongs to no flow, by its flags.
#[inline(always)]
#[must_use]
pub const fn first_packet(flags: TcpFlags) -> FirstPacket {
    match flags.segment() {
        Segment::Syn => FirstPacket::Open,
        Segment::Ack => FirstPacket::PickUp,
        Segment::Fin => FirstPacket::Carry,
        Segment::SynAck | Segment::Rst | Segment::Malformed => FirstPacket::Refuse,
    }
}
