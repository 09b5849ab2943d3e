//! Removing idle flows from the table of confirmed flows. Only the data plane does that, under
//! the guard of the client's tuple, so programs of its object do it, run by
//! `BPF_PROG_TEST_RUN` and attached to nothing (`lb_common::expiry`).

use std::mem::{offset_of, size_of};

use aya::{
    Pod, TestRunOptions,
    programs::{TestRun as _, Xdp},
};
use lb_common::{
    address::Address,
    expiry::{Glimpse, IdleFlow, MOST},
    flow::Direction,
};

use super::{batch::bytes_of, error::ProgramFault, expiry::Verdict, tables::Half};

/// A flow that was found idle.
pub(super) struct Idle<A> {
    /// The entry that was found.
    pub(super) half: Half<A>,
    /// The other one, if it was there.
    pub(super) partner: Option<Half<A>>,
    pub(super) verdict: Verdict,
}

impl<A: Address> Idle<A> {
    /// What the program is told.
    pub(super) fn record(&self) -> IdleFlow<A> {
        let Half { key, entry, .. } = &self.half;
        let own = Glimpse::of(Some(entry));
        let other = Glimpse::of(self.partner.as_ref().map(|half| &half.entry));
        let (client, server, forward, reply) = match entry.direction() {
            Direction::Forward => (*key, entry.partner_key(), own, other),
            Direction::Reply => (entry.partner_key(), *key, other, own),
        };
        IdleFlow { client, server, forward, reply, fate: 0, padding: 0 }
    }
}

/// The programs, loaded.
#[derive(Clone, Copy, Debug)]
pub struct Expirer<'a> {
    /// For IPv4.
    pub four: &'a Xdp,
    /// For IPv6.
    pub six: &'a Xdp,
}

/// Has a program remove those of [`MOST`] flows at most that are as they were seen; what became of
/// each ([`lb_common::expiry::fate`]).
///
/// # Errors
/// If the kernel refuses; then none was removed.
pub fn expire<A: 'static>(program: &Xdp, flows: &[IdleFlow<A>]) -> Result<Vec<u32>, ProgramFault>
where
    IdleFlow<A>: Pod,
{
    debug_assert!(flows.len() <= MOST);
    let packet = bytes_of(flows);
    let mut answer = vec![0; packet.len()];
    let options = TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut answer),
        repeat: 1,
        ..Default::default()
    };
    program.test_run(options).map_err(ProgramFault::TestRun)?;
    let records = answer.chunks_exact(size_of::<IdleFlow<A>>());
    let fates = records.map(|record| {
        let fate = record.get(offset_of!(IdleFlow<A>, fate)..).and_then(<[u8]>::first_chunk);
        fate.map_or(0, |fate| u32::from_ne_bytes(*fate))
    });
    Ok(fates.collect())
}
