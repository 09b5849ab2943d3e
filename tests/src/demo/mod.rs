//! The demo: pointsman at work between network namespaces, told step by step with figures.
//! Every step is checked; the first that does not hold ends it.
//!
//! `embedded` shows everything with servers of the bed's own, `real` with PostgreSQL, Redis
//! and RabbitMQ. Both leave the scene to `explore` if asked to.

mod account;
mod embedded;
mod explore;
mod interruption;
mod real;

pub use self::{account::Account, explore::stop, interruption::Interruption};

use anyhow::Result;

use crate::real::Kind;

/// What is shown.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Leave everything running in the end and say how to look inside.
    pub keep: bool,
    /// Real servers in place of the embedded ones; embedded ones if empty.
    pub servers: Vec<Kind>,
}

/// Runs the demo from the first step to the last.
///
/// # Errors
/// When a step did not hold, or a signal ended it.
pub fn run(options: &Options, interruption: &Interruption) -> Result<()> {
    if options.keep {
        explore::require_none()?;
    }
    let mut account = Account::new(interruption);
    if options.servers.is_empty() {
        embedded::run(&mut account, options.keep, interruption)?;
    } else {
        real::run(&mut account, &options.servers, options.keep, interruption)?;
    }
    account.end();
    Ok(())
}
