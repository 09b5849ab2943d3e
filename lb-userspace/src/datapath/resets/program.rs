//! Playing a packet to the program that is attached.

use aya::{
    TestRunOptions,
    programs::{ProgramError, TestRun as _, Xdp},
};
use aya_obj::programs::XdpAttachType;
use lb_common::tcp_state::TcpFlags;

use crate::datapath::{
    error::{DatapathError, ProgramFault},
    pins::Pins,
};

/// Verdict number (`enum xdp_action`).
const XDP_TX: u32 = 3;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Offset of the flags in a TCP header.
const FLAGS: usize = 13;

/// The pinned program.
pub(super) struct EntryProgram {
    program: Xdp,
    /// What a packet becomes; its room is used again.
    output: Vec<u8>,
}

impl EntryProgram {
    /// # Errors
    /// If no program is pinned.
    pub(super) fn open(pins: &Pins) -> Result<Self, DatapathError> {
        let program = Xdp::from_pin(pins.program(), XdpAttachType::Interface)
            .map_err(ProgramFault::Descriptor)?;
        Ok(Self { program, output: Vec::new() })
    }

    /// The RST that the program answers a frame with if it arrives at an interface; none if
    /// it does something else with it, or there is no such interface.
    pub(super) fn answer(&mut self, frame: &[u8], ifindex: u32) -> Option<Vec<u8>> {
        let (verdict, answer) = self.run(frame, ifindex).ok()?;
        (verdict == XDP_TX && is_reset(answer)).then(|| answer.to_vec())
    }

    fn run(&mut self, frame: &[u8], ifindex: u32) -> Result<(u32, &[u8]), ProgramError> {
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index,
        // egress_ifindex.
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let context: Vec<u8> = [0, length, 0, ifindex, 0, 0]
            .iter()
            .flat_map(|word: &u32| word.to_ne_bytes())
            .collect();
        self.output.resize(frame.len() + 256, 0);
        let result = self.program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut self.output),
            ctx_in: Some(&context),
            repeat: 1,
            ..TestRunOptions::default()
        })?;
        let length = (result.data_size_out as usize).min(self.output.len());
        Ok((result.return_value, &self.output[..length]))
    }
}

/// Whether a frame without VLAN tags, IP options and extension headers is a RST.
fn is_reset(frame: &[u8]) -> bool {
    let header = match frame.get(ETHERNET).map(|first| first >> 4) {
        Some(4) => 20,
        Some(6) => 40,
        _ => return false,
    };
    let flags = frame.get(ETHERNET + header + FLAGS).copied();
    flags.is_some_and(|flags| TcpFlags(flags).has(TcpFlags::RST))
}
