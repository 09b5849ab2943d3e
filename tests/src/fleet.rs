//! The embedded servers of a bed, `s0` to `sN`, each in its namespace.

use anyhow::{Context, Result};

use crate::{bed::Bed, servers::Embedded};

/// One embedded server a namespace, each running or killed.
#[derive(Debug)]
pub struct Fleet<'bed> {
    bed: &'bed Bed,
    servers: Vec<Option<Embedded>>,
}

impl<'bed> Fleet<'bed> {
    /// Starts them all.
    ///
    /// # Errors
    /// When one can not be started.
    pub fn start(bed: &'bed Bed) -> Result<Self> {
        let mut fleet = Self { bed, servers: Vec::new() };
        for index in (0_u8..).take(bed.servers.len()) {
            fleet.servers.push(None);
            fleet.restart(index)?;
        }
        Ok(fleet)
    }

    /// A running server.
    ///
    /// # Errors
    /// When it is killed or there is none of that number.
    pub fn server(&self, index: u8) -> Result<&Embedded> {
        let server = self.servers.get(usize::from(index)).and_then(Option::as_ref);
        server.with_context(|| format!("server {index} does not run"))
    }

    /// A running server, to be changed.
    ///
    /// # Errors
    /// When it is killed or there is none of that number.
    pub fn server_mut(&mut self, index: u8) -> Result<&mut Embedded> {
        self.slot(index)?.as_mut().with_context(|| format!("server {index} does not run"))
    }

    /// Ends a server as a killed process: its connections are closed by the kernel.
    ///
    /// # Errors
    /// When there is none of that number.
    pub fn kill(&mut self, index: u8) -> Result<()> {
        *self.slot(index)? = None;
        Ok(())
    }

    /// Starts a killed server again.
    ///
    /// # Errors
    /// When it can not be started.
    pub fn restart(&mut self, index: u8) -> Result<()> {
        let server = Embedded::start(self.bed.server(index)?, &name(index))?;
        *self.slot(index)? = Some(server);
        Ok(())
    }

    fn slot(&mut self, index: u8) -> Result<&mut Option<Embedded>> {
        self.servers.get_mut(usize::from(index)).with_context(|| format!("no server {index}"))
    }
}

/// Name of a server, in its answers and in the configuration.
#[must_use]
pub fn name(index: u8) -> String {
    format!("s{index}")
}
