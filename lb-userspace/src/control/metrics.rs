//! Pages of metrics. The loop says what it knows, without a look at maps; counters are read and
//! the page is written on another thread.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use lb_common::{counters::TrafficCounters, flow::Handle};

use super::{Control, book::Record};
use crate::{
    access_log::writer::AccessLogger,
    admin::{
        api::RulesView,
        command::{CommandError, Page, Reply},
        scrape::PageFormat,
    },
    balance::{MemberReport, Totals},
    datapath::{Maps, error::MapAccessError},
    health::Checked,
    metrics::{
        self, Exposition, Reading,
        process::ProcessReading,
        reading::{
            AgentReading, BackendReading, CheckReading, DatapathReading, FrontendReading,
            LayerFour, ProxyReading, Requests, ServerReading, VipReading,
        },
    },
    model::{
        name::Name,
        snapshot::{AttachMode, Bind, Protocol},
        state::{ServerId, ServerState},
    },
    proxy::{
        report::{BackendReport, ProxyReport},
        traffic::ServerPlace,
    },
    reconcile::Places,
};

/// Where the maps count what a reading has slots for.
#[derive(Default)]
struct Slots {
    /// By the number of the VIP in the reading.
    vips: Vec<(usize, Handle)>,
    /// By the number of the server in the reading.
    servers: Vec<(usize, Handle)>,
}

/// Where layer 4 is counted.
enum Counted<'a> {
    /// In the maps.
    InMaps(Places<'a>),
    /// By the proxy.
    InUserSpace(HashMap<ServerPlace, TrafficCounters>),
}

impl Control {
    /// Answers with a page, from a thread of its own.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn metrics(&self, format: PageFormat, reply: Reply<Page>) {
        let (mut reading, slots) = self.reading();
        let maps = self.kernel.as_ref().map(super::kernel::Kernel::counters);
        tokio::task::spawn_blocking(move || {
            let filled = match &maps {
                Some(maps) => fill(&mut reading, &slots, maps).map_err(super::answer::unreadable),
                None => Ok(()),
            };
            let page = filled.and_then(|()| {
                reading.process = ProcessReading::now();
                let exposition = match format {
                    PageFormat::Text => Exposition::Text,
                    PageFormat::OpenMetrics => Exposition::OpenMetrics,
                };
                let page = metrics::page(reading, exposition);
                page.map(Page::from).map_err(|_| CommandError::NoPage)
            });
            if reply.send(page).is_err() {
                tracing::debug!("nobody waits for the page of metrics any more");
            }
        });
    }

    /// What the access log that is in force no longer has written and lost; `old` may be.
    pub(super) fn count_lines_of(&mut self, old: Option<&Arc<AccessLogger>>) {
        let kept = self.outputs.access_log.borrow().clone();
        let replaced = old.filter(|old| kept.is_none_or(|kept| !Arc::ptr_eq(old, &kept)));
        if let Some(old) = replaced {
            self.old_log_lines[0] += old.written();
            self.old_log_lines[1] += old.lost();
        }
    }

    /// What the loop knows. What the maps count has `slots` in it.
    fn reading(&self) -> (Reading, Slots) {
        let proxy = self.proxy.report(&self.snapshot);
        let mut slots = Slots::default();
        let vips = self.vip_readings(&mut slots);
        let servers = self.server_readings(&proxy, &mut slots);
        let usable = usable(&servers);
        let backend = |name: &Name| BackendReading {
            name: name.clone(),
            usable: usable.get(name).copied().unwrap_or_default(),
            proxy: proxy.backends.get(name).map(of_backend),
            timings: proxy.backends.get(name).map(|report| report.timings),
        };
        let reading = Reading {
            agent: self.agent_reading(),
            process: None,
            datapath: self.datapath_reading(),
            drops: match self.kernel {
                Some(_) => Vec::new(),
                None => named(self.proxy.drops()),
            },
            vips,
            frontends: frontends(self, &proxy),
            backends: self.snapshot.backends.keys().map(backend).collect(),
            servers,
        };
        (reading, slots)
    }

    fn agent_reading(&self) -> AgentReading {
        let [written, lost] = self.old_log_lines;
        let log = self.outputs.access_log.borrow();
        let of_log = log.as_deref().map_or([0; 2], |log| [log.written(), log.lost()]);
        AgentReading {
            version: env!("CARGO_PKG_VERSION"),
            started: self.started_at,
            configured: self.configured_at,
            reloads: self.reloads,
            last_reload_accepted: self.last_reload.as_ref().is_none_or(|last| last.accepted),
            log_lines: [written + of_log[0], lost + of_log[1]],
        }
    }

    fn datapath_reading(&self) -> Option<DatapathReading> {
        let kernel = self.kernel.as_ref()?;
        let interfaces = kernel.interfaces(&self.snapshot.datapath).into_iter();
        let mode = |mode| match mode {
            AttachMode::Generic => "generic",
            AttachMode::Native => "native",
            AttachMode::Auto | AttachMode::Off => "off",
        };
        let sweep = self.sweeps.borrow();
        let RulesView { listed, blocked, capacity } = self.rules_view();
        Some(DatapathReading {
            interfaces: interfaces.map(|one| (one.name, mode(one.mode))).collect(),
            up_to_date: self.apply_error.is_none(),
            syn_cookies: self.is_flooded,
            tables: sweep
                .fill
                .iter()
                .map(|table| (table.map, table.entries, table.capacity.into()))
                .collect(),
            sweeps: sweep.totals.sweeps,
            sweep_time: sweep.took,
            expired: sweep.totals.expired,
            stranded: sweep.totals.stranded,
            rules: [listed as u64, blocked as u64, capacity],
        })
    }

    fn vip_readings(&self, slots: &mut Slots) -> Vec<VipReading> {
        let in_user_space = match self.kernel {
            Some(_) => None,
            None => Some(self.proxy.ledger().vips()),
        };
        let sweep = self.sweeps.borrow();
        let swept = (sweep.totals.sweeps > 0).then(|| sweep.by_vip());
        let frontends = self.snapshot.l4_frontends();
        let vips = frontends.flat_map(|(name, one)| one.bind.iter().map(move |bind| (name, bind)));
        let view = |(number, (name, bind)): (usize, (&Name, &Bind))| {
            let handle = self.kernel.as_ref().and_then(|kernel| kernel.vip_handle(bind));
            slots.vips.extend(handle.map(|handle| (number, handle)));
            let flows = handle.zip(swept.as_ref());
            VipReading {
                frontend: name.clone(),
                address: bind.address.to_string(),
                protocol: match bind.protocol {
                    Protocol::Tcp => "tcp",
                    Protocol::Udp => "udp",
                },
                traffic: in_user_space
                    .as_ref()
                    .map(|ledger| ledger.get(bind).copied().unwrap_or_default()),
                flows: flows
                    .map(|(handle, swept)| swept.get(&handle).copied().unwrap_or_default().into()),
            }
        };
        vips.enumerate().map(view).collect()
    }

    fn server_readings(&self, proxy: &ProxyReport, slots: &mut Slots) -> Vec<ServerReading> {
        let checks = self.checks.all();
        let counted = match &self.kernel {
            Some(kernel) => Counted::InMaps(kernel.places()),
            None => Counted::InUserSpace(self.proxy.ledger().servers()),
        };
        let layer_4 = self.snapshot.l4_backends();
        let members = members(proxy);
        let mut readings = Vec::with_capacity(self.book.iter().count());
        for (id, known) in self.book.iter() {
            // What was told is what the maps have.
            let told = self.book.compare(&self.told, id).and_then(|(_, told)| told);
            let record = told.unwrap_or(known);
            let member = members.get(&(&id.0, &id.1)).copied();
            let mut reading = server(id, record, member, checks.get(id));
            if layer_4.contains(&id.0) {
                match &counted {
                    Counted::InMaps(places) => {
                        let address = record.server.address.socket();
                        let found = address.and_then(|at| places.server(&id.0, at));
                        let handle =
                            found.map(|(id, entry)| Handle { id, generation: entry.generation });
                        slots.servers.extend(handle.map(|handle| (readings.len(), handle)));
                    }
                    Counted::InUserSpace(ledger) => {
                        let place = (id.0.clone(), record.server.address);
                        let traffic = ledger.get(&place).copied().unwrap_or_default();
                        let flows = member.map_or(0, |member| member.active);
                        reading.layer_4 = Some(LayerFour { traffic, flows });
                    }
                }
            }
            readings.push(reading);
        }
        readings
    }
}

/// Reads what the maps count: one call for each VIP and reason, two for each server.
fn fill(reading: &mut Reading, slots: &Slots, maps: &Maps) -> Result<(), MapAccessError> {
    reading.drops = named(maps.drops()?);
    // An id that was given to something else since counts for that.
    let same = |traffic: &TrafficCounters, handle: Handle| {
        traffic.generation == u64::from(handle.generation)
    };
    for &(number, handle) in &slots.vips {
        let traffic = maps.vip_counters(handle.id)?;
        reading.vips[number].traffic = Some(traffic).filter(|traffic| same(traffic, handle));
    }
    for &(number, handle) in &slots.servers {
        let traffic = maps.server_counters(handle.id)?;
        let flows = maps.server_flows(handle.id)?;
        reading.servers[number].layer_4 =
            Some(LayerFour { traffic, flows }).filter(|_| same(&traffic, handle));
    }
    Ok(())
}

fn named(drops: Vec<(lb_common::drop_reason::DropReason, u64)>) -> Vec<(&'static str, u64)> {
    drops.into_iter().map(|(reason, packets)| (reason.name(), packets)).collect()
}

fn frontends(control: &Control, proxy: &ProxyReport) -> Vec<FrontendReading> {
    let views = super::proxy_view::frontend_limits(&control.snapshot);
    let reading = |(name, max_connections): (&Name, u32)| {
        let now = proxy.frontends.get(name).copied().unwrap_or_default();
        FrontendReading {
            name: name.clone(),
            connections: now.connections,
            max_connections,
            accepted: now.totals.connections,
            refused: now.totals.refused,
            requests: requests(&now.totals),
            timings: now.timings,
            copies: now.copies,
        }
    };
    views.map(reading).collect()
}

/// The proxy's servers by backend and name.
fn members(proxy: &ProxyReport) -> HashMap<(&Name, &Name), &MemberReport> {
    let backends = proxy.backends.iter();
    let members = backends.flat_map(|(backend, report)| {
        report.servers.iter().map(move |member| ((backend, &member.name), member))
    });
    members.collect()
}

fn server(
    (backend, name): &ServerId,
    record: &Record,
    member: Option<&MemberReport>,
    checked: Option<&Checked>,
) -> ServerReading {
    ServerReading {
        backend: backend.clone(),
        name: name.clone(),
        state: record.state(),
        since: record.since,
        weight: record.weight(),
        backup: record.server.backup,
        max_connections: record.server.max_connections,
        layer_4: None,
        proxy: member.map(|member| ProxyReading {
            active: member.active,
            queued: member.waiting,
            requests: requests(&member.totals),
        }),
        ejected: member.map(|member| member.out.is_some()),
        checks: checked.map(|&Checked { passed, failed, last }| CheckReading {
            passed,
            failed,
            last,
        }),
    }
}

fn of_backend(report: &BackendReport) -> ProxyReading {
    ProxyReading {
        active: report.servers.iter().map(|server| server.active).sum(),
        queued: report.waiting,
        requests: requests(&report.totals),
    }
}

fn requests(totals: &Totals) -> Requests {
    let Totals { requests, bytes_in, bytes_out, retries, faults, .. } = *totals;
    Requests { by_class: requests, bytes_in, bytes_out, retries, faults }
}

/// Servers of each backend that take new flows: backups do while no other can.
fn usable(servers: &[ServerReading]) -> BTreeMap<Name, u64> {
    let mut counts: BTreeMap<Name, [u64; 2]> = BTreeMap::new();
    let takes = |one: &&ServerReading| one.state == ServerState::Up && one.weight > 0;
    for server in servers.iter().filter(takes) {
        let count = counts.entry(server.backend.clone()).or_default();
        count[usize::from(server.backup)] += 1;
    }
    let usable = |[main, backups]: [u64; 2]| if main > 0 { main } else { backups };
    counts.into_iter().map(|(name, count)| (name, usable(count))).collect()
}
