//! The queue: bounded, by priority, fair, and safe to leave.

use std::task::{Context, Poll, Waker};
use std::{future::Future, pin::pin};

use proptest::{collection::vec, prelude::*};

use super::*;

/// The lease of a ticket that has it by now.
fn ready(ticket: &mut Ticket) -> Option<Result<Lease, Abandoned>> {
    match pin!(ticket).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

fn full(weights: &[u16]) -> (Rig, Vec<Lease>) {
    let mut rig = Rig::new(Balance::RoundRobin, weights);
    rig.limit(1);
    let leases = weights.iter().map(|_| rig.lease()).collect();
    (rig, leases)
}

fn of(client: u64, priority: i16) -> PickFacts<'static> {
    PickFacts { client: Some(client), priority, ..PickFacts::default() }
}

/// The order in which requests of these clients and priorities are served, by their
/// places in the list.
fn check_order(order: QueueOrder, requests: &[(u64, i16)], expected: &[usize]) {
    let (mut rig, mut leases) = full(&[1]);
    rig.balancing.queue.order = order;
    rig.apply();
    let mut tickets: Vec<(usize, Ticket)> = requests
        .iter()
        .map(|(client, priority)| rig.ticket(&of(*client, *priority)))
        .enumerate()
        .collect();
    let mut served = Vec::new();
    while !tickets.is_empty() {
        leases.clear();
        let (at, lease) = (0..tickets.len())
            .find_map(|at| Some((at, ready(&mut tickets[at].1)?.unwrap())))
            .expect("somebody is served");
        served.push(tickets.remove(at).0);
        leases.push(lease);
    }
    assert_eq!(served, expected, "{order:?} {requests:?}");
}

#[test]
fn clients_take_turns() {
    let requests = [(1, 0), (1, 0), (1, 0), (2, 0), (3, 0), (2, 0)];
    check_order(QueueOrder::Fair, &requests, &[0, 3, 4, 1, 5, 2]);
    check_order(QueueOrder::Arrival, &requests, &[0, 1, 2, 3, 4, 5]);
}

#[test]
fn priority_comes_before_turns() {
    let requests = [(1, 0), (2, 5), (1, -5), (1, -5), (3, -5)];
    check_order(QueueOrder::Fair, &requests, &[4, 2, 3, 0, 1]);
    check_order(QueueOrder::Arrival, &requests, &[2, 3, 4, 0, 1]);
}

#[test]
fn the_queue_is_bounded() {
    let (mut rig, leases) = full(&[1, 1]);
    rig.balancing.queue.length = 3;
    rig.apply();
    let tickets: Vec<Ticket> = (0..3).map(|client| rig.ticket(&of(client, 0))).collect();
    let refused = rig.pool.pick(&of(9, 0)).unwrap_err();
    assert_eq!(refused, PickError::QueueFull { waiting: 3 });
    drop(tickets);
    assert_eq!(rig.pool.waiting(), 0);
    let _back = rig.ticket(&of(9, 0));
    drop(leases);
}

#[test]
fn without_a_queue_a_full_backend_refuses() {
    let (mut rig, _leases) = full(&[1]);
    rig.balancing.queue.length = 0;
    rig.apply();
    assert_eq!(rig.pool.pick(&of(1, 0)).unwrap_err(), PickError::QueueFull { waiting: 0 });
}

#[test]
fn nobody_overtakes_those_who_wait() {
    let (rig, mut leases) = full(&[1]);
    let mut first = rig.ticket(&of(1, 0));
    leases.clear();
    let mut late = rig.ticket(&of(2, 0));
    assert!(ready(&mut late).is_none());
    let lease = ready(&mut first).unwrap().unwrap();
    drop(lease);
    assert!(ready(&mut late).unwrap().is_ok());
}

#[test]
fn a_slot_given_to_who_left_goes_to_the_next() {
    let (rig, mut leases) = full(&[1]);
    let first = rig.ticket(&of(1, 0));
    let mut second = rig.ticket(&of(2, 0));
    leases.clear();
    // The first has the slot and does not know it yet.
    assert!(ready(&mut second).is_none());
    drop(first);
    assert!(ready(&mut second).unwrap().is_ok());
    drop(second);
    assert_eq!(rig.pool.report(rig.now)[0].active, 0);
    assert_eq!(rig.pool.report(rig.now)[0].total, 2, "who left was never served");
}

#[test]
fn room_that_appears_is_given_to_those_who_wait() {
    let (mut rig, _leases) = full(&[1]);
    let mut tickets: Vec<Ticket> = (0..3).map(|client| rig.ticket(&of(client, 0))).collect();
    rig.limit(2);
    let first = ready(&mut tickets[0]).unwrap().unwrap();
    let server = KnownServer { address: "10.0.0.9:80".parse().unwrap(), ..rig.servers[&name("a")] };
    rig.servers.insert(name("z"), server);
    rig.apply();
    let second = ready(&mut tickets[1]).unwrap().unwrap();
    assert_eq!((name_of(&first), name_of(&second)), ("a", "z"));
}

#[test]
fn those_who_wait_are_sent_away_when_the_last_server_goes() {
    let (mut rig, _leases) = full(&[1]);
    let mut ticket = rig.ticket(&of(1, 0));
    rig.change("a", |server| server.state = ServerState::Down);
    assert_eq!(ready(&mut ticket).unwrap().unwrap_err(), Abandoned);
    assert_eq!(rig.pool.waiting(), 0);
}

#[test]
fn who_waits_for_its_own_server_takes_another_when_that_goes() {
    let (mut rig, mut leases) = full(&[1, 1]);
    let own = rig.pool.by_name(&name("a")).unwrap();
    let mut ticket = rig.ticket(&PickFacts { own: Some(&own), ..of(1, 0) });
    let mut leaver = rig.ticket(&PickFacts { own: Some(&own), ..of(2, 0) });
    leases.retain(|lease| name_of(lease) == "a");
    assert!(ready(&mut ticket).is_none(), "b has room and is not wanted");
    rig.change("a", |server| server.state = ServerState::Down);
    assert_eq!(name_of(&ready(&mut ticket).unwrap().unwrap()), "b");
    assert!(ready(&mut leaver).unwrap().is_ok());
    assert_eq!(rig.pool.waiting(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Requests come, leave the queue, are served and finish in any order: never more at a
    /// server than it may have, never room while somebody waits, and nothing is left over.
    #[test]
    fn slots_never_leak(
        servers in 1_usize..4,
        most in 1_u32..4,
        steps in vec((0_u8..5, any::<usize>()), 1..200),
    ) {
        let mut rig = Rig::new(Balance::LeastConnections, &vec![1; servers]);
        rig.limit(most);
        let own = rig.pool.by_name(&name("a")).unwrap();
        let (mut leases, mut tickets) = (Vec::new(), Vec::new());
        for (step, which) in steps {
            match step {
                0 | 1 => {
                    let own = (which % 3 == 0).then_some(&own);
                    match rig.pool.pick(&PickFacts { own, ..of(which as u64 % 3, 0) }) {
                        Ok(Picked::Server(lease)) => leases.push(lease),
                        Ok(Picked::Queued(ticket)) => tickets.push(ticket),
                        Err(error) => prop_assert_eq!(error, PickError::QueueFull { waiting: 100 }),
                    }
                }
                2 if !leases.is_empty() => drop(leases.swap_remove(which % leases.len())),
                3 if !tickets.is_empty() => drop(tickets.swap_remove(which % tickets.len())),
                _ => {
                    let mut waiting = Vec::new();
                    for mut ticket in tickets {
                        match ready(&mut ticket) {
                            Some(lease) => leases.push(lease.unwrap()),
                            None => waiting.push(ticket),
                        }
                    }
                    tickets = waiting;
                }
            }
            let reports = rig.pool.report(rig.now);
            let total: u32 = reports.iter().map(|report| report.active).sum();
            prop_assert!(reports.iter().all(|report| report.active <= most));
            let for_any = rig.pool.waiting() - reports[0].waiting;
            let room = total < most * u32::try_from(servers).unwrap();
            prop_assert!(!(room && for_any > 0), "{for_any} wait though there is room");
            prop_assert!(reports[0].waiting == 0 || reports[0].active == most);
        }
        drop(tickets);
        drop(leases);
        prop_assert_eq!(rig.pool.waiting(), 0);
        prop_assert!(rig.pool.report(rig.now).iter().all(|report| report.active == 0));
    }
}
