//! Why a packet was not forwarded. Every drop has a reason; the reason indexes
//! `DROP_COUNTERS`.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why a packet of ours was dropped, or answered in place of a server.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl DropReason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable name used by `pointsman drops`, logs and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

drop_reasons! {
    /// A header of the packet contradicts itself or its length.
    Malformed = 0, "malformed";
    /// The source address can not be a client's (unspecified, loopback, multicast, or the VIP itself).
    BadSource = 1, "bad_source";
    /// A fragment to a VIP that came before the first of its packet, or long after it.
    Fragment = 2, "fragment";
    /// The TTL or hop limit would reach zero.
    TtlExpired = 3, "ttl_expired";
    /// A TCP reset that belongs to no flow.
    NoFlow = 4, "no_flow";
    /// The backend has no server that takes new flows.
    NoServer = 5, "no_server";
    /// The flow's server is dead or gone; TCP clients are answered with a RST.
    ServerDown = 6, "server_down";
    /// Every probed source port towards the server is in use.
    PortsExhausted = 7, "ports_exhausted";
    /// The table of confirmed flows is full; the packet was forwarded, its flow stays half-open.
    FlowTableFull = 8, "flow_table_full";
    /// No room for another half-open flow: the one that was silent for longest gave way and the packet was forwarded; without a data plane, the datagram was dropped.
    HalfOpenTableFull = 9, "half_open_table_full";
    /// The next hop towards the server is not known, nor to the kernel; or it is a router and `dsr` needs the server itself.
    NoNeighbour = 10, "no_neighbour";
    /// The packet could not be resized to answer it.
    Resize = 11, "resize";
    /// An invariant of the data plane did not hold; please report it.
    Internal = 12, "internal";
    /// A finished flow could not be reported, the ring buffer was full; the packet was forwarded.
    EventLost = 13, "event_lost";
    /// An ICMP error about a packet from a VIP whose flow is not known here.
    IcmpNoFlow = 14, "icmp_no_flow";
    /// The source is on a deny list, the frontend's or the node's.
    Denied = 15, "denied";
    /// There is an allow list, and the source is not on it.
    NotAllowed = 16, "not_allowed";
    /// The operator blocks the source (`pointsman blocks`).
    Blocked = 17, "blocked";
    /// The source opens flows faster than its frontend allows.
    NewRate = 18, "new_rate";
    /// The source sends packets faster than its frontend allows.
    PacketRate = 19, "packet_rate";
    /// The source has as many flows as its frontend allows.
    FlowsPerSource = 20, "flows_per_source";
    /// A first fragment without the whole TCP or UDP header.
    FragmentShort = 21, "fragment_short";
    /// A fragment that reaches into the first of its packet, where the ports are.
    FragmentOverlap = 22, "fragment_overlap";
    /// An echo request to a VIP beyond the rate at which they are answered.
    EchoRate = 23, "echo_rate";
    /// The packet does not fit into the link to the server once it is encapsulated; up to a
    /// rate, its sender is told what fits.
    TooBig = 24, "too_big";
    /// A SYN that was answered with a cookie in place of a server: nothing is lost.
    SynCookie = 25, "syn_cookie";
    /// An ACK that brought a cookie back and went on to a server as a SYN: nothing is lost.
    CookieValid = 26, "syn_cookie_valid";
    /// A TCP packet without a flow whose acknowledgement is no cookie, while SYNs are answered
    /// with cookies.
    CookieInvalid = 27, "syn_cookie_invalid";
    /// A server answered the SYN behind a cookie with neither SYN-ACK nor RST; it was reset.
    CookieAnswer = 28, "syn_cookie_answer";
    /// No server has room for one more flow (`max_connections`); TCP clients are answered with a RST.
    ServerFull = 29, "server_full";
    /// The lock of the packet's flow was held by a processor that was not running at that moment;
    /// TCP sends the packet again.
    Busy = 30, "busy";
}

impl DropReason {
    /// How many reasons there are; the size of `DROP_COUNTERS`.
    pub const COUNT: u32 = 31;

    /// From the index into `DROP_COUNTERS`.
    #[must_use]
    pub fn from_index(index: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| *reason as u32 == index)
    }
}

const _: () = assert!(DropReason::ALL.len() == DropReason::COUNT as usize);
