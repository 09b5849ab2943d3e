//! The agent's own log: standard error for people, JSON for collectors, or the journal.
//!
//! `RUST_LOG` chooses what is logged, in the syntax of `tracing_subscriber::EnvFilter`;
//! everything from `info` up by default.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, filter::ParseError, fmt, layer::SubscriberExt, util::SubscriberInitExt,
    util::TryInitError,
};

use crate::model::snapshot::LogTarget;

/// How lines on standard error look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// `RUST_LOG` makes no sense.
    #[error("can not read the environment variable RUST_LOG")]
    Filter(#[source] ParseError),
    /// There is no journal.
    #[error("can not reach systemd's journal; set log.target to stderr")]
    Journal(#[source] io::Error),
    /// A log was started before.
    #[error("the log was started before")]
    Twice(#[source] TryInitError),
}

/// Starts the log; at most once in a process.
///
/// # Errors
/// [`LoggingError`] if the filter or the target can not be used.
pub fn start(target: LogTarget, format: LogFormat) -> Result<(), LoggingError> {
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(directives) => EnvFilter::builder().parse(directives).map_err(LoggingError::Filter)?,
        Err(_) => EnvFilter::default().add_directive(LevelFilter::INFO.into()),
    };
    let registry = tracing_subscriber::registry().with(filter);
    match (target, format) {
        (LogTarget::Stderr, LogFormat::Text) => registry
            .with(fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal()))
            .try_init(),
        (LogTarget::Stderr, LogFormat::Json) => {
            registry.with(fmt::layer().json().with_writer(io::stderr)).try_init()
        }
        (LogTarget::Journald, _) => {
            registry.with(tracing_journald::layer().map_err(LoggingError::Journal)?).try_init()
        }
    }
    .map_err(LoggingError::Twice)
}
