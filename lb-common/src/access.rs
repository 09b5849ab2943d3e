//! Who may be a client: `ACCESS4`, `ACCESS6` and `ADMISSION`, and what follows from them.
//!
//! One trie a family holds the lists of all frontends, those of the whole node, and what the
//! operator blocks; a *scope* in front of the address keeps them apart. Within a scope the
//! longest prefix decides. A source passes if nothing blocks it and both the node's list and
//! the frontend's let it in.

use crate::{drop_reason::DropReason, hash};

/// Scope of the node's own list.
pub const NODE_LIST: u32 = 0;
/// Bits of a scope: they precede the address in a prefix.
pub const SCOPE_BITS: u32 = 32;

/// The scope of what is blocked, next to the scope of a list.
#[inline(always)]
#[must_use]
pub const fn blocks_of(list: u32) -> u32 {
    list | 1
}

/// The scope that a frontend's list gets from its name, as long as no other frontend has it:
/// even, and not that of the node.
#[must_use]
pub fn list_scope(name: &str) -> u32 {
    let mut bits = 0_u64;
    for byte in name.bytes() {
        bits = hash::mix(bits ^ u64::from(byte)).wrapping_add(1);
    }
    // The high half of a mixed number; the cast keeps exactly that.
    let scope = (bits >> 32) as u32 & !1;
    if scope == NODE_LIST { 2 } else { scope }
}

/// Key of `ACCESS4` (`N` is 4) and `ACCESS6` (`N` is 16): a prefix of scope and address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AccessKey<const N: usize> {
    /// Bits that count: [`SCOPE_BITS`] and those of the network.
    pub prefix_bits: u32,
    /// Whose list it is on.
    pub scope: u32,
    /// The network; bits beyond the prefix are zero.
    pub address: [u8; N],
}

/// Key of `ACCESS4`.
pub type AccessKey4 = AccessKey<4>;
/// Key of `ACCESS6`.
pub type AccessKey6 = AccessKey<16>;

/// What is said of the sources in a prefix.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccessRule {
    /// [`action`].
    pub action: u32,
    /// Until when, seconds of `CLOCK_MONOTONIC`; 0 for as long as it stands here.
    pub expires_s: u32,
}

/// Values of [`AccessRule::action`].
pub mod action {
    /// They may come in.
    pub const ALLOW: u32 = 1;
    /// They may not.
    pub const DENY: u32 = 2;
    /// The operator blocks them.
    pub const BLOCK: u32 = 3;
}

/// What the frontend of a VIP asks of sources: one element of `ADMISSION`, by VIP id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdmissionEntry {
    /// Generation of the VIP id; another one's packets are not judged by this.
    pub generation: u16,
    /// Zero.
    pub padding: u16,
    /// Scope of the frontend's list; that of its blocks follows from it.
    pub scope: u32,
    /// Bits of [`flag`].
    pub flags: u32,
    /// Most confirmed flows of a source; 0 for no limit.
    pub flows_per_source: u32,
    /// What a new flow costs of a source's time, nanoseconds; 0 for no limit.
    pub flow_interval_ns: u32,
    /// What a packet costs of a source's time, nanoseconds; 0 for no limit.
    pub packet_interval_ns: u32,
    /// How much time a source can have saved up for new flows, nanoseconds.
    pub flow_burst_ns: u64,
    /// How much time a source can have saved up for packets, nanoseconds.
    pub packet_burst_ns: u64,
}

impl AdmissionEntry {
    /// What is left of it when its VIP is gone: flows that were counted for their sources are
    /// counted down by their frontend's scope, which has to be known until the last has ended.
    #[must_use]
    pub fn left(&self) -> Self {
        Self { generation: self.generation, scope: self.scope, ..Self::default() }
    }

    /// Whether new flows are counted or their rate is limited.
    #[inline(always)]
    #[must_use]
    pub const fn limits_flows(&self) -> bool {
        self.flows_per_source != 0 || self.flow_interval_ns != 0
    }
}

/// Bits of [`AdmissionEntry::flags`].
pub mod flag {
    /// The frontend has a list.
    pub const LIST: u32 = 1;
    /// Who is not on that list is not let in.
    pub const ALLOW_ONLY: u32 = 2;
    /// Something is blocked for this frontend.
    pub const BLOCKS: u32 = 4;
}

/// What a list says: why a source is not let in, or none. `rule` is that of the longest
/// prefix that the source is in.
#[inline(always)]
#[must_use]
pub fn listed(rule: Option<&AccessRule>, allow_only: bool) -> Option<DropReason> {
    match rule {
        Some(rule) if rule.action == action::ALLOW => None,
        Some(_) => Some(DropReason::Denied),
        None if allow_only => Some(DropReason::NotAllowed),
        None => None,
    }
}

/// Whether the operator blocks a source now.
#[inline(always)]
#[must_use]
pub fn blocked(rule: Option<&AccessRule>, now_s: u32) -> Option<DropReason> {
    match rule {
        Some(rule) if rule.expires_s == 0 || now_s < rule.expires_s => Some(DropReason::Blocked),
        _ => None,
    }
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<AccessKey4>() == 12);
    assert!(size_of::<AccessKey6>() == 24);
    assert!(size_of::<AccessRule>() == 8);
    assert!(size_of::<AdmissionEntry>() == 40);
    assert!(offset_of!(AdmissionEntry, flow_interval_ns) == 16);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), no padding, every bit pattern is valid, no pointers.
    unsafe impl aya::Pod for super::AccessKey4 {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::AccessKey6 {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::AccessRule {}
    // SAFETY: repr(C), explicit padding, every bit pattern is valid, no pointers.
    unsafe impl aya::Pod for super::AdmissionEntry {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: AccessRule = AccessRule { action: action::ALLOW, expires_s: 0 };
    const DENY: AccessRule = AccessRule { action: action::DENY, expires_s: 0 };

    #[test]
    fn the_longest_prefix_decides_and_silence_is_consent_unless_allow_says_otherwise() {
        for allow_only in [false, true] {
            assert_eq!(listed(Some(&ALLOW), allow_only), None);
            assert_eq!(listed(Some(&DENY), allow_only), Some(DropReason::Denied));
        }
        assert_eq!(listed(None, false), None);
        assert_eq!(listed(None, true), Some(DropReason::NotAllowed));
    }

    #[test]
    fn a_block_holds_until_the_second_it_expires_or_for_good() {
        let block = |expires_s| AccessRule { action: action::BLOCK, expires_s };
        assert_eq!(blocked(Some(&block(0)), u32::MAX), Some(DropReason::Blocked));
        assert_eq!(blocked(Some(&block(10)), 9), Some(DropReason::Blocked));
        assert_eq!(blocked(Some(&block(10)), 10), None);
        assert_eq!(blocked(None, 0), None);
    }

    #[test]
    fn scopes_of_frontends_are_even_distinct_and_not_the_nodes() {
        let mut scopes: Vec<u32> = (0..5000).map(|n| list_scope(&format!("web-{n}"))).collect();
        assert!(scopes.iter().all(|scope| scope % 2 == 0 && *scope != NODE_LIST));
        assert!(scopes.iter().all(|scope| blocks_of(*scope) == scope + 1));
        scopes.sort_unstable();
        scopes.dedup();
        assert!(scopes.len() > 4990, "{} of 5000 are distinct", scopes.len());
    }
}
