//! What the programs find in the maps: VIPs, servers, rings, and as many flows as wanted.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use aya::maps::MapData;
use ipnet::IpNet;
use lb_common::{
    abi::{self, map},
    access::{AccessRule, AdmissionEntry, NODE_LIST, action},
    address::{Address, Address4, Address6, Be16, Be32},
    bench::{CalibrationKey, Order, calibration_key},
    checksum,
    flow::{Direction, FlowEntry, FlowKey, Handle, Hop},
    forward::{self, Forward},
    half_open::{self, Bucket, Place},
    hash,
    ring::RingSlot,
    settings::{Settings, flag},
    tcp_state::Progress,
    vip::{VipEntry, VipKey, vip_flag},
};
use pointsman::{
    datapath::{Maps, batch::BatchMap},
    model::access::Prefix,
};

use super::{
    measure::Loop,
    scenario::{self, NEIGHBOUR, OWN, PORT_BITS, SERVERS, Scenario, TCP, UDP},
};
use crate::fixture::state::{State, server_entry};

/// Ifindex that test runs come in by unless another is given: the loopback interface.
const LOOPBACK: u32 = 1;
const GENERATION: u16 = 1;
/// All ids of VIPs, and of servers.
const MOST_VIPS: u16 = 512;
const MOST_SERVERS: u16 = 4096;
const _: () = {
    assert!(MOST_VIPS as u32 == abi::MAX_VIPS);
    assert!(MOST_SERVERS as u32 == abi::MAX_SERVERS);
};
/// Entries of one system call.
const CHUNK: u32 = 4096;

/// The maps of the benchmark's object, filled.
pub struct Tables {
    /// Configuration and counters.
    pub maps: Maps,
    flows4: BatchMap<FlowKey<Address4>, FlowEntry<Address4>>,
    flows6: BatchMap<FlowKey<Address6>, FlowEntry<Address6>>,
    half_open4: BatchMap<u32, Bucket<Address4>>,
    calibration: BatchMap<CalibrationKey, u64>,
    filled4: Filling,
    filled6: u32,
    spread: bool,
    /// The VIPs of TCP.
    vips: Vec<(VipKey, VipEntry)>,
}

/// Which flows are in the IPv4 table.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Filling {
    protocol: u8,
    forward: Forward,
    flows: u32,
    spread: bool,
    /// Where packets come from and go to: sending there is `XDP_TX`.
    ifindex: u32,
}

/// Who the flows are between, by family.
trait Ends: Address {
    /// Whether it is IPv6.
    const V6: bool;
    /// From an address of this family.
    fn of(address: IpAddr) -> Option<Self>;
}

impl Ends for Address4 {
    const V6: bool = false;

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(Self::new(address.octets())),
            IpAddr::V6(_) => None,
        }
    }
}

impl Ends for Address6 {
    const V6: bool = true;

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(Self::new(address.octets())),
        }
    }
}

impl Tables {
    /// Opens the maps and writes the configuration: one VIP a family and protocol, with
    /// [`SERVERS`] servers a family. With `spread`, flows have all ids of VIPs and of servers
    /// in turn, those of both families the same: a packet then finds its server and its counters
    /// where no packet was before it.
    ///
    /// # Errors
    /// If a map is missing or refuses.
    pub fn open(object: &Loop, spread: bool) -> Result<Self> {
        let ifindex = object.ifindex.unwrap_or(LOOPBACK);
        let mut tables = Self {
            maps: object.maps()?,
            flows4: BatchMap::new(map::FLOWS4, object.map(map::FLOWS4)?)?,
            flows6: BatchMap::new(map::FLOWS6, object.map(map::FLOWS6)?)?,
            half_open4: BatchMap::new(map::HALF_OPEN4, object.map(map::HALF_OPEN4)?)?,
            calibration: BatchMap::new("CALIBRATION", object.map("CALIBRATION")?)?,
            filled4: Filling { protocol: TCP, spread, ifindex, ..Filling::default() },
            filled6: 0,
            spread,
            vips: Vec::new(),
        };
        tables.configure()?;
        Ok(tables)
    }

    fn configure(&mut self) -> Result<()> {
        let mut state = State::empty();
        for v6 in [false, true] {
            let backend = u16::from(v6);
            for (index, protocol) in [(0, TCP), (1, UDP)] {
                let id = vip_id(v6, index);
                let entry = VipEntry { id, generation: GENERATION, backend, ..VipEntry::default() };
                state = state.vip(scenario::vip(v6), protocol, entry);
            }
            for index in 0..SERVERS {
                let address = scenario::server(v6, u32::from(index));
                let snat = scenario::snat(v6);
                let mut entry = server_entry(GENERATION, address, snat, NEIGHBOUR, OWN);
                entry.ifindex = self.filled4.ifindex;
                (entry.mtu, entry.gue_port) = (1500, Be16::new(forward::GUE_PORT));
                state = state.server(server_id(v6, index), entry);
            }
            let servers: Vec<RingSlot> = (0..SERVERS)
                .map(|index| RingSlot { server: server_handle(v6, index) })
                .cycle()
                .take(abi::RING_SLOTS as usize)
                .collect();
            self.maps.set_ring(backend, &servers)?;
        }
        self.maps.set_settings(&Settings::default())?;
        self.list_sources()?;
        for (word, bits) in state.filter_words() {
            self.maps.set_filter_word(word, bits)?;
        }
        for (key, entry) in state.vip_entries() {
            self.maps.put_vip(&key, &entry)?;
            if key.protocol == TCP {
                self.vips.push((key, entry));
            }
        }
        for (id, entry) in &state.servers {
            self.maps.put_server(*id, entry)?;
        }
        for id in self.vip_ids() {
            self.maps.zero_vip_counters(Handle { id, generation: GENERATION })?;
        }
        let known = state.servers.iter().map(|(id, _)| *id).max().unwrap_or(0);
        let (_, last) = state.servers.last().context("there are servers")?;
        for id in 0..if self.spread { MOST_SERVERS } else { known + 1 } {
            if id > known {
                self.maps.put_server(id, last)?;
            }
            self.maps.zero_server_counters(Handle { id, generation: GENERATION })?;
        }
        Ok(())
    }

    /// The ids of VIPs that packets may count for.
    pub const fn vip_ids(&self) -> std::ops::Range<u16> {
        0..if self.spread { MOST_VIPS } else { 4 }
    }

    /// Writes lists and limits of sources; [`Self::switch`] puts them in force. The limits
    /// are beyond what is measured.
    fn list_sources(&mut self) -> Result<()> {
        let deny = AccessRule { action: action::DENY, expires_s: 0 };
        let rules = scenario::denied().map(|(address, length)| {
            let network = IpNet::new(address.into(), length)?;
            Ok((Prefix { scope: NODE_LIST, network }, deny))
        });
        self.maps.put_rules(&rules.collect::<Result<Vec<_>>>()?)?;
        let entry = AdmissionEntry {
            generation: GENERATION,
            padding: 0,
            scope: 2,
            flags: 0,
            flows_per_source: u32::MAX,
            flow_interval_ns: 1,
            packet_interval_ns: 1,
            flow_burst_ns: 1 << 40,
            packet_burst_ns: 1 << 40,
        };
        Ok(self.maps.put_admission(vip_id(false, 0), &entry)?)
    }

    /// Puts in force what a scenario measures beside forwarding, and nothing else.
    ///
    /// # Errors
    /// If the map refuses.
    pub fn switch(&mut self, scenario: Scenario) -> Result<()> {
        let lists = flag::ACCESS | flag::NODE_LIST;
        let flags = match scenario {
            Scenario::Deny4 => lists,
            Scenario::Nat4TcpHitFull => lists | flag::PACKET_RATES | flag::FLOW_COUNTS,
            _ => 0,
        };
        let default = Settings::default();
        let settings = Settings {
            flags: default.flags | flags,
            // Each client is judged once.
            access_changed_ns: 1,
            // No flood is one.
            cookie_level: u32::MAX,
            ..default
        };
        self.maps.set_settings(&settings)?;
        let always = if scenario == Scenario::SynCookie4 { vip_flag::ALWAYS_COOKIES } else { 0 };
        for (key, entry) in &self.vips {
            let flags = entry.flags | vip_flag::SYN_COOKIES | always;
            self.maps.put_vip(key, &VipEntry { flags, ..*entry })?;
        }
        Ok(())
    }

    /// Brings the tables to `flows` flows, those of the IPv4 table of this protocol and mode,
    /// the others TCP and translated.
    ///
    /// # Errors
    /// If a map refuses.
    pub fn fill(&mut self, protocol: u8, forward: Forward, flows: u32) -> Result<()> {
        let old = self.filled4;
        let new = Filling { protocol, forward, flows, ..old };
        if (old.protocol, old.forward) == (protocol, forward) {
            insert(&self.flows4, new, old.flows..flows)?;
        } else {
            delete(&self.flows4, old, 0..old.flows)?;
            insert(&self.flows4, new, 0..flows)?;
        }
        self.filled4 = new;
        let six = Filling { protocol: TCP, forward: Forward::Nat, ..new };
        insert(&self.flows6, six, self.filled6..flows)?;
        for part in chunks(self.filled6..flows) {
            let keys: Vec<CalibrationKey> = part
                .map(|number| Ok(calibration_key(&from_client::<Address4>(TCP, number)?)))
                .collect::<Result<_>>()?;
            self.calibration.update(&keys, &vec![1; keys.len()])?;
        }
        self.filled6 = flows;
        Ok(())
    }

    /// Forgets the flows that a batch opened, as handshakes and timeouts do in operation.
    /// Touches nothing else, so that the caches stay as they are.
    ///
    /// # Errors
    /// If the map refuses, or a flow was not opened.
    pub fn forget(&self, order: &Order) -> Result<()> {
        let vip = scenario::vip(false);
        for (address, port) in order.tuples() {
            let client = SocketAddr::new(Ipv4Addr::from(address).into(), port);
            let key = key::<Address4>(client, vip, TCP)?;
            self.forget_one(&key).with_context(|| format!("{client} is lost"))?;
        }
        Ok(())
    }

    /// Frees the place of a flow: that which its hint leads to, unless another flow's hint has
    /// taken that one's place.
    fn forget_one(&self, key: &FlowKey<Address4>) -> Result<()> {
        let hash = hash::tuple_hash(key);
        let index = half_open::bucket_index(hash, abi::DEFAULT_HALF_OPEN_BUCKETS);
        let own = self.half_open4.get(&index)?.context("a bucket")?;
        let hint = own.hints[half_open::hint_index(hash)];
        let index = Place::from_hint(hint).context("a hint")?.bucket;
        let bucket = self.half_open4.get(&index)?.context("a bucket")?;
        if self.free(index, bucket, key)? {
            return Ok(());
        }
        let (mut indices, mut buckets) = (Vec::new(), Vec::new());
        let mut batches = self.half_open4.batches();
        while batches.next_into(&mut indices, &mut buckets)? {
            for (index, bucket) in indices.iter().zip(&buckets) {
                if self.free(*index, *bucket, key)? {
                    return Ok(());
                }
            }
        }
        anyhow::bail!("it is nowhere")
    }

    /// Frees the place of a flow if it is in this bucket.
    fn free(
        &self,
        index: u32,
        mut bucket: Bucket<Address4>,
        key: &FlowKey<Address4>,
    ) -> Result<bool> {
        let holds = |way: &usize| bucket.tags[*way] != 0 && bucket.flows[*way].from_client == *key;
        let Some(way) = (0..half_open::WAYS).find(holds) else { return Ok(false) };
        bucket.tags[way] = 0;
        self.half_open4.update(&[index], &[bucket])?;
        Ok(true)
    }
}

fn vip_id(v6: bool, index: u16) -> u16 {
    u16::from(v6) * 2 + index
}

fn server_id(v6: bool, index: u16) -> u16 {
    u16::from(v6) * SERVERS + index
}

fn server_handle(v6: bool, index: u16) -> Handle {
    Handle { id: server_id(v6, index), generation: GENERATION }
}

fn chunks(numbers: std::ops::Range<u32>) -> impl Iterator<Item = std::ops::Range<u32>> {
    let end = numbers.end;
    numbers.step_by(CHUNK as usize).map(move |start| start..(start + CHUNK).min(end))
}

fn insert<A: Ends>(
    table: &BatchMap<FlowKey<A>, FlowEntry<A>>,
    filling: Filling,
    numbers: std::ops::Range<u32>,
) -> Result<()>
where
    FlowKey<A>: aya::Pod,
    FlowEntry<A>: aya::Pod,
{
    for part in chunks(numbers) {
        let (mut keys, mut entries) = (Vec::new(), Vec::new());
        for number in part {
            for (key, entry) in entries_of::<A>(filling, number)? {
                keys.push(key);
                entries.push(entry);
            }
        }
        table.update(&keys, &entries)?;
    }
    Ok(())
}

fn delete<A: Ends>(
    table: &BatchMap<FlowKey<A>, FlowEntry<A>>,
    filling: Filling,
    numbers: std::ops::Range<u32>,
) -> Result<()>
where
    FlowKey<A>: aya::Pod,
    FlowEntry<A>: aya::Pod,
{
    for part in chunks(numbers) {
        let mut keys = Vec::new();
        for number in part {
            keys.extend(entries_of::<A>(filling, number)?.into_iter().map(|(key, _)| key));
        }
        table.delete(&keys)?;
    }
    Ok(())
}

/// The tuple of flow `number` from the client.
fn from_client<A: Ends>(protocol: u8, number: u32) -> Result<FlowKey<A>> {
    key(scenario::client(A::V6, number), scenario::vip(A::V6), protocol)
}

fn key<A: Ends>(from: SocketAddr, to: SocketAddr, protocol: u8) -> Result<FlowKey<A>> {
    Ok(FlowKey {
        source: A::of(from.ip()).context("an address of this family")?,
        destination: A::of(to.ip()).context("an address of this family")?,
        source_port: Be16::new(from.port()),
        destination_port: Be16::new(to.port()),
        protocol,
        padding: [0; 3],
    })
}

/// The entries of flow `number`, as the data plane would have made them.
fn entries_of<A: Ends>(filling: Filling, number: u32) -> Result<Vec<(FlowKey<A>, FlowEntry<A>)>> {
    let protocol = filling.protocol;
    let index = number >> PORT_BITS;
    let towards = SocketAddr::new(scenario::snat(A::V6), scenario::port(number));
    let client = from_client::<A>(protocol, number)?;
    let server = key::<A>(towards, scenario::server(A::V6, index), protocol)?;
    let index = u16::try_from(index).context("more flows than servers have ports")?;
    let (server_id, vip_id) = if filling.spread {
        // The high bits of a product with an odd number near 2^32 / 1.618: all ids in turn.
        let id = (number.wrapping_mul(0x9e37_79b1) >> 20) as u16;
        (id % MOST_SERVERS, id % MOST_VIPS)
    } else {
        (server_id(A::V6, index), vip_id(A::V6, u16::from(protocol == UDP)))
    };
    let tcp = Progress(Progress::SYN | Progress::SYN_ACK | Progress::CONFIRMED);
    let progress = if protocol == TCP { tcp } else { Progress::default() };
    let entry = |before: FlowKey<A>, after: FlowKey<A>, direction: Direction| {
        let deltas = checksum::translation_deltas(&before, &after);
        FlowEntry {
            last_seen_ns: 0,
            created_ns: 0,
            packets: 0,
            bytes: 0,
            source: after.source,
            destination: after.destination,
            source_port: after.source_port,
            destination_port: after.destination_port,
            header_delta: deltas.header,
            transport_delta: deltas.transport,
            client_hop: Hop { neighbour: NEIGHBOUR, own: OWN, ifindex: filling.ifindex },
            server: Handle { id: server_id, generation: GENERATION },
            vip: Handle { id: vip_id, generation: GENERATION },
            progress: progress.with_forward(filling.forward).0,
            direction: direction.to_raw(),
            protocol,
            credit: 0,
            last_credit: 0,
            acknowledged: Be32::default(),
            sequence_shift: 0,
        }
    };
    if filling.forward.is_one_way() {
        return Ok(vec![(client, entry(client, client, Direction::Forward))]);
    }
    let (reply, back) = (server.reversed(), client.reversed());
    Ok(vec![
        (client, entry(client, server, Direction::Forward)),
        (reply, entry(reply, back, Direction::Reply)),
    ])
}

/// Gives the map of an object a descriptor of its own.
pub(super) fn duplicate(data: &MapData) -> Result<MapData> {
    let descriptor = std::os::fd::AsFd::as_fd(data.fd()).try_clone_to_owned()?;
    Ok(MapData::from_fd(descriptor)?)
}
