//! Trying a program on a canned packet before anybody relies on it.

use aya::{
    TestRunOptions,
    programs::{TestRun as _, Xdp},
};

use super::error::{DatapathError, ProgramFault};

/// Verdict number (`enum xdp_action`).
const XDP_PASS: u32 = 2;

/// An ARP request is nobody's business but the kernel's.
pub(super) fn try_canned(program: &Xdp) -> Result<(), DatapathError> {
    let (verdict, _) = test_run(program, &ARP_REQUEST)?;
    if verdict == XDP_PASS {
        return Ok(());
    }
    let fault = ProgramFault::CannedPacket { packet: "ARP", found: verdict, expected: XDP_PASS };
    Err(fault.into())
}

/// Runs a program on one packet: verdict and the packet afterwards.
pub(super) fn test_run(program: &Xdp, packet: &[u8]) -> Result<(u32, Vec<u8>), DatapathError> {
    // Room for what the program may push in front.
    let mut output = vec![0; packet.len() + 256];
    let options = TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut output),
        repeat: 1,
        ..TestRunOptions::default()
    };
    let result = program.test_run(options).map_err(ProgramFault::TestRun)?;
    output.truncate(result.data_size_out as usize);
    Ok((result.return_value, output))
}

/// Who has 192.0.2.1, asked by 192.0.2.2 (RFC 826), padded to the shortest frame.
const ARP_REQUEST: [u8; 60] = {
    let mut frame = [0; 60];
    let text: [u8; 42] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x08, 0x06, // Ethernet
        0, 1, 0x08, 0, 6, 4, 0, 1, // Ethernet, IPv4, request
        2, 0, 0, 0, 0, 1, 192, 0, 2, 2, // sender
        0, 0, 0, 0, 0, 0, 192, 0, 2, 1, // target
    ];
    let mut index = 0;
    while index < text.len() {
        frame[index] = text[index];
        index += 1;
    }
    frame
};
