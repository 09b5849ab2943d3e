//! The flow tables of both families: where a flow's two halves are, and what its end is.

use lb_common::{
    abi::map,
    address::{Address, Address4, Address6},
    event::FlowEnd,
    flow::{Direction, FlowEntry, FlowKey},
    half_open::Bucket,
    server::{ServerEntry, state},
    settings::Settings,
    tcp_state::Progress,
};

use aya::{
    Pod,
    maps::{Array, MapData},
};

use super::{
    batch::BatchMap,
    error::{DatapathError, MapAccessError},
    half_open::HalfOpenTable,
    maps::{Source, typed},
    pins::Pins,
};

/// `FLOWS4`, `FLOWS6`, `HALF_OPEN4` and `HALF_OPEN6`.
pub struct FlowTables {
    pub(crate) four: Family<Address4>,
    pub(crate) six: Family<Address6>,
    settings: Array<MapData, Settings>,
    servers: ServerAddresses,
}

impl FlowTables {
    /// Opens the pinned tables.
    ///
    /// # Errors
    /// If a table is not pinned, may not be opened, or has another layout.
    pub fn open(pins: &Pins) -> Result<Self, DatapathError> {
        Self::from_source(pins)
    }

    /// Opens the tables of a loaded object, pinned or not.
    ///
    /// # Errors
    /// If a table is missing from the object or has another layout.
    pub fn of_object(object: &aya::Ebpf) -> Result<Self, DatapathError> {
        Self::from_source(object)
    }

    fn from_source(source: &impl Source) -> Result<Self, DatapathError> {
        Ok(Self {
            four: Family::open(source, map::FLOWS4, map::HALF_OPEN4)?,
            six: Family::open(source, map::FLOWS6, map::HALF_OPEN6)?,
            settings: typed(source, map::SETTINGS)?,
            servers: ServerAddresses::open(source)?,
        })
    }

    /// How long a half-open flow may be silent before the data plane takes its place back,
    /// nanoseconds.
    ///
    /// # Errors
    /// If the settings can not be read.
    pub(crate) fn half_open_ns(&self) -> Result<u64, MapAccessError> {
        let settings = self.settings.get(&0, 0).map_err(|source| MapAccessError::Access {
            action: "read",
            map: map::SETTINGS,
            source,
        })?;
        Ok(u64::from(settings.half_open_ms) * 1_000_000)
    }

    /// The servers, by whose addresses one-way flows are completed.
    pub(crate) const fn servers(&self) -> &ServerAddresses {
        &self.servers
    }
}

/// The addresses of servers by their ids.
pub(crate) struct ServerAddresses(Array<MapData, ServerEntry>);

impl ServerAddresses {
    /// # Errors
    /// If the map is missing or has another layout.
    pub(crate) fn open(source: &impl Source) -> Result<Self, DatapathError> {
        typed(source, map::SERVERS).map(Self)
    }

    /// The record with the server's own address, which a flow whose server answers the client
    /// itself does not have: its packets keep the VIP's. It stays the VIP's if the id of the
    /// server is not its own any more.
    pub(crate) fn complete(&self, end: FlowEnd) -> FlowEnd {
        if !Progress(end.progress).is_one_way() {
            return end;
        }
        match self.0.get(&end.server.id.into(), 0) {
            Ok(server)
                if server.generation == end.server.generation && server.state != state::UNUSED =>
            {
                FlowEnd { server_address: server.address, server_port: server.port, ..end }
            }
            _ => end,
        }
    }
}

impl std::fmt::Debug for FlowTables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowTables").finish_non_exhaustive()
    }
}

/// Which of a family's two tables an entry is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Confirmed by both sides.
    Confirmed,
    /// Not yet.
    HalfOpen,
}

/// One direction of a flow as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Half<A> {
    pub(crate) key: FlowKey<A>,
    pub(crate) entry: FlowEntry<A>,
    pub(crate) table: Table,
}

/// The tables of one family.
pub(crate) struct Family<A> {
    pub(crate) confirmed: BatchMap<FlowKey<A>, FlowEntry<A>>,
    pub(crate) half_open: HalfOpenTable<A>,
}

impl<A: Address> Family<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod + Default,
    Bucket<A>: Pod,
{
    fn open(
        source: &impl Source,
        confirmed: &'static str,
        half_open: &'static str,
    ) -> Result<Self, DatapathError> {
        Ok(Self {
            confirmed: BatchMap::new(confirmed, source.open(confirmed)?)?,
            half_open: HalfOpenTable::new(half_open, source.open(half_open)?)?,
        })
    }

    /// The entry at `key` as it is now, wherever it is; `likely` is looked at first. The
    /// data plane moves entries from half-open to confirmed, so confirmed is looked at
    /// last once more.
    pub(crate) fn find(
        &self,
        key: FlowKey<A>,
        likely: Table,
    ) -> Result<Option<Half<A>>, MapAccessError> {
        let order = match likely {
            Table::Confirmed => [Table::Confirmed, Table::HalfOpen, Table::Confirmed],
            Table::HalfOpen => [Table::HalfOpen, Table::Confirmed, Table::Confirmed],
        };
        for table in order {
            let found = match table {
                Table::Confirmed => {
                    self.confirmed.get(&key)?.map(|entry| Half { key, entry, table })
                }
                Table::HalfOpen => self.half_open.get(&key)?.map(|found| {
                    let from_client = found.flow.from_client == key;
                    let direction = if from_client { Direction::Forward } else { Direction::Reply };
                    found.half(direction)
                }),
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

/// The record of a flow's end, from either half and its partner if that is there. The server
/// of a one-way flow is missing ([`ServerAddresses::complete`]).
pub(crate) fn flow_end<A: Address>(
    half: &Half<A>,
    partner: Option<&Half<A>>,
    ended_ns: u64,
    cause: u8,
) -> FlowEnd {
    let Half { key, entry, .. } = half;
    let (packets, bytes) = partner.map_or((0, 0), |half| (half.entry.packets, half.entry.bytes));
    let common = FlowEnd {
        created_ns: entry.created_ns,
        ended_ns,
        vip: entry.vip,
        server: entry.server,
        progress: entry.progress | partner.map_or(0, |half| half.entry.progress),
        protocol: key.protocol,
        cause,
        ..FlowEnd::default()
    };
    match entry.direction() {
        Direction::Forward => FlowEnd {
            forward_packets: entry.packets,
            forward_bytes: entry.bytes,
            reply_packets: packets,
            reply_bytes: bytes,
            client: key.source.to_common(),
            vip_address: key.destination.to_common(),
            server_address: entry.destination.to_common(),
            client_port: key.source_port,
            vip_port: key.destination_port,
            server_port: entry.destination_port,
            snat_port: entry.source_port,
            ..common
        },
        Direction::Reply => FlowEnd {
            forward_packets: packets,
            forward_bytes: bytes,
            reply_packets: entry.packets,
            reply_bytes: entry.bytes,
            client: entry.destination.to_common(),
            vip_address: entry.source.to_common(),
            server_address: key.source.to_common(),
            client_port: entry.destination_port,
            vip_port: entry.source_port,
            server_port: key.source_port,
            snat_port: key.destination_port,
            ..common
        },
    }
}
