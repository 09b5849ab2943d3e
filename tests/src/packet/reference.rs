//! What rewriting a packet must make of it, worked out the slow way: every byte copied, every
//! checksum summed over all that it covers (RFC 1071). Shares nothing with the code under
//! test but the addresses and ports that were chosen, which are for the caller to judge.

use std::{iter, ops::Range};

use crate::packet::fields::{self, Field};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Checks that `after` is `before` with other MAC addresses, addresses and ports, another
/// identification if it is a fragment, one hop less to live, and checksums that hold exactly if they held before. One that was wrong is
/// wrong by the same amount: repairing it would hide damage from the receiver.
///
/// # Errors
/// How `after` differs, ready to be read.
pub fn check_rewritten(before: &[u8], after: &[u8]) -> Result<(), String> {
    let parts = Parts::of(before).ok_or("before has no complete headers")?;
    if after.len() != before.len() {
        return Err(format!("length: got {}, expected {}", after.len(), before.len()));
    }
    let mut expected = before.to_vec();
    for range in &parts.chosen {
        expected[range.clone()].copy_from_slice(&after[range.clone()]);
    }
    let hops = &mut expected[parts.hops.start];
    *hops = hops.checked_sub(1).ok_or("no hop was left")?;
    for covered in parts.header.iter().chain(&parts.transport) {
        covered.settle(before, after, &mut expected);
    }
    match fields::difference(&expected, after) {
        None => Ok(()),
        Some(difference) => Err(difference),
    }
}

/// Where the parts of a frame are that rewriting changes.
struct Parts {
    /// MAC addresses, addresses, ports, the identification of a fragment.
    chosen: Vec<Range<usize>>,
    /// TTL or hop limit.
    hops: Range<usize>,
    header: Option<Covered>,
    /// None for a UDP datagram without a checksum, and for a fragment that is not the first.
    transport: Option<Covered>,
}

/// A checksum and what it covers.
struct Covered {
    checksum: Range<usize>,
    /// Parts of the frame, each of which begins at an even place of what is summed.
    ranges: Vec<Range<usize>>,
    /// What of the pseudo header is not in the frame.
    extra: u32,
    /// A sum of zero is written as all ones.
    never_zero: bool,
}

impl Parts {
    fn of(frame: &[u8]) -> Option<Self> {
        let all = fields::fields(frame);
        let find = |name: &str| range_of(&all, name);
        let chosen = |names: &[&str]| -> Option<Vec<Range<usize>>> {
            let names = ["ethernet.destination", "ethernet.source"].iter().chain(names).copied();
            names.map(find).chain(identification(frame, &all).map(Some)).collect()
        };
        if is_later_fragment(frame, &all) {
            let [source, destination, hops] = match find("ipv4.source") {
                Some(_) => ["ipv4.source", "ipv4.destination", "ipv4.ttl"],
                None => ["ipv6.source", "ipv6.destination", "ipv6.hop_limit"],
            };
            return Some(Self {
                chosen: chosen(&[source, destination])?,
                hops: find(hops)?,
                header: header4(&all),
                transport: None,
            });
        }
        let (protocol, ports, check) = match find("tcp.checksum") {
            Some(check) => (TCP, ["tcp.source_port", "tcp.destination_port"], check),
            None => (UDP, ["udp.source_port", "udp.destination_port"], find("udp.checksum")?),
        };
        let start = find(ports[0])?.start;
        let never_zero = protocol == UDP;
        let is_absent = never_zero && frame[check.clone()] == [0, 0];
        let transport = |addresses: [Range<usize>; 2], end: usize| {
            let length = u32::try_from(end.checked_sub(start)?).ok()?;
            frame.get(start..end)?;
            let ranges = addresses.into_iter().chain(iter::once(start..end)).collect();
            let extra = u32::from(protocol) + length;
            Some(Covered { checksum: check.clone(), ranges, extra, never_zero })
        };
        let number = |range: Range<usize>| {
            usize::from(u16::from_be_bytes([frame[range.start], frame[range.start + 1]]))
        };
        if let Some(first) = find("ipv4.version_ihl") {
            let addresses = [find("ipv4.source")?, find("ipv4.destination")?];
            let end = first.start + number(find("ipv4.total_length")?);
            return Some(Self {
                chosen: chosen(&["ipv4.source", "ipv4.destination", ports[0], ports[1]])?,
                hops: find("ipv4.ttl")?,
                header: Some(header4(&all)?),
                transport: if is_absent { None } else { Some(transport(addresses, end)?) },
            });
        }
        let addresses = [find("ipv6.source")?, find("ipv6.destination")?];
        let end = addresses[1].end + number(find("ipv6.payload_length")?);
        Some(Self {
            chosen: chosen(&["ipv6.source", "ipv6.destination", ports[0], ports[1]])?,
            hops: find("ipv6.hop_limit")?,
            header: None,
            transport: if is_absent { None } else { Some(transport(addresses, end)?) },
        })
    }
}

/// The header of IPv4, which its own checksum covers; none of IPv6.
fn header4(all: &[Field]) -> Option<Covered> {
    let find = |name: &str| range_of(all, name);
    let covered = find("ipv4.version_ihl")?.start..find("ipv4.options")?.end;
    Some(Covered {
        checksum: find("ipv4.checksum")?,
        ranges: iter::once(covered).collect(),
        extra: 0,
        never_zero: false,
    })
}

/// Whether what follows the header of IP is the middle of a packet.
fn is_later_fragment(frame: &[u8], all: &[Field]) -> bool {
    let number = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let of4 = range_of(all, "ipv4.flags_fragment_offset")
        .is_some_and(|place| number(place.start) & 0x1fff != 0);
    let of6 = range_of(all, "extension.fragment")
        .is_some_and(|header| number(header.start + 2) & 0xfff8 != 0);
    of4 || of6
}

/// Where a fragment has what tells its packet from others.
fn identification(frame: &[u8], all: &[Field]) -> Option<Range<usize>> {
    let number = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    if let Some(place) = range_of(all, "ipv4.flags_fragment_offset") {
        let is_fragment = number(place.start) & 0x3fff != 0;
        return range_of(all, "ipv4.identification").filter(|_| is_fragment);
    }
    let header = range_of(all, "extension.fragment")?;
    let is_fragment = number(header.start + 2) & 0xfff9 != 0;
    is_fragment.then_some(header.start + 4..header.start + 8)
}

fn range_of(all: &[Field], name: &str) -> Option<Range<usize>> {
    all.iter().find(|field| field.name == name).map(|field| field.range.clone())
}

impl Covered {
    /// Writes the checksum to `expected`.
    fn settle(&self, before: &[u8], after: &[u8], expected: &mut [u8]) {
        let target = self.checksum.clone();
        let was = self.sum(before);
        expected[target.clone()].copy_from_slice(&[0, 0]);
        let mut wanted = !self.sum(expected);
        if self.never_zero && wanted == 0 {
            wanted = 0xffff;
        }
        if was != 0xffff && self.sum(after) % 0xffff == was % 0xffff {
            // As wrong as before; zero has two forms.
            wanted = u16::from_be_bytes([after[target.start], after[target.start + 1]]);
        } else if was != 0xffff {
            let error = u32::from(was) + u32::from(wanted);
            wanted = fold(error);
        }
        expected[target].copy_from_slice(&wanted.to_be_bytes());
    }

    /// The ones' complement sum of all that is covered, the checksum itself included: all
    /// ones if it holds.
    fn sum(&self, frame: &[u8]) -> u16 {
        let words = self.ranges.iter().flat_map(|range| frame[range.clone()].chunks(2));
        let sum = words.fold(self.extra, |sum, word| {
            sum + u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]))
        });
        fold(sum)
    }
}

fn fold(sum: u32) -> u16 {
    let folded = (sum & 0xffff) + (sum >> 16);
    u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Packet, UdpChecksum};

    fn packets() -> Vec<Packet> {
        let ends = [("192.0.2.1:1000", "192.0.2.2:80"), ("[2001:db8::1]:1000", "[2001:db8::2]:80")];
        let parse = |text: &str| text.parse().unwrap();
        let of = |(from, to): (&str, &str)| {
            let (from, to) = (parse(from), parse(to));
            [Packet::tcp(from, to).payload(b"odd"), Packet::udp(from, to).payload(b"even")]
        };
        ends.into_iter().flat_map(of).collect()
    }

    /// As if it had been rewritten.
    fn rewritten(packet: &Packet) -> Packet {
        let (from, to) = match packet.source().is_ipv4() {
            true => ("10.0.0.1:4321", "10.0.1.9:8080"),
            false => ("[fd00::1]:4321", "[fd00:1::9]:8080"),
        };
        packet.clone().between(from.parse().unwrap(), to.parse().unwrap()).routed()
    }

    #[test]
    fn a_packet_built_anew_passes_and_any_changed_bit_does_not() {
        for packet in packets() {
            let (before, after) = (packet.bytes(), rewritten(&packet).bytes());
            check_rewritten(&before, &after).unwrap();
            for byte in 12..after.len() {
                let mut changed = after.clone();
                changed[byte] ^= 0x10;
                check_rewritten(&before, &changed).unwrap_err();
            }
            check_rewritten(&before, &before).unwrap_err();
        }
    }

    #[test]
    fn a_wrong_checksum_stays_as_wrong() {
        for packet in packets() {
            let (mut before, mut after) = (packet.bytes(), rewritten(&packet).bytes());
            // Damage in the payload, on both sides of the balancer.
            for frame in [&mut before, &mut after] {
                *frame.last_mut().unwrap() ^= 1;
            }
            check_rewritten(&before, &after).unwrap();
            let parts = Parts::of(&after).unwrap();
            let repaired = !parts.transport.as_ref().unwrap().sum(&after);
            let at = parts.transport.unwrap().checksum.start;
            after[at + 1] = after[at + 1].wrapping_add(repaired.to_be_bytes()[1] | 1);
            check_rewritten(&before, &after).unwrap_err();
        }
    }

    #[test]
    fn an_absent_udp_checksum_stays_absent() {
        let absent = packets().remove(1).udp_checksum(UdpChecksum::Absent);
        let mut after = rewritten(&absent).bytes();
        check_rewritten(&absent.bytes(), &after).unwrap();
        let at = Parts::of(&after).map(|parts| parts.chosen[5].end + 2).unwrap();
        after[at] = 1;
        check_rewritten(&absent.bytes(), &after).unwrap_err();
    }
}
