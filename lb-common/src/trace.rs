//! What `pointsman trace` tells the traced data plane, and what that tells it: the value of
//! `TRACE_FILTER`, and the records of `TRACE_RECORDS`.

use crate::address::{Address6, Be16};

/// Most bytes of a packet that are kept.
pub const MOST_BYTES: usize = 2047;
/// Conditions of one filter.
pub const ENDS: usize = 3;
/// [`RecordHead::reason`] of a packet that was counted under none.
pub const NO_REASON: u32 = u32::MAX;

/// An address, a port, or both, that one end of a packet must have.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The address, IPv4 in mapped form; zero for any.
    pub address: Address6,
    /// The port; 0 for any.
    pub port: Be16,
    /// Zero.
    pub padding: [u8; 6],
}

/// Which packets are wanted, and how much of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Conditions of ends; all must hold, each of the packet as it came or as it left.
    pub ends: [End; ENDS],
    /// Look at one packet in so many, 1 for all.
    pub sample: u32,
    /// Bytes of a packet to keep, [`MOST_BYTES`] at most.
    pub snap: u32,
    /// Look no longer than to this time, nanoseconds of `CLOCK_MONOTONIC`: whoever asked for it
    /// may be gone.
    pub until_ns: u64,
    /// IP protocol number; 0 for any.
    pub protocol: u8,
    /// Zero.
    pub padding: [u8; 7],
}

/// The five fields of a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuple {
    /// Source address, IPv4 in mapped form.
    pub source: Address6,
    /// Destination address, IPv4 in mapped form.
    pub destination: Address6,
    /// Source port; 0 if there is none.
    pub source_port: Be16,
    /// Destination port; 0 if there is none.
    pub destination_port: Be16,
    /// IP protocol number, or the first extension header's.
    pub protocol: u8,
    /// 1 if the packet is IP at all.
    pub is_ip: u8,
    /// Zero.
    pub padding: u16,
}

/// What precedes the bytes of a packet in a record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordHead {
    /// When it came, nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Its length in bytes as it came.
    pub bytes: u32,
    /// How many of them follow.
    pub captured: u32,
    /// The interface it came from.
    pub ifindex: u32,
    /// What became of it (`enum xdp_action`).
    pub action: u32,
    /// The drop reason that it was counted under; [`NO_REASON`] if none.
    pub reason: u32,
    /// Records of the same CPU that there was no room for, since the one before.
    pub lost: u32,
    /// The five fields as it came.
    pub before: Tuple,
    /// The five fields as it left.
    pub after: Tuple,
}

impl Filter {
    /// Whether a packet that came as `before` may be wanted, whatever becomes of it.
    #[inline(always)]
    #[must_use]
    pub fn may_want(&self, before: &Tuple) -> bool {
        self.protocol == 0 || before.protocol == self.protocol
    }

    /// Whether a packet is wanted that came as `before` and left as `after`.
    #[inline(always)]
    #[must_use]
    pub fn wants(&self, before: &Tuple, after: &Tuple) -> bool {
        let holds = |end: &End| before.has(end) || after.has(end);
        let [first, second, third] = &self.ends;
        self.may_want(before) && holds(first) && holds(second) && holds(third)
    }
}

impl Tuple {
    /// Whether one of its ends is this.
    #[inline(always)]
    #[must_use]
    pub fn has(&self, end: &End) -> bool {
        end.is(&self.source, self.source_port) || end.is(&self.destination, self.destination_port)
    }
}

impl End {
    #[inline(always)]
    fn is(&self, address: &Address6, port: Be16) -> bool {
        // As words, which need no room on the stack.
        let wanted = self.address.halves();
        (wanted == (0, 0) || wanted == address.halves())
            && (self.port.wire() == 0 || self.port.wire() == port.wire())
    }
}

const _: () = {
    use core::mem::size_of;
    assert!(size_of::<Filter>() == 96);
    assert!(size_of::<Tuple>() == 40);
    assert!(size_of::<RecordHead>() == 112);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), explicit padding, every bit pattern is valid, no pointers.
    unsafe impl aya::Pod for super::Filter {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::RecordHead {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(source: u8, source_port: u16, destination: u8, destination_port: u16) -> Tuple {
        Tuple {
            source: Address6::new([source; 16]),
            destination: Address6::new([destination; 16]),
            source_port: Be16::new(source_port),
            destination_port: Be16::new(destination_port),
            protocol: 6,
            is_ip: 1,
            padding: 0,
        }
    }

    fn end(address: u8, port: u16) -> End {
        End { address: Address6::new([address; 16]), port: Be16::new(port), padding: [0; 6] }
    }

    #[test]
    fn a_flow_is_found_from_both_its_sides() {
        let (came, left) = (tuple(1, 4000, 9, 80), tuple(5, 4000, 7, 8080));
        let wants = |[first, second]: [End; 2], protocol| {
            let ends = [first, second, end(0, 0)];
            Filter { ends, protocol, ..Filter::default() }.wants(&came, &left)
        };
        let any = end(0, 0);
        assert!(wants([any, any], 0) && wants([any, any], 6) && !wants([any, any], 17));
        assert!(wants([end(1, 0), any], 0) && wants([end(7, 0), any], 0));
        assert!(wants([end(1, 0), end(7, 8080)], 6));
        assert!(!wants([end(1, 0), end(7, 80)], 6));
        assert!(!wants([end(2, 0), any], 0) && wants([end(0, 80), any], 0));
    }
}
