//! The table of half-open flows: hints, places, who gives way.

use lb_common::{
    address::Address4,
    flow::{Direction, FlowEntry4, FlowKey, FlowKey4, Hop},
    half_open::{
        AHEAD_MS, Bucket, FLOWS_PER_BUCKET, HINTS, HalfOpenFlow, Place, WAYS, age_ms, bucket_index,
        hint_index, is_later, milliseconds, tag,
    },
};
use proptest::prelude::*;

type Bucket4 = Bucket<Address4>;

fn bucket() -> impl Strategy<Value = Bucket4> {
    (any::<[u32; WAYS]>(), any::<[bool; WAYS]>(), any::<[u32; WAYS]>()).prop_map(
        |(tags, held, seen_ms)| {
            let mut bucket = Bucket4 { seen_ms, ..Bucket4::default() };
            for way in 0..WAYS {
                bucket.tags[way] = if held[way] { tags[way] | 1 } else { 0 };
            }
            bucket
        },
    )
}

proptest! {
    #[test]
    fn a_hint_leads_back_to_its_place(bucket in 0_u32..1 << 29, way in 0..FLOWS_PER_BUCKET) {
        let place = Place { bucket, way };
        prop_assert_ne!(place.to_hint(), 0);
        prop_assert_eq!(Place::from_hint(place.to_hint()), Some(place));
    }

    #[test]
    fn any_number_is_no_hint_or_a_place(hint: u32) {
        match Place::from_hint(hint) {
            None => prop_assert_eq!(hint, 0),
            Some(place) => prop_assert!((place.way as usize) < WAYS),
        }
    }

    #[test]
    fn indices_stay_in_their_tables(hash: u64, buckets: u32) {
        prop_assert!(bucket_index(hash, buckets) < buckets.max(1));
        prop_assert!(hint_index(hash) < HINTS);
        prop_assert_ne!(tag(hash), 0);
    }

    #[test]
    fn a_free_place_is_taken_before_any_flow_gives_way(bucket in bucket(), now_ms: u32) {
        let room = bucket.room(now_ms) as usize;
        prop_assert!(room < WAYS);
        if bucket.tags.contains(&0) {
            prop_assert_eq!(bucket.tags[room], 0);
        }
    }

    #[test]
    fn without_one_the_flow_silent_for_longest_gives_way(
        mut bucket in bucket(),
        now_ms: u32,
    ) {
        bucket.tags = bucket.tags.map(|tag| tag | 1);
        let room = bucket.room(now_ms) as usize;
        let age = |way: usize| age_ms(now_ms, bucket.seen_ms[way]);
        prop_assert!((0..WAYS).all(|way| age(way) <= age(room)));
    }

    #[test]
    fn a_flow_lives_until_its_limit(
        mut bucket in bucket(),
        silence_ms in 0..u32::MAX - AHEAD_MS,
    ) {
        bucket.tags[0] = 1;
        let now_ms = bucket.seen_ms[0].wrapping_add(silence_ms);
        prop_assert!(!bucket.is_live(0, now_ms, silence_ms));
        prop_assert!(bucket.is_live(0, now_ms, silence_ms + 1));
        bucket.tags[0] = 0;
        prop_assert!(!bucket.is_live(0, now_ms, u32::MAX));
    }

    #[test]
    fn a_packet_after_the_clock_was_read_was_just_now(now_ms: u32, ahead_ms in 0..=AHEAD_MS) {
        prop_assert_eq!(age_ms(now_ms, now_ms.wrapping_add(ahead_ms)), 0);
    }

    #[test]
    fn both_entries_lead_to_each_other(
        addresses: [[u8; 4]; 4],
        deltas: (u16, u16),
        counts: (u32, u32),
    ) {
        let key = |source, destination| FlowKey4 {
            source: Address4::new(source),
            destination: Address4::new(destination),
            protocol: 6,
            ..FlowKey::default()
        };
        let flow = HalfOpenFlow {
            from_client: key(addresses[0], addresses[1]),
            from_server: key(addresses[2], addresses[3]),
            header_delta: deltas.0,
            transport_delta: deltas.1,
            forward_packets: counts.0,
            reply_packets: counts.1,
            client_hop: Hop { ifindex: 7, ..Hop::default() },
            ..HalfOpenFlow::default()
        };
        let (mut forward, mut reply) = (FlowEntry4::default(), FlowEntry4::default());
        flow.write_entry(Direction::Forward, 5, &mut forward);
        flow.write_entry(Direction::Reply, 5, &mut reply);
        prop_assert_eq!(forward.partner_key(), flow.from_server);
        prop_assert_eq!(reply.partner_key(), flow.from_client);
        prop_assert_eq!((forward.direction(), reply.direction()), (Direction::Forward, Direction::Reply));
        prop_assert_eq!((forward.packets, reply.packets), (counts.0.into(), counts.1.into()));
        prop_assert_eq!(forward.translation(), flow.translation(Direction::Forward));
        prop_assert_eq!(reply.translation(), flow.translation(Direction::Reply));
    }
}

#[test]
fn the_clock_of_places_counts_milliseconds_and_wraps() {
    assert_eq!(milliseconds(1_999_999), 1);
    assert_eq!(milliseconds((1_u64 << 32) * 1_000_000 + 5_000_000), 5);
    assert_eq!(age_ms(3, u32::MAX), 4);
    assert!(is_later(3, u32::MAX) && !is_later(u32::MAX, 3) && !is_later(7, 7));
}

/// Half of what the clock counts is no age at which silence turns into the present.
#[test]
fn a_flow_that_timed_out_stays_so_for_49_days() {
    const DAY_MS: u32 = 86_400_000;
    for seen_ms in [0, u32::MAX - 1000, 1 << 31] {
        let mut bucket = Bucket4 { seen_ms: [seen_ms; WAYS], ..Bucket4::default() };
        bucket.tags[0] = 1;
        for days in [1, 24, 25, 30, 49] {
            let now_ms = seen_ms.wrapping_add(days * DAY_MS);
            assert!(!bucket.is_live(0, now_ms, 30_000), "live again after {days} days");
            assert_eq!(bucket.live(now_ms, 30_000), 0, "counted as live after {days} days");
        }
    }
}
