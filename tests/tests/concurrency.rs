//! Several processors at one flow, and changes of the maps under traffic: whatever they do at
//! once, a flow has one server and one end, and what is counted adds up.
//!
//! The program runs by `BPF_PROG_TEST_RUN` on two processors. `POINTSMAN_ROUNDS`,
//! `POINTSMAN_SWAPS` and `POINTSMAN_CONNECTIONS` say how often; `cargo xtask races` goes on for
//! long.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use lb_common::{
    access::AdmissionEntry,
    address::{Address4, Be16},
    drop_reason::DropReason,
    event::FlowEnd,
    flow::{Direction, FlowKey},
    half_open::{self, FLOWS_PER_BUCKET},
    hash,
    settings::flag::FLOW_EVENTS,
    tcp_state::Progress,
    timeouts::Timeouts,
    vip::hash_by,
};
use testbed::{
    fixture::{
        Family, Flow, Outcome, Rig, Scene, Side, State, Table, Verdict,
        crew::{Arrival, at_once, pin, processors},
        scene::{
            A, B, BACKEND, CLIENT_PORT, ID_A, ID_B, MAC_A, MAC_B, OWN_CLIENTS, OWN_SERVERS, ROUTER,
            VIP_TCP, VIP_UDP,
        },
    },
    packet::{Packet, flag, verify},
};

/// Flows that are opened at once, one after the other, in a round.
const FLOWS: u16 = 600;
const ACK: u8 = flag::ACK;
/// Room for half-open flows.
const HALF_OPEN: u32 = 65_536;
/// As what sources are counted.
const SCOPE: u32 = 1;

fn number(variable: &str, otherwise: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable}: {text}")))
}

/// A VIP whose servers take turns, so that two packets of a new flow never select the same one,
/// and whose sources' flows are counted.
fn state(scene: &Scene) -> State {
    let counted =
        AdmissionEntry { scope: SCOPE, flows_per_source: 1_000_000, ..AdmissionEntry::default() };
    let mut state = scene
        .state()
        .ring(BACKEND, &[A, B])
        .each_vip(|vip| vip.hash_by = hash_by::ROUND_ROBIN)
        .admission(VIP_TCP, counted)
        .admission(VIP_UDP, counted);
    state.settings.flags |= FLOW_EVENTS;
    (state.flow_entries, state.half_open_flows) = (16_384, HALF_OPEN);
    state
}

/// What became of packets.
#[derive(Debug, Default)]
struct Tally {
    /// How many were sent on, answered, dropped, passed.
    by_verdict: [u64; 4],
    /// Bytes of those that were sent on.
    bytes: u64,
    /// Where to.
    sent_to: HashMap<SocketAddr, u64>,
}

impl Tally {
    fn note(&mut self, length: usize, outcome: &Outcome) {
        let kind = match outcome.verdict {
            Verdict::Redirect => {
                let (_, to) = verify::sound(&outcome.frame).unwrap();
                *self.sent_to.entry(to).or_default() += 1;
                self.bytes += length as u64;
                0
            }
            Verdict::Tx => 1,
            Verdict::Drop => 2,
            Verdict::Pass => 3,
            Verdict::Aborted => panic!("aborted"),
        };
        self.by_verdict[kind] += 1;
    }

    fn add(&mut self, other: Self) {
        for (mine, its) in self.by_verdict.iter_mut().zip(other.by_verdict) {
            *mine += its;
        }
        self.bytes += other.bytes;
        for (to, packets) in other.sent_to {
            *self.sent_to.entry(to).or_default() += packets;
        }
    }
}

/// A rig, and what was sent through it.
struct Race {
    scene: Scene,
    rig: testbed::fixture::pool::Lease,
    seen: Tally,
    /// What was counted before.
    refusals: HashMap<&'static str, u64>,
}

impl Race {
    fn new(scene: Scene, state: &State) -> Self {
        let mut rig = Rig::lease(state).unwrap();
        rig.events().unwrap();
        let refusals = refusals(&mut rig);
        Self { scene, rig, seen: Tally::default(), refusals }
    }

    /// Runs two lists of packets, each two at once. What each two became; one that is dropped,
    /// which is only for a lock whose holder did not run, comes again.
    fn at_once(&mut self, lists: [&[Arrival]; 2]) -> Vec<[Outcome; 2]> {
        let [mut first, mut second] = at_once(&self.rig, lists).unwrap();
        for (list, outcomes) in lists.iter().zip([&mut first, &mut second]) {
            for ((side, frame), outcome) in list.iter().zip(outcomes) {
                self.seen.note(frame.len(), outcome);
                if outcome.verdict == Verdict::Drop {
                    *outcome = self.rig.run(*side, frame).unwrap();
                    self.seen.note(frame.len(), outcome);
                }
            }
        }
        first.into_iter().zip(second).map(|(first, second)| [first, second]).collect()
    }

    /// Every packet is in one counter and no more, and none was dropped but for a lock whose
    /// holder did not run.
    fn check_counters(&mut self) {
        let [sent, answered, dropped, passed] = self.seen.by_verdict;
        assert_eq!((answered, passed), (0, 0));
        for counted in
            [self.rig.all_vip_counters().unwrap(), self.rig.all_server_counters().unwrap()]
        {
            assert_eq!(counted.forward_packets + counted.reply_packets, sent, "packets");
            assert_eq!(counted.forward_bytes + counted.reply_bytes, self.seen.bytes, "bytes");
        }
        let now = refusals(&mut self.rig);
        let grown: Vec<(&str, u64)> = now
            .iter()
            .map(|(name, count)| (*name, count - self.refusals.get(name).unwrap_or(&0)))
            .filter(|(_, count)| *count > 0)
            .collect();
        let busy: u64 = grown.iter().map(|(_, count)| count).sum();
        assert!(grown.iter().all(|(name, _)| *name == DropReason::Busy.name()), "{grown:?}");
        assert_eq!(busy, dropped, "packets not forwarded");
    }

    /// Confirmed flows, as the table, the servers' counts and the client's count have them.
    fn check_flows(&mut self, flows: u64) {
        let table = self.rig.flows(Table::Confirmed).unwrap();
        let (forward, reply): (Vec<&Flow>, Vec<&Flow>) =
            table.iter().partition(|flow| flow.direction == Direction::Forward);
        assert_eq!((forward.len() as u64, reply.len() as u64), (flows, flows), "entries");
        let answered: HashSet<_> =
            reply.iter().map(|flow| (flow.matches, flow.becomes, flow.server)).collect();
        for flow in forward {
            let partner = ((flow.becomes.1, flow.becomes.0), (flow.matches.1, flow.matches.0));
            let found = answered.contains(&(partner.0, partner.1, flow.server));
            assert!(found, "no partner: {flow:?}");
        }
        let live = reply.iter().filter(|flow| flow.progress & Progress::UNCOUNTED == 0).count();
        let counted: u32 = [ID_A, ID_B].map(|id| self.rig.server_flows(id).unwrap()).iter().sum();
        assert_eq!(counted as usize, live, "flows of servers");
        let source = self.rig.source(SCOPE, self.scene.client.ip()).unwrap();
        assert_eq!(u64::from(source.map_or(0, |source| source.flows)), flows, "of the source");
    }

    fn half_open(&mut self) -> u64 {
        self.rig.flows(Table::HalfOpen).unwrap().len() as u64 / 2
    }

    fn client(&self, flow: u16) -> SocketAddr {
        SocketAddr::new(self.scene.client.ip(), CLIENT_PORT + flow)
    }

    /// Those of so many flows whose hints no other of them overwrites. One whose hint is lost and
    /// whose ring changes before it is confirmed is not found again (docs/decisions/0011): that
    /// is for its client to begin anew.
    fn hinted(&self, flows: u16) -> HashSet<u16> {
        let hint = |flow| {
            let SocketAddr::V4(client) = self.client(flow) else { panic!("IPv4 alone") };
            let SocketAddr::V4(vip) = self.scene.vip else { panic!("IPv4 alone") };
            let hash = hash::tuple_hash(&FlowKey {
                source: Address4::new(client.ip().octets()),
                destination: Address4::new(vip.ip().octets()),
                source_port: Be16::new(client.port()),
                destination_port: Be16::new(vip.port()),
                protocol: 6,
                padding: [0; 3],
            });
            (
                half_open::bucket_index(hash, HALF_OPEN / FLOWS_PER_BUCKET),
                half_open::hint_index(hash),
            )
        };
        let mut known = HashMap::new();
        (0..flows).for_each(|flow| *known.entry(hint(flow)).or_insert(0) += 1);
        (0..flows).filter(|flow| known[&hint(*flow)] == 1).collect()
    }

    fn client_says(&self, flow: u16, flags: u8, numbers: (u32, u32)) -> Arrival {
        let packet = Packet::tcp(self.client(flow), self.scene.vip).flags(flags);
        let packet = packet.sequence(numbers.0, numbers.1).link(ROUTER, OWN_CLIENTS);
        (Side::Clients, packet.bytes())
    }

    fn server_says(
        &self,
        ends: (SocketAddr, SocketAddr),
        flags: u8,
        numbers: (u32, u32),
    ) -> Arrival {
        let packet = Packet::tcp(ends.1, ends.0).flags(flags).sequence(numbers.0, numbers.1);
        (Side::Servers, packet.link(self.mac(ends.1), OWN_SERVERS).bytes())
    }

    fn mac(&self, server: SocketAddr) -> [u8; 6] {
        if server == self.scene.server_a { MAC_A } else { MAC_B }
    }

    /// What two packets of a client that came at once lead to: a port towards a server, and the
    /// server.
    fn way(&self, outcomes: &[Outcome; 2]) -> Option<(SocketAddr, SocketAddr)> {
        let ways = ends(outcomes);
        assert!(ways.len() < 2, "two ways: {ways:?}");
        let way = ways.into_iter().next()?;
        assert!([self.scene.server_a, self.scene.server_b].contains(&way.1));
        Some(way)
    }

    /// Runs a packet of each flow on one processor and another on the other.
    fn each(
        &mut self,
        ways: &[(u16, (SocketAddr, SocketAddr))],
        first: impl Fn(&Self, u16, (SocketAddr, SocketAddr)) -> Arrival,
        second: impl Fn(&Self, u16, (SocketAddr, SocketAddr)) -> Arrival,
    ) -> Vec<[Outcome; 2]> {
        let first: Vec<_> = ways.iter().map(|(flow, way)| first(self, *flow, *way)).collect();
        let second: Vec<_> = ways.iter().map(|(flow, way)| second(self, *flow, *way)).collect();
        self.at_once([&first, &second])
    }

    /// Opens TCP flows by two SYNs at once each.
    fn open(&mut self) -> Vec<(u16, (SocketAddr, SocketAddr))> {
        let syns: Vec<_> =
            (0..FLOWS).map(|flow| self.client_says(flow, flag::SYN, (999, 0))).collect();
        let outcomes = self.at_once([&syns, &syns]);
        // A bucket that was full would be a reason.
        if let Some(ways) = outcomes.iter().map(ends).find(|ways| ways.len() > 1) {
            panic!("two ways: {ways:?}; refused until now: {:?}", refusals(&mut self.rig));
        }
        let ways = outcomes.iter().map(|outcomes| self.way(outcomes));
        (0..FLOWS).zip(ways).filter_map(|(flow, way)| Some((flow, way?))).collect()
    }

    /// The records of ends since the last look, of which there is one for each flow at most.
    fn ends(&mut self) -> Vec<FlowEnd> {
        let ends = self.rig.events().unwrap();
        let known: HashSet<_> = ends.iter().map(|end| (end.client_port, end.created_ns)).collect();
        assert_eq!(known.len(), ends.len(), "an end was reported twice");
        ends
    }
}

/// Whom packets that were sent on are from and to.
fn ends(outcomes: &[Outcome; 2]) -> HashSet<(SocketAddr, SocketAddr)> {
    let sent = outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Redirect);
    sent.map(|sent| verify::sound(&sent.frame).unwrap()).collect()
}

/// How often packets were not sent on, by reason.
fn refusals(rig: &mut Rig) -> HashMap<&'static str, u64> {
    let drops = rig.drops().unwrap();
    drops.into_iter().map(|(reason, count)| (reason.name(), count)).collect()
}

#[test]
fn a_connection_on_two_processors_has_one_server_and_one_end() {
    for round in 0..number("POINTSMAN_ROUNDS", 1) {
        for scene in Family::BOTH.map(Scene::new) {
            let mut race = Race::new(scene, &state(&scene));
            live_and_die(&mut race);
            println!("{:?}, round {round}: {:?}", scene.family, race.seen.by_verdict);
        }
    }
}

/// All that happens to a connection, each packet together with another one.
fn live_and_die(race: &mut Race) {
    let ways = race.open();
    let flows = ways.len() as u64;
    assert_eq!(race.half_open(), flows);
    assert_eq!(race.rig.all_vip_counters().unwrap().flows, flows, "opened");
    let syn_ack = |race: &Race, _, way| race.server_says(way, flag::SYN | ACK, (1999, 1000));
    race.each(&ways, syn_ack, syn_ack);
    // The client's ACK, and its first data, whichever comes first.
    race.each(
        &ways,
        |race, flow, _| race.client_says(flow, ACK, (1000, 2000)),
        |race, flow, _| race.client_says(flow, ACK | flag::PSH, (1000, 2000)),
    );
    // A flow whose bucket was locked at both moves at the next packet.
    let data = race.each(
        &ways,
        |race, flow, _| race.client_says(flow, ACK, (1000, 2000)),
        |race, _, way| race.server_says(way, ACK, (2000, 1000)),
    );
    for ((_, way), [forward, _]) in ways.iter().zip(&data) {
        assert_eq!(verify::sound(&forward.frame).unwrap(), *way, "to another server");
    }
    assert_eq!(race.half_open(), 0, "left in the table of half-open flows");
    race.check_flows(flows);
    race.check_counters();
    assert_eq!(race.ends().len(), 0);

    // One half ends by RSTs, the other by FINs.
    let (reset, closed): (Vec<_>, Vec<_>) = ways.iter().partition(|(flow, _)| flow % 2 == 0);
    race.each(
        &reset,
        |race, flow, _| race.client_says(flow, flag::RST, (1000, 0)),
        |race, _, way| race.server_says(way, flag::RST, (2000, 0)),
    );
    assert_eq!(race.ends().len(), reset.len(), "reset");
    race.each(
        &closed,
        |race, flow, _| race.client_says(flow, flag::FIN | ACK, (1000, 2000)),
        |race, _, way| race.server_says(way, flag::FIN | ACK, (2000, 1000)),
    );
    race.each(
        &closed,
        |race, flow, _| race.client_says(flow, ACK, (1001, 2001)),
        |race, _, way| race.server_says(way, ACK, (2001, 1001)),
    );
    let ended = race.ends().len();
    assert!(ended <= closed.len());
    // What saw the other FIN too late is no end, but the next ACK is.
    race.each(
        &closed,
        |race, flow, _| race.client_says(flow, ACK, (1001, 2001)),
        |race, _, way| race.server_says(way, ACK, (2001, 1001)),
    );
    assert_eq!(ended + race.ends().len(), closed.len(), "closed");
    let counted = [ID_A, ID_B].map(|id| race.rig.server_flows(id).unwrap());
    assert_eq!(counted, [0, 0], "flows of servers that are over");

    // New connections on the same tuples.
    let before = race.rig.all_vip_counters().unwrap().flows;
    let again = race.open();
    let opened = race.rig.all_vip_counters().unwrap().flows - before;
    assert_eq!((opened, race.half_open()), (again.len() as u64, again.len() as u64), "anew");
    race.check_flows(flows - opened);
    race.check_counters();
}

/// What led to the last flow of a tuple leads to a place that may be the new one's already.
#[test]
fn a_tuple_that_two_processors_open_anew_has_one_way() {
    /// How often each tuple is opened in a round.
    const TIMES: u32 = 10;
    for _ in 0..number("POINTSMAN_ROUNDS", 1) {
        for scene in Family::BOTH.map(Scene::new) {
            let mut race = Race::new(scene, &state(&scene));
            for _ in 0..TIMES {
                let ways = race.open();
                assert_eq!(race.half_open(), ways.len() as u64);
                for (flow, _) in ways {
                    let (side, frame) = race.client_says(flow, flag::RST, (1000, 0));
                    let outcome = race.rig.run(side, &frame).unwrap();
                    race.seen.note(frame.len(), &outcome);
                }
                race.ends();
            }
            race.check_counters();
        }
    }
}

#[test]
fn datagrams_on_two_processors_open_one_flow() {
    for _ in 0..number("POINTSMAN_ROUNDS", 1) {
        for scene in Family::BOTH.map(Scene::new) {
            let mut race = Race::new(scene, &state(&scene));
            let datagrams: Vec<_> = (0..FLOWS)
                .map(|flow| {
                    let packet = Packet::udp(race.client(flow), scene.vip).payload(b"question");
                    (Side::Clients, packet.link(ROUTER, OWN_CLIENTS).bytes())
                })
                .collect();
            let outcomes = race.at_once([&datagrams, &datagrams]);
            let ways: Vec<_> = (0..FLOWS)
                .zip(outcomes.iter().map(|outcomes| race.way(outcomes)))
                .filter_map(|(flow, way)| Some((flow, way?)))
                .collect();
            let flows = ways.len() as u64;
            assert_eq!(race.half_open(), flows);
            assert_eq!(race.rig.all_vip_counters().unwrap().flows, flows, "opened");
            let answer = |race: &Race, _, (from, server): (SocketAddr, SocketAddr)| {
                let packet = Packet::udp(server, from).payload(b"answer");
                (Side::Servers, packet.link(race.mac(server), OWN_SERVERS).bytes())
            };
            race.each(&ways, answer, answer);
            // Once more, for those whose bucket was locked.
            race.each(&ways, answer, |_, flow, _| datagrams[usize::from(flow)].clone());
            assert_eq!(race.half_open(), 0, "left in the table of half-open flows");
            race.check_flows(flows);
            race.check_counters();
        }
    }
}

#[test]
fn rings_are_swapped_under_traffic_and_flows_keep_their_servers() {
    let scene = Scene::new(Family::V4);
    let mut state = state(&scene).each_vip(|vip| vip.hash_by = hash_by::TUPLE);
    // Nobody would read them.
    state.settings.flags &= !FLOW_EVENTS;
    let mut race = Race::new(scene, &state);
    let mut swapper = race.rig.swapper(BACKEND, &[&[A], &[B], &[A, B]]).unwrap();
    let swaps = usize::try_from(number("POINTSMAN_SWAPS", 200)).unwrap();
    let over = AtomicBool::new(false);
    let processors = processors().unwrap();
    let hinted = race.hinted(2 * FLOWS);
    thread::scope(|scope| {
        let crew = [(0, 0), (1, FLOWS)].map(|(member, base)| {
            let (rig, over, processor) = (&race, &over, processors[member]);
            let hinted = &hinted;
            scope.spawn(move || {
                pin(processor).unwrap();
                let mut seen = Tally::default();
                // Ports of its own, each of which has one connection after the other.
                for flow in (base..base + FLOWS).cycle() {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    if !hinted.contains(&flow) {
                        continue;
                    }
                    converse(rig, flow, 8, &mut seen);
                }
                seen
            })
        });
        for swap in 0..swaps {
            swapper.put(swap).unwrap();
        }
        over.store(true, Ordering::Relaxed);
        crew.map(|member| member.join().unwrap())
    })
    .into_iter()
    .for_each(|seen| race.seen.add(seen));
    println!("{swaps} swaps, {} flows: {:?}", hinted.len(), race.seen.by_verdict);
    for server in [scene.server_a, scene.server_b] {
        assert!(race.seen.sent_to.contains_key(&server), "{server} was in no ring");
    }
    race.check_counters();
}

/// Connections that recycle each other's tuples on one processor, while sweeps on the other one
/// find that those before them have ended. The sweep is interrupted wherever it is, because somebody
/// else wants its processor.
#[test]
fn a_sweep_leaves_a_tuple_that_was_opened_anew_alone() {
    const TUPLES: u16 = 8;
    let timeouts = Timeouts { closed_ns: 1, ..Timeouts::default() };
    for scene in Family::BOTH.map(Scene::new) {
        let mut state = state(&scene);
        // Nobody would read them.
        state.settings.flags &= !FLOW_EVENTS;
        // A sweep takes longer than what it races with if it reads more.
        (state.flow_entries, state.half_open_flows) = (512, 512);
        let mut race = Race::new(scene, &state);
        let tables = race.rig.flow_tables().unwrap();
        let connections = number("POINTSMAN_CONNECTIONS", 4000);
        let over = AtomicBool::new(false);
        let processors = processors().unwrap();
        let (seen, swept) = thread::scope(|scope| {
            let (rig, over, tables) = (&race, &over, &tables);
            scope.spawn(|| {
                pin(processors[1]).unwrap();
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
            let sweeper = scope.spawn(|| {
                pin(processors[1]).unwrap();
                let mut swept = 0;
                while !over.load(Ordering::Relaxed) {
                    swept += rig.rig.sweep(tables, &timeouts).unwrap().expired;
                }
                swept
            });
            let clients = scope.spawn(|| {
                pin(processors[0]).unwrap();
                let mut seen = Tally::default();
                for number in 0..connections {
                    let flow = u16::try_from(number % u64::from(TUPLES)).unwrap();
                    converse(rig, flow, 1, &mut seen);
                }
                seen
            });
            let seen = clients.join();
            // Whatever came of it, the others are not to wait.
            over.store(true, Ordering::Relaxed);
            (seen.unwrap(), sweeper.join().unwrap())
        });
        println!("{:?}: {:?}, {swept} swept", scene.family, seen.by_verdict);
        race.seen.add(seen);
        assert!(swept > 0, "{swept} swept");
        race.check_counters();
        // What came in this tick of the coarse clock is not idle.
        thread::sleep(Duration::from_millis(20));
        race.rig.sweep(&tables, &timeouts).unwrap();
        race.check_flows(0);
    }
}

/// A connection from its first packet to its last: all of them go to one server.
fn converse(race: &Race, flow: u16, segments: u32, seen: &mut Tally) {
    let mut run = |(side, frame): Arrival| {
        let outcome = race.rig.run(side, &frame).unwrap();
        seen.note(frame.len(), &outcome);
        (outcome.verdict == Verdict::Redirect).then(|| verify::sound(&outcome.frame).unwrap())
    };
    let Some(way) = run(race.client_says(flow, flag::SYN, (999, 0))) else { return };
    run(race.server_says(way, flag::SYN | ACK, (1999, 1000)));
    for _ in 0..segments {
        if let Some(now) = run(race.client_says(flow, ACK, (1000, 2000))) {
            assert_eq!(now, way, "another server in the middle of a connection");
        }
    }
    run(race.server_says(way, flag::RST, (2000, 0)));
}
