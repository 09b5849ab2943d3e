//! Real threads against one pool.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use super::*;

/// Threads that take, wait, leave and finish while servers come and go. Every request
/// that waits to the end is served: the test hangs, and fails by its timeout, if a slot
/// is lost.
#[test]
fn slots_survive_threads_that_come_leave_and_change_servers() {
    const THREADS: u64 = 8;
    const REQUESTS: u64 = 4000;
    const MOST: u32 = 2;
    let mut rig = Rig::new(Balance::RoundRobin, &[1, 1, 1]);
    rig.balancing.queue.length = 10_000;
    rig.limit(MOST);
    let pool = Arc::clone(&rig.pool);
    let running: Vec<AtomicU32> = (0..3).map(|_| AtomicU32::new(0)).collect();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (pool, running) = (&pool, &running);
                scope.spawn(move || work(pool, running, thread, REQUESTS, MOST))
            })
            .collect();
        let (done, rig) = (&done, &mut rig);
        scope.spawn(move || {
            let mut states = [ServerState::Drain, ServerState::Up].into_iter().cycle();
            while !done.load(Ordering::Relaxed) {
                let state = states.next().unwrap();
                rig.change("c", |server| server.state = state);
                thread::yield_now();
            }
        });
        let served: u64 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        done.store(true, Ordering::Relaxed);
        assert!(served > THREADS * REQUESTS / 2, "{served}");
    });
    assert_eq!(pool.waiting(), 0);
    assert!(pool.report(rig.now).iter().all(|report| report.active == 0));
}

/// Returns how many requests were served.
fn work(pool: &Pool, running: &[AtomicU32], thread: u64, requests: u64, most: u32) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut served = 0;
    for request in 0..requests {
        let random = lb_common::hash::mix(thread << 32 | request);
        let own = (random.is_multiple_of(5)).then(|| pool.by_name(&name("a")).unwrap());
        let facts =
            PickFacts { random, client: Some(thread), own: own.as_ref(), ..PickFacts::default() };
        let lease = match pool.pick(&facts).expect("two servers are always up") {
            Picked::Server(lease) => lease,
            // Some leave at once, the others wait.
            Picked::Queued(ticket) if random.is_multiple_of(7) => {
                drop(ticket);
                continue;
            }
            Picked::Queued(ticket) => {
                let patience = Duration::from_secs(30);
                let wait = async { tokio::time::timeout(patience, ticket).await };
                runtime.block_on(wait).expect("no slot is lost").expect("servers are up")
            }
        };
        let index = usize::from(lease.server().name().as_str().as_bytes()[0] - b'a');
        let now = running[index].fetch_add(1, Ordering::SeqCst);
        assert!(now < most, "more requests than the server may have");
        if random.is_multiple_of(3) {
            thread::yield_now();
        }
        running[index].fetch_sub(1, Ordering::SeqCst);
        drop(lease);
        served += 1;
    }
    served
}

/// The breaker's share holds when all threads see all servers fail.
#[test]
fn threads_never_take_out_more_than_the_share() {
    use crate::model::balance::PassiveAction;
    let first = Duration::from_secs(3600);
    let mut rig = Rig::new(Balance::RoundRobin, &[1; 10]);
    rig.balancing.passive = Some(passive(1, PassiveAction::Eject { first, longest: first }, 30));
    rig.apply();
    let now = rig.now;
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..500 {
                    if let Ok(Picked::Server(lease)) = rig.pool.pick(&PickFacts::default()) {
                        lease.report(Outcome::Failure, now);
                    }
                    assert!(rig.pool.usable() >= 7);
                }
            });
        }
    });
    assert_eq!(rig.pool.usable(), 7);
}

/// Every change takes away the only server and brings the other one, or its only backup.
#[test]
fn there_is_somebody_at_every_moment_of_a_change() {
    let mut rig = Rig::new(Balance::RoundRobin, &[1, 1]);
    let [first, second] = ["a", "b"].map(|server| rig.servers.remove_entry(&name(server)).unwrap());
    let both = |first_state, backup| {
        let first = (first.0.clone(), KnownServer { state: first_state, ..first.1 });
        BTreeMap::from([first, (second.0.clone(), KnownServer { backup, ..second.1 })])
    };
    let rosters = [
        BTreeMap::from([first.clone()]),
        BTreeMap::from([second.clone()]),
        both(ServerState::Up, true),
        both(ServerState::Maint, true),
        both(ServerState::Drain, false),
    ];
    rig.servers = rosters[0].clone();
    rig.apply();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let pickers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        match rig.pool.pick(&PickFacts::default()) {
                            Ok(Picked::Server(_)) => {}
                            // Whom he saw go was back when he looked for why.
                            Ok(Picked::Queued(ticket)) => {
                                runtime.block_on(ticket).expect("a place for who waits");
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            })
            .collect();
        for servers in rosters.iter().cycle().take(20_000) {
            rig.pool.configure(&rig.balancing, servers, rig.now);
            if pickers.iter().any(thread::ScopedJoinHandle::is_finished) {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        pickers.into_iter().for_each(|picker| picker.join().expect("somebody was there"));
    });
}
