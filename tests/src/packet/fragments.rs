//! Cutting a packet into fragments.

use super::{Extension, Network, Packet, Transport};

/// Length of an IPv6 header.
const IPV6_HEADER: usize = 40;

impl Packet {
    /// The frames of this packet's fragments: the transport header and what follows it, cut at
    /// these offsets (in bytes, multiples of eight), all with one identification.
    ///
    /// # Panics
    /// If an offset is beyond the packet.
    #[must_use]
    pub fn fragments(&self, cuts: &[usize], identification: u32) -> Vec<Vec<u8>> {
        let bytes = self.bytes();
        let body = &bytes[self.transport_offset()..];
        let starts = std::iter::once(0).chain(cuts.iter().copied());
        let ends = cuts.iter().copied().chain([body.len()]);
        starts
            .zip(ends)
            .map(|(start, end)| {
                self.fragment_of(&body[start..end], start, end < body.len(), identification)
            })
            .collect()
    }

    /// The frame of one fragment of a packet between the ends of this one.
    ///
    /// # Panics
    /// If the offset is beyond what the header can say.
    #[must_use]
    pub fn fragment_of(
        &self,
        body: &[u8],
        offset: usize,
        more: bool,
        identification: u32,
    ) -> Vec<u8> {
        let protocol = match &self.transport {
            Transport::Tcp(_) => 6,
            Transport::Udp(..) => 17,
            Transport::Other(number) => number.0,
        };
        let units = u16::try_from(offset / 8).expect("an offset of 13 bits");
        let packet = Self::other(protocol, self.source().ip(), self.destination().ip(), body)
            .link(self.source_mac, self.destination_mac)
            .vlans(&self.vlans)
            .ttl(self.ttl_now());
        match &self.network {
            Network::V4(_) => {
                let [_, _, high, low] = identification.to_be_bytes();
                let packet = packet.identification(u16::from_be_bytes([high, low]));
                packet.fragment(units, more).bytes()
            }
            Network::V6(_, extensions) => {
                let chain = [extensions.as_slice(), &[Extension::Fragment(units, more)]].concat();
                let packet = packet.extensions(&chain);
                let before: usize = extensions.iter().map(|extension| extension.length()).sum();
                let at = packet.network_offset() + IPV6_HEADER + before + 4;
                let mut frame = packet.bytes();
                frame[at..at + 4].copy_from_slice(&identification.to_be_bytes());
                frame
            }
        }
    }
}
