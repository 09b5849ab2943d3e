//! Where the fields of a frame are, to tell two frames apart in words.

use std::{fmt::Write as _, ops::Range};

/// A named part of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// `header.field`.
    pub name: &'static str,
    /// Its bytes.
    pub range: Range<usize>,
}

/// How two frames differ, one line a field, followed by both frames in hexadecimal; none if
/// they are equal. Fields are named after the expected frame.
#[must_use]
pub fn difference(expected: &[u8], got: &[u8]) -> Option<String> {
    if expected == got {
        return None;
    }
    let mut text = String::new();
    if expected.len() != got.len() {
        let _ = writeln!(text, "  length: got {}, expected {}", got.len(), expected.len());
    }
    for field in fields(expected) {
        let want = &expected[field.range.clone()];
        let have = got.get(field.range.clone()).unwrap_or_default();
        if want != have {
            let (have, want) = (hex(have), hex(want));
            let _ = writeln!(text, "  {}: got {have}, expected {want}", field.name);
        }
    }
    let _ = write!(text, "  expected:\n{}  got:\n{}", dump(expected), dump(got));
    Some(text)
}

/// The fields of a frame as far as its headers are complete; the rest is `payload`.
#[must_use]
pub fn fields(frame: &[u8]) -> Vec<Field> {
    let mut walk = Walk { frame, position: 0, fields: Vec::new() };
    let _ = walk.ethernet();
    if walk.position < frame.len() {
        walk.fields.push(Field { name: "payload", range: walk.position..frame.len() });
    }
    walk.fields
}

/// A frame in hexadecimal, sixteen bytes a line, with offsets.
#[must_use]
pub fn dump(frame: &[u8]) -> String {
    let mut text = String::new();
    for (line, bytes) in frame.chunks(16).enumerate() {
        let _ = writeln!(text, "    {:04x}  {}", line * 16, hex(bytes));
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

struct Walk<'a> {
    frame: &'a [u8],
    position: usize,
    fields: Vec<Field>,
}

impl Walk<'_> {
    fn take(&mut self, name: &'static str, length: usize) -> Option<Vec<u8>> {
        let range = self.position..self.position + length;
        let bytes = self.frame.get(range.clone())?.to_vec();
        self.position = range.end;
        self.fields.push(Field { name, range });
        Some(bytes)
    }

    fn take16(&mut self, name: &'static str) -> Option<u16> {
        let bytes = self.take(name, 2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn ethernet(&mut self) -> Option<()> {
        self.take("ethernet.destination", 6)?;
        self.take("ethernet.source", 6)?;
        loop {
            match self.take16("ethernet.type")? {
                0x8100 | 0x88a8 => {
                    self.take("vlan.id", 2)?;
                }
                0x0800 => return self.ipv4(),
                0x86dd => return self.ipv6(),
                _ => return None,
            }
        }
    }

    fn ipv4(&mut self) -> Option<()> {
        let header_words = usize::from(self.take("ipv4.version_ihl", 1)?[0] & 15);
        self.take("ipv4.tos", 1)?;
        self.take("ipv4.total_length", 2)?;
        self.take("ipv4.identification", 2)?;
        let fragment = self.take16("ipv4.flags_fragment_offset")?;
        self.take("ipv4.ttl", 1)?;
        let protocol = self.take("ipv4.protocol", 1)?[0];
        self.take("ipv4.checksum", 2)?;
        self.take("ipv4.source", 4)?;
        self.take("ipv4.destination", 4)?;
        self.take("ipv4.options", (header_words * 4).checked_sub(20)?)?;
        if fragment & 0x1fff == 0 { self.transport(protocol) } else { None }
    }

    fn ipv6(&mut self) -> Option<()> {
        self.take("ipv6.version_class_label", 4)?;
        self.take("ipv6.payload_length", 2)?;
        let mut next = self.take("ipv6.next_header", 1)?[0];
        self.take("ipv6.hop_limit", 1)?;
        self.take("ipv6.source", 16)?;
        self.take("ipv6.destination", 16)?;
        loop {
            match next {
                0 | 43 | 60 => {
                    let head = self.take("extension.header", 2)?;
                    next = head[0];
                    self.take("extension.body", usize::from(head[1]) * 8 + 6)?;
                }
                44 => {
                    let header = self.take("extension.fragment", 8)?;
                    next = header[0];
                    if u16::from_be_bytes([header[2], header[3]]) >> 3 != 0 {
                        return None;
                    }
                }
                _ => return self.transport(next),
            }
        }
    }

    fn transport(&mut self, protocol: u8) -> Option<()> {
        match protocol {
            6 => {
                self.take("tcp.source_port", 2)?;
                self.take("tcp.destination_port", 2)?;
                self.take("tcp.sequence", 4)?;
                self.take("tcp.acknowledgement", 4)?;
                let header_words = usize::from(self.take("tcp.data_offset", 1)?[0] >> 4);
                self.take("tcp.flags", 1)?;
                self.take("tcp.window", 2)?;
                self.take("tcp.checksum", 2)?;
                self.take("tcp.urgent", 2)?;
                self.take("tcp.options", (header_words * 4).checked_sub(20)?)?;
            }
            17 => {
                self.take("udp.source_port", 2)?;
                self.take("udp.destination_port", 2)?;
                self.take("udp.length", 2)?;
                self.take("udp.checksum", 2)?;
            }
            _ => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;

    #[test]
    fn a_difference_names_the_field() {
        let packet =
            Packet::tcp("192.0.2.1:1000".parse().unwrap(), "192.0.2.2:80".parse().unwrap());
        let text = difference(&packet.bytes(), &packet.clone().routed().bytes()).unwrap();
        assert!(text.contains("ipv4.ttl: got 3f, expected 40"), "{text}");
        assert!(text.contains("ipv4.checksum"), "{text}");
        assert!(!text.contains("tcp."), "{text}");
        assert_eq!(difference(&packet.bytes(), &packet.bytes()), None);
    }

    #[test]
    fn fields_cover_every_prefix_without_gaps() {
        let packet = Packet::udp("[::1]:1".parse().unwrap(), "[::2]:2".parse().unwrap());
        let frame = packet.vlans(&[1, 2]).payload(b"hello").bytes();
        for length in 0..=frame.len() {
            let mut end = 0;
            for field in fields(&frame[..length]) {
                assert_eq!(field.range.start, end);
                end = field.range.end;
            }
            assert_eq!(end, length);
        }
    }
}
