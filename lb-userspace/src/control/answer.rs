//! Answers to the operator's commands.

use std::{sync::Arc, time::SystemTime};

use lb_common::drop_reason::DropReason;

use super::{Control, flows, proxy_view, view};
use crate::{
    admin::{
        api::{
            AccessLogView, AgentView, DatapathView, DropView, DropsView, ServerSet, ServerView,
            StatusView,
        },
        command::{Command, CommandError, Reply},
    },
    clock::rfc3339,
    control::view::TrafficBook,
    model::state::ServerId,
};

impl Control {
    /// Carries out one command and answers it.
    pub(super) async fn answer(&mut self, command: Command) {
        match command {
            Command::Status(reply) => send(reply, self.status()),
            Command::Drops(reply) => send(reply, self.drops()),
            Command::Flows(query, reply) => match &self.kernel {
                Some(kernel) => kernel.flows().answer(Arc::clone(&self.snapshot), query, reply),
                None => flows::answer_in_user_space(&self.proxy, &self.snapshot, query, reply),
            },
            Command::Metrics(format, reply) => self.metrics(format, reply),
            Command::SetServer(id, set, reply) => {
                let answer = self.set_server(&id, set).await;
                send(reply, answer);
            }
            Command::Blocks(reply) => send(reply, Ok(self.blocks_view())),
            Command::Block(order, reply) => {
                let answer = self.block(order).await;
                send(reply, answer);
            }
            Command::Unblock(order, reply) => {
                let answer = self.unblock(order).await;
                send(reply, answer);
            }
            Command::Access(reply) => send(reply, Ok(self.overrides.view())),
            Command::SetAccess(order, reply) => {
                let answer = self.set_access(order).await;
                send(reply, answer);
            }
            Command::SetLimits(order, reply) => {
                let answer = self.set_limits(order).await;
                send(reply, answer);
            }
            Command::Trace(order, reply) => self.trace(&order, reply),
            Command::Reload(reply) => {
                let answer = self.reload().await;
                send(reply, Ok(answer));
            }
        }
    }

    fn status(&self) -> Result<StatusView, CommandError> {
        let now = SystemTime::now();
        let traffic = self.traffic()?;
        let mut backends = view::backends(&self.snapshot, (&self.book, &self.told), &traffic, now);
        let proxy = self.proxy.report(&self.snapshot);
        proxy_view::add_loads(&mut backends, &proxy);
        let mut warnings = self.warnings.clone();
        let of_kernel = self.kernel.iter().flat_map(|kernel| kernel.warnings(&self.snapshot));
        warnings.extend(of_kernel);
        let sweep = self.sweeps.borrow().clone();
        warnings.extend(view::table_warnings(&sweep.fill));
        warnings.extend(self.room_warning());
        warnings.extend(self.is_flooded.then(|| view::FLOOD_WARNING.to_owned()));
        warnings.extend(view::warnings(&self.snapshot, &backends));
        Ok(StatusView {
            agent: self.agent(),
            datapath: self.datapath(),
            warnings,
            vips: view::vips(&self.snapshot, &traffic),
            frontends: proxy_view::frontends(&self.snapshot, &proxy),
            backends,
        })
    }

    fn agent(&self) -> AgentView {
        let access_log = self.outputs.access_log.borrow();
        AgentView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            configuration: self.configuration.display().to_string(),
            configured_at: rfc3339(self.configured_at),
            last_reload: self.last_reload.clone(),
            access_log: access_log
                .as_deref()
                .map(|logger| AccessLogView { written: logger.written(), lost: logger.lost() }),
        }
    }

    fn datapath(&self) -> DatapathView {
        let config = &self.snapshot.datapath;
        let kernel = self.kernel.as_ref();
        DatapathView {
            mode: config.mode,
            pin_directory: config.pin_directory.display().to_string(),
            interfaces: kernel.map(|kernel| kernel.interfaces(config)).unwrap_or_default(),
            tables: view::tables(&self.sweeps.borrow().fill),
            rules: self.rules_view(),
            syn_cookies: self.is_flooded,
            apply_error: self.apply_error.clone(),
        }
    }

    fn traffic(&self) -> Result<TrafficBook, CommandError> {
        let traffic = match &self.kernel {
            Some(kernel) => kernel.traffic(&self.snapshot).map_err(unreadable)?,
            None => proxy_view::traffic_of(&self.snapshot, &self.proxy),
        };
        Ok(TrafficBook { grown: self.shares.clone(), ..traffic })
    }

    /// The counters of one server and of no other.
    fn traffic_of(&self, (backend, server): &ServerId) -> Result<TrafficBook, CommandError> {
        let backends = &self.snapshot.backends;
        let found = backends.get(backend).and_then(|backend| backend.servers.get(server));
        let traffic = match (&self.kernel, found) {
            (Some(kernel), Some(server)) => {
                kernel.traffic_of(backend, server.address).map_err(unreadable)?
            }
            (Some(_), None) => TrafficBook::default(),
            (None, _) => proxy_view::traffic_of(&self.snapshot, &self.proxy),
        };
        Ok(TrafficBook { grown: self.shares.clone(), ..traffic })
    }

    fn drops(&self) -> Result<DropsView, CommandError> {
        let drops = match &self.kernel {
            Some(kernel) => kernel.drops().map_err(unreadable)?,
            None => self.proxy.drops(),
        };
        Ok(DropsView { drops: drops.into_iter().map(drop_view).collect() })
    }

    /// Notes the operator's word and has it in the maps before it is confirmed.
    async fn set_server(
        &mut self,
        id: &ServerId,
        set: ServerSet,
    ) -> Result<ServerView, CommandError> {
        let now = SystemTime::now();
        if self.book.set(id, set, now).is_none() {
            return Err(self.unknown_server(id));
        }
        self.remember();
        self.compare().await;
        if self.told.get(id) != self.book.get(id) {
            let why = self.apply_error.clone().unwrap_or_default();
            return Err(CommandError::NotApplied(why));
        }
        let traffic = self.traffic_of(id)?;
        let view = view::server(id, &self.book, &self.told, &traffic, now);
        view.ok_or_else(|| self.unknown_server(id))
    }

    fn unknown_server(&self, (backend, server): &ServerId) -> CommandError {
        let Some(known) = self.snapshot.backends.get(backend) else {
            let backends = self.snapshot.backends.keys().map(ToString::to_string);
            let hint = format!("the backends are {}", backends.collect::<Vec<_>>().join(", "));
            return CommandError::UnknownBackend { backend: backend.to_string(), hint };
        };
        let servers: Vec<_> = known.servers.keys().map(ToString::to_string).collect();
        let hint = match servers.is_empty() {
            true => "it has no servers".to_owned(),
            false => format!("its servers are {}", servers.join(", ")),
        };
        CommandError::UnknownServer {
            backend: backend.to_string(),
            server: server.to_string(),
            hint,
        }
    }
}

fn send<T>(reply: Reply<T>, answer: Result<T, CommandError>) {
    if reply.send(answer).is_err() {
        tracing::debug!("the operator did not wait for the answer");
    }
}

fn drop_view((reason, packets): (DropReason, u64)) -> DropView {
    DropView {
        reason: reason.name().to_owned(),
        packets,
        description: reason.description().to_owned(),
    }
}

pub(super) fn unreadable(error: impl Into<anyhow::Error>) -> CommandError {
    CommandError::Datapath(format!("{:#}", error.into()))
}
