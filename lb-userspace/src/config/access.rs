//! Lists of sources, of the node and of frontends, and limits of a source of layer 4.

use ipnet::IpNet;

use super::{
    decode::Entries,
    fault::Refusal,
    rules::{NetworkFile, OneOf, all, network},
    schema::{Integer, Key, Nested, Presence, Section, Text},
};
use crate::model::access::{AccessList, RateLimit};

/// No list.
const NOBODY: Presence = Presence::Optional("none");

pub(super) static ALLOW: Key<OneOf<Text<IpNet>>> = Key {
    name: "allow",
    shape: OneOf { item: Text { what: "a network or an address", parse: network } },
    presence: NOBODY,
    doc: "Networks that may be clients: `[10.0.0.0/8, \"2001:db8::/32\"]`. If any is \
          allowed, all others are not, unless the longest prefix that they are in says so. \
          Those of `datapath` are for frontends of `mode: l4`. In `mode: tcp` and `http` connections are refused as they come, before TLS, by the address \
          they come from or that the PROXY protocol tells; unix sockets are not judged. For what \
          `X-Forwarded-For` tells, and for single requests, there are rules.",
};

pub(super) static DENY: Key<OneOf<Text<IpNet>>> = Key {
    name: "deny",
    shape: OneOf { item: Text { what: "a network or an address", parse: network } },
    presence: NOBODY,
    doc: "Networks that may not be clients; flows and sessions that they have are cut off, and \
          HTTP requests on connections that they have are answered 403. Of `allow` and `deny` the \
          longest prefix decides, and `deny` if both have it. In `mode: l4` the lists of `datapath` \
          must let a source in, too; what `pointsman block` blocks is out in any case, in every mode.",
};

pub(super) static ALLOW_FILE: Key<OneOf<NetworkFile>> = Key {
    name: "allow_file",
    shape: OneOf { item: NetworkFile },
    presence: NOBODY,
    doc: "As `allow`, with the networks in files: one a line, `#` starts a comment. They are \
          read with the configuration; `pointsman reload` reads them again.",
};

pub(super) static DENY_FILE: Key<OneOf<NetworkFile>> = Key {
    name: "deny_file",
    shape: OneOf { item: NetworkFile },
    presence: NOBODY,
    doc: "As `deny`, with the networks in files.",
};

/// Reads the lists of a section; none if one is at fault.
pub(super) fn decode_list(entries: &Entries<'_>) -> Option<AccessList> {
    let allow = networks(entries, &ALLOW, &ALLOW_FILE);
    let deny = networks(entries, &DENY, &DENY_FILE);
    if allow.as_ref().is_some_and(Vec::is_empty) && entries.has(&ALLOW_FILE) {
        let refusal = Refusal::new("names no network, which would let everybody in");
        entries.reject(&ALLOW_FILE, refusal.hint("put 0.0.0.0/0 and ::/0 into it to mean that"));
    }
    let list = AccessList::new(allow?, deny?);
    if let Some(network) = list.contradiction() {
        let message = format!("{network} is allowed and denied; it is denied");
        let hint = "take it off one of the two lists";
        entries.warn(&DENY, Refusal::new(message).hint(hint));
    }
    Some(list)
}

fn networks(
    entries: &Entries<'_>,
    written: &Key<OneOf<Text<IpNet>>>,
    files: &Key<OneOf<NetworkFile>>,
) -> Option<Vec<IpNet>> {
    let (here, there) = (entries.optional(written), entries.optional(files));
    let mut networks = here?.map_or_else(|| Some(Vec::new()), all)?;
    if let Some(there) = there? {
        networks.extend(all(there)?.into_iter().flatten());
    }
    Some(networks)
}

/// Networks of each family against the room for them.
pub(super) fn judge_room<'a>(
    lists: impl Iterator<Item = &'a AccessList>,
    most: u32,
) -> Option<Refusal> {
    let (mut four, mut six) = (0_usize, 0_usize);
    for network in lists.flat_map(AccessList::networks) {
        match network {
            IpNet::V4(_) => four += 1,
            IpNet::V6(_) => six += 1,
        }
    }
    let wanted = four.max(six);
    (wanted > most as usize).then(|| {
        let message = format!("{wanted} networks of one family are on lists of sources");
        let hint = format!("raise datapath.max_prefixes ({most}), and leave room for blocks");
        Refusal::new(message).hint(hint)
    })
}

/// `limits.new_flows` and `limits.packets`.
pub(super) const RATE: Nested<RateLimit> = Nested { section: &RATE_SECTION, decode: decode_rate };

static RATE_SECTION: Section = Section {
    path: "frontends.NAME.limits.new_flows",
    doc: "How often something may happen: `{rate: 100, burst: 200}`. The section `packets` has \
          the same keys.",
    keys: &[&PER_SECOND, &BURST],
    unbuilt: &[],
};

static PER_SECOND: Key<Integer<u32>> = Key {
    name: "rate",
    shape: Integer { min: 1, max: RateLimit::MAX_PER_SECOND },
    presence: Presence::Required("rate: 100"),
    doc: "A second, on average.",
};

static BURST: Key<Integer<u32>> = Key {
    name: "burst",
    shape: Integer { min: 1, max: RateLimit::MAX_BURST },
    presence: Presence::Optional("the `rate`"),
    doc: "At once, after a while of silence.",
};

fn decode_rate(entries: &Entries<'_>) -> Option<RateLimit> {
    let (rate, burst) = (entries.get(&PER_SECOND), entries.optional(&BURST));
    let per_second = rate?;
    Some(RateLimit { per_second, burst: burst?.unwrap_or(per_second) })
}
