//! The stages of the data plane: XDP programs of one object that hand a packet on to each
//! other by tail call.

/// A stage. Its number is its index in `STAGES`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Where every packet begins: packets of confirmed flows.
    Entry = 0,
    /// Packets of half-open flows, IPv4.
    HalfOpen4 = 1,
    /// The same for IPv6.
    HalfOpen6 = 2,
    /// Packets of no flow, IPv4.
    Admit4 = 3,
    /// The same for IPv6.
    Admit6 = 4,
    /// Answers with a RST, IPv4.
    Reset4 = 5,
    /// The same for IPv6.
    Reset6 = 6,
    /// ICMP messages.
    Icmp4 = 7,
    /// ICMPv6 messages.
    Icmp6 = 8,
    /// Echo requests, IPv4.
    Echo4 = 9,
    /// The same for IPv6.
    Echo6 = 10,
    /// Fragments, IPv4.
    Fragment4 = 11,
    /// The same for IPv6.
    Fragment6 = 12,
    /// The entry once more, for packets that come from another stage.
    Again = 13,
    /// Packets to servers that answer clients themselves.
    OneWay = 14,
    /// Packets that do not fit once they are encapsulated, IPv4.
    TooBig4 = 15,
    /// The same for IPv6.
    TooBig6 = 16,
    /// SYNs answered with a cookie, and cookies that come back, IPv4.
    Cookie4 = 17,
    /// The same for IPv6.
    Cookie6 = 18,
    /// Packets of half-open flows that a SYN cookie began, IPv4.
    Splice4 = 19,
    /// The same for IPv6.
    Splice6 = 20,
    /// Packets of confirmed flows that a SYN cookie began, IPv4.
    Shift4 = 21,
    /// The same for IPv6.
    Shift6 = 22,
}

impl Stage {
    /// Every stage, in the order of their numbers.
    pub const ALL: [Self; 23] = [
        Self::Entry,
        Self::HalfOpen4,
        Self::HalfOpen6,
        Self::Admit4,
        Self::Admit6,
        Self::Reset4,
        Self::Reset6,
        Self::Icmp4,
        Self::Icmp6,
        Self::Echo4,
        Self::Echo6,
        Self::Fragment4,
        Self::Fragment6,
        Self::Again,
        Self::OneWay,
        Self::TooBig4,
        Self::TooBig6,
        Self::Cookie4,
        Self::Cookie6,
        Self::Splice4,
        Self::Splice6,
        Self::Shift4,
        Self::Shift6,
    ];

    /// The name of its program, as `bpftool prog` shows it.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Entry => crate::abi::PROGRAM,
            Self::HalfOpen4 => "half_open4",
            Self::HalfOpen6 => "half_open6",
            Self::Admit4 => "admit4",
            Self::Admit6 => "admit6",
            Self::Reset4 => "reset4",
            Self::Reset6 => "reset6",
            Self::Icmp4 => "icmp4",
            Self::Icmp6 => "icmp6",
            Self::Echo4 => "echo4",
            Self::Echo6 => "echo6",
            Self::Fragment4 => "fragment4",
            Self::Fragment6 => "fragment6",
            Self::Again => "again",
            Self::OneWay => "one_way",
            Self::TooBig4 => "too_big4",
            Self::TooBig6 => "too_big6",
            Self::Cookie4 => "cookie4",
            Self::Cookie6 => "cookie6",
            Self::Splice4 => "splice4",
            Self::Splice6 => "splice6",
            Self::Shift4 => "shift4",
            Self::Shift6 => "shift6",
        }
    }

    /// Whether its program calls what kernels before 6.0 lack: without it the rest works, as
    /// long as [`crate::vip::vip_flag::SYN_COOKIES`] is not set.
    #[must_use]
    pub const fn needs_cookies(self) -> bool {
        matches!(self, Self::Cookie4 | Self::Cookie6)
    }
}

const _: () = {
    let mut number = 0;
    while number < Stage::ALL.len() {
        assert!(Stage::ALL[number] as usize == number);
        // The kernel keeps 15 characters of a name.
        assert!(Stage::ALL[number].program().len() <= 15);
        number += 1;
    }
};
