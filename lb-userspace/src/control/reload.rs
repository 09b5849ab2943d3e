//! Taking over a new configuration, or refusing it with all its faults.

use std::{path::Path, sync::Arc, time::SystemTime};

use nix::net::if_::if_nametoindex;

use super::{Control, restart::hold_back, server_addresses};
use crate::{
    access_log::writer::AccessLogger,
    admin::api::{FaultView, LastReload, ReloadResult},
    clock::rfc3339,
    config::{self, ConfigError, Fault, Loaded},
    datapath::expiry::timeouts,
    model::{
        access_log::AccessLog,
        index::NameIndex,
        snapshot::{AttachMode, Snapshot},
    },
};

/// The faults of a configuration that could not be loaded.
#[must_use]
pub fn faults(path: &Path, error: &ConfigError) -> Vec<FaultView> {
    match error {
        ConfigError::Faults(faults) => faults.as_slice().iter().map(fault).collect(),
        ConfigError::Read { source, .. } => {
            let hint = "name a file that the agent may read";
            vec![without_place(path, "", format!("can not be read: {source}"), hint)]
        }
    }
}

/// One fault or warning.
#[must_use]
pub fn fault(fault: &Fault) -> FaultView {
    FaultView {
        file: fault.file.clone(),
        line: Some(fault.line),
        column: Some(fault.column),
        path: fault.path.clone(),
        value: fault.value.clone(),
        message: fault.message.clone(),
        hint: fault.hint.clone(),
    }
}

/// Puts the interfaces of the command line, if there are any, in the place of the
/// configuration's.
pub fn override_interfaces(snapshot: &mut Snapshot, interfaces: &[String]) {
    if !interfaces.is_empty() {
        snapshot.datapath.interfaces = interfaces.to_vec();
    }
}

impl Control {
    /// Loads the configuration again. A faulty one changes nothing.
    pub(super) async fn reload(&mut self) -> ReloadResult {
        let path = self.configuration.clone();
        let result = match config::load(&path) {
            Ok(mut loaded) => {
                override_interfaces(&mut loaded.snapshot, &self.interfaces);
                self.take_over(&path, loaded).await
            }
            Err(error) => refused(faults(&path, &error)),
        };
        let (accepted, faults) = (result.accepted, result.faults.len());
        self.reloads[usize::from(!accepted)] += 1;
        self.last_reload = Some(LastReload { at: rfc3339(SystemTime::now()), accepted, faults });
        for fault in &result.faults {
            tracing::error!("{fault}");
        }
        for warning in &result.warnings {
            tracing::warn!("{warning}");
        }
        if accepted {
            tracing::info!("{} is in force", path.display());
        } else {
            tracing::error!("{} was refused; what was in force stays so", path.display());
        }
        result
    }

    async fn take_over(&mut self, path: &Path, loaded: Loaded) -> ReloadResult {
        let warnings = loaded.warnings.iter().map(ToString::to_string);
        let (snapshot, held_back) = hold_back(&self.snapshot, loaded.snapshot);
        let mut warnings: Vec<String> = warnings.chain(held_back).collect();
        let mut missing = missing_interfaces(path, &snapshot);
        // One that was there before is waited for.
        let known = &self.snapshot.datapath.interfaces;
        missing.retain(|fault| fault.value.as_ref().is_none_or(|name| !known.contains(name)));
        if !missing.is_empty() {
            return refused(missing);
        }
        let names = Arc::new(NameIndex::new(&snapshot));
        let logger = match self.logger_for(snapshot.log.access.as_ref(), &names).await {
            Ok(logger) => logger,
            Err(error) => {
                let message = format!("{:#}", anyhow::Error::from(error));
                let hint = "name a file in a directory that the agent may write to, or a FIFO \
                            that somebody reads";
                return refused(vec![without_place(path, "log.access", message, hint)]);
            }
        };
        let ruling = self.ruling(&snapshot, &self.access_of(&snapshot));
        if let Err(error) = self.proxy.install(&snapshot, &self.book.statuses(), ruling) {
            let message = format!("{:#}", anyhow::Error::from(error));
            let hint = "see who listens there: ss -ltnp";
            return refused(vec![without_place(path, "frontends", message, hint)]);
        }
        // Nothing can refuse from here on.
        let old = self.outputs.access_log.send_replace(logger);
        self.count_lines_of(old.as_ref());
        // Bringing what still waits to a slow target takes time.
        tokio::task::spawn_blocking(move || drop(old));
        self.install(snapshot, warnings.clone());
        warnings.extend(self.room_warning());
        let attached = self.attach().map_err(Into::into);
        let applied = self.apply().await;
        if let Err(error) = attached.and(applied) {
            self.fail(&error);
        }
        self.save();
        ReloadResult { accepted: true, faults: Vec::new(), warnings }
    }

    fn install(&mut self, snapshot: Snapshot, warnings: Vec<String>) {
        let now = SystemTime::now();
        self.book.configure(&snapshot, now);
        self.blocks.configure(&snapshot);
        self.overrides.configure(&snapshot);
        self.snapshot = Arc::new(snapshot);
        self.rule();
        self.configured_at = now;
        self.warnings = warnings;
        self.outputs.snapshots.send_replace(Arc::clone(&self.snapshot));
        self.outputs.timeouts.send_replace(timeouts(&self.snapshot.datapath.timeouts));
        self.outputs.addresses.send_replace(server_addresses(&self.snapshot));
        self.remember();
    }

    /// The running access log with new names if its configuration is the same, else
    /// another.
    async fn logger_for(
        &self,
        config: Option<&Arc<AccessLog>>,
        names: &Arc<NameIndex>,
    ) -> Result<Option<Arc<AccessLogger>>, crate::access_log::writer::AccessLogError> {
        let Some(config) = config else { return Ok(None) };
        let running = self.outputs.access_log.borrow().clone();
        if self.snapshot.log.access.as_ref() == Some(config)
            && let Some(running) = running
        {
            running.set_names(Arc::clone(names));
            return Ok(Some(running));
        }
        let started = AccessLogger::start_aside(config, Arc::clone(names)).await?;
        Ok(Some(Arc::new(started)))
    }
}

/// A fault for each interface that does not exist.
#[must_use]
pub fn missing_interfaces(path: &Path, snapshot: &Snapshot) -> Vec<FaultView> {
    let datapath = &snapshot.datapath;
    let wanted = datapath.interfaces.iter().filter(|_| datapath.mode != AttachMode::Off);
    let missing = wanted.filter(|name| if_nametoindex(name.as_str()).is_err());
    let fault = |name: &String| {
        let message = format!("there is no interface {name}");
        FaultView {
            value: Some(name.clone()),
            ..without_place(
                path,
                "datapath.interfaces",
                message,
                "`ip -brief link` lists what there is",
            )
        }
    };
    missing.map(fault).collect()
}

fn without_place(path: &Path, key: &str, message: String, hint: &str) -> FaultView {
    FaultView {
        file: path.display().to_string(),
        line: None,
        column: None,
        path: key.to_owned(),
        value: None,
        message,
        hint: Some(hint.to_owned()),
    }
}

fn refused(faults: Vec<FaultView>) -> ReloadResult {
    ReloadResult { accepted: false, faults, warnings: Vec::new() }
}
