//! Packets as a file of tcpdump and Wireshark (pcapng, draft-ietf-opsawg-pcapng).

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Write},
    time::Duration,
};

use pcap_file::{
    DataLink, Endianness,
    pcapng::{
        PcapNgWriteError, PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{
                InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
            },
            opt_common::{CommonOption, UnknownOption},
            section_header::{SectionHeaderBlock, SectionHeaderOption},
        },
    },
};

use super::line;
use crate::datapath::trace::Record;

/// Inbound, in the two low bits of `epb_flags`.
const INBOUND: u32 = 1;
/// `epb_verdict`, which the crate does not name, and its kind for XDP verdicts.
const VERDICT: u16 = 7;
const XDP: u8 = 2;

/// A file of packets.
pub(super) struct PacketFile<W: Write> {
    writer: PcapNgWriter<W>,
    snaplen: u32,
    /// Number of an interface in the file, by its index in the kernel.
    interfaces: BTreeMap<u32, u32>,
}

impl<W: Write> PacketFile<W> {
    /// Begins a file.
    pub(super) fn new(writer: W, snaplen: u32) -> io::Result<Self> {
        let application = concat!("pointsman ", env!("CARGO_PKG_VERSION"));
        let section = SectionHeaderBlock {
            endianness: Endianness::native(),
            options: vec![SectionHeaderOption::UserApplication(Cow::Borrowed(application))],
            ..SectionHeaderBlock::default()
        };
        let writer = PcapNgWriter::with_section_header(writer, section).map_err(failed)?;
        Ok(Self { writer, snaplen, interfaces: BTreeMap::new() })
    }

    /// Appends a packet. `time`: since 1970. `name`: of an interface, by its index.
    pub(super) fn put(
        &mut self,
        record: &Record,
        time: Duration,
        name: impl FnOnce(u32) -> String,
    ) -> io::Result<()> {
        let head = &record.head;
        let interface = self.interface(head.ifindex, name)?;
        let mut verdict = vec![XDP];
        verdict.extend(u64::from(head.action).to_ne_bytes());
        let comment = CommonOption::Comment(Cow::Owned(line::fate(head)));
        let packet = EnhancedPacketBlock {
            interface_id: interface,
            timestamp: time,
            original_len: head.bytes,
            data: Cow::Borrowed(&record.bytes),
            options: vec![
                EnhancedPacketOption::Common(comment),
                EnhancedPacketOption::Flags(INBOUND),
                EnhancedPacketOption::DropCount(head.lost.into()),
                EnhancedPacketOption::Common(CommonOption::Unknown(UnknownOption::new(
                    VERDICT, &verdict,
                ))),
            ],
        };
        self.writer.write_pcapng_block(packet).map(drop).map_err(failed)
    }

    /// Hands on what was written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }

    /// The number of an interface, which the file tells before its first packet.
    fn interface(&mut self, index: u32, name: impl FnOnce(u32) -> String) -> io::Result<u32> {
        if let Some(number) = self.interfaces.get(&index) {
            return Ok(*number);
        }
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: self.snaplen,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(name(index))),
                InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
            ],
        };
        self.writer.write_pcapng_block(block).map_err(failed)?;
        let number = u32::try_from(self.interfaces.len()).map_err(io::Error::other)?;
        self.interfaces.insert(index, number);
        Ok(number)
    }
}

/// A reader that left is to be told from other failures.
fn failed(error: PcapNgWriteError) -> io::Error {
    match error {
        PcapNgWriteError::Io(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{
        drop_reason::DropReason,
        trace::{NO_REASON, RecordHead},
    };
    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;

    fn record(ifindex: u32, action: u32, reason: u32) -> Record {
        let head = RecordHead {
            bytes: 1500,
            captured: 5,
            ifindex,
            action,
            reason,
            ..RecordHead::default()
        };
        Record { head, bytes: vec![1, 2, 3, 4, 5] }
    }

    #[test]
    fn a_file_has_packets_with_comments_and_their_interfaces() {
        let mut bytes = Vec::new();
        let mut file = PacketFile::new(&mut bytes, 256).expect("written");
        let time = Duration::new(1_700_000_000, 123_456_789);
        let packets = [
            record(7, 4, NO_REASON),
            record(3, 1, DropReason::Denied as u32),
            record(7, 2, NO_REASON),
        ];
        for packet in &packets {
            file.put(packet, time, |index| format!("eth{index}")).expect("written");
        }
        let mut reader = PcapNgReader::new(bytes.as_slice()).expect("a file");
        let (mut names, mut found) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.expect("a good block").0 {
                Block::InterfaceDescription(block) => {
                    names.extend(block.options.into_iter().find_map(|option| match option {
                        InterfaceDescriptionOption::IfName(name) => Some(name.into_owned()),
                        _ => None,
                    }));
                }
                Block::EnhancedPacket(block) => {
                    assert_eq!((block.timestamp, block.original_len), (time, 1500));
                    assert_eq!(*block.data, [1, 2, 3, 4, 5]);
                    let comment = block.options.into_iter().find_map(|option| match option {
                        EnhancedPacketOption::Common(CommonOption::Comment(text)) => {
                            Some(text.into_owned())
                        }
                        _ => None,
                    });
                    found.push((block.interface_id, comment.expect("commented")));
                }
                _ => {}
            }
        }
        assert_eq!(names, ["eth7", "eth3"]);
        let denied =
            "drop; denied: The source is on a deny list, the frontend's or the node's.".to_owned();
        assert_eq!(found, [(0, "redirect".into()), (1, denied), (0, "pass".into())]);
    }
}
