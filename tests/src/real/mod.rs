//! Real servers from Debian's packages, three of a kind behind a VIP, and their own load
//! tools as clients: PostgreSQL with `pgbench`, Redis with `redis-benchmark`, RabbitMQ with
//! a script that publishes and consumes.
//!
//! Every instance has its own data directory and runs in its own namespace. The three of a
//! kind are independent of each other: they stand for read replicas or shards, and each
//! answers with its own name.

mod postgres;
mod rabbitmq;
mod redis;

pub use postgres::cluster;

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
    time::Duration,
};

use anyhow::{Result, anyhow, bail, ensure};

use crate::{
    namespace::{Namespace, output},
    process::{Process, wait_until},
};

/// RabbitMQ takes four seconds on an idle machine; three at once on a busy one take longer.
const BOOT_PATIENCE: Duration = Duration::from_secs(90);

/// What kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// PostgreSQL.
    Postgres,
    /// Redis.
    Redis,
    /// RabbitMQ.
    Rabbitmq,
}

impl Kind {
    /// All kinds, the quickest to start first.
    pub const ALL: [Self; 3] = [Self::Redis, Self::Postgres, Self::Rabbitmq];

    /// The name on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Rabbitmq => "rabbitmq",
        }
    }

    /// The port it listens on, which is its VIP's port too.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Postgres => 5432,
            Self::Redis => 6379,
            Self::Rabbitmq => 5672,
        }
    }

    /// Asks through `target`, from a namespace, which server answers: a new connection.
    ///
    /// # Errors
    /// When the connection fails or breaks.
    pub fn identify(self, namespace: &Namespace, target: SocketAddr) -> Result<String> {
        match self {
            Self::Postgres => postgres::identify(namespace, target),
            Self::Redis => redis::identify(namespace, target),
            Self::Rabbitmq => rabbitmq::identify(namespace, target),
        }
    }

    /// A command that asks which server answers, to be typed in a client's namespace.
    ///
    /// # Errors
    /// When the client is not installed.
    pub fn by_hand(self, target: SocketAddr) -> Result<String> {
        let address = target.ip();
        Ok(match self {
            Self::Postgres => {
                format!("psql -h {address} -U postgres -d bench -Atc 'show cluster_name'")
            }
            Self::Redis => format!("redis-cli -h {address} get server-name"),
            Self::Rabbitmq => rabbitmq::by_hand(target)?,
        })
    }

    /// Runs the load tool once and says what it did.
    ///
    /// # Errors
    /// When any operation of the load failed.
    pub fn load(self, namespace: &Namespace, target: SocketAddr, load: Load) -> Result<String> {
        match self {
            Self::Postgres => postgres::load(namespace, target, load),
            Self::Redis => redis::load(namespace, target, load),
            Self::Rabbitmq => rabbitmq::load(namespace, target, load),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "PostgreSQL",
            Self::Redis => "Redis",
            Self::Rabbitmq => "RabbitMQ",
        })
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|kind| kind.name() == text) {
            Some(kind) => Ok(kind),
            None => bail!("{text:?} is not postgres, redis or rabbitmq"),
        }
    }
}

/// How much a load tool does in one run.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Connections at the same time.
    pub connections: u32,
    /// Operations of each connection.
    pub operations: u32,
}

/// Where and what instances of one kind are made from.
#[derive(Debug)]
pub struct Installation {
    kind: Kind,
    directory: PathBuf,
}

impl Installation {
    /// Prepares what all instances of a kind share, below `directory`.
    ///
    /// # Errors
    /// When the programs are missing (`cargo xtask setup servers` installs them).
    pub fn prepare(kind: Kind, directory: &Path) -> Result<Self> {
        let directory = directory.join(kind.name());
        std::fs::create_dir(&directory)?;
        if kind == Kind::Postgres {
            postgres::prepare(&directory)?;
        }
        Ok(Self { kind, directory })
    }

    /// Starts an instance in a namespace; [`Installation::wait`] says when it answers. An
    /// instance of this name that ran before finds its data again.
    ///
    /// # Errors
    /// When it can not be started.
    pub fn start(&self, namespace: &Namespace, name: &str) -> Result<Process> {
        let directory = self.directory.join(name);
        let mut command = match self.kind {
            Kind::Postgres => postgres::command(namespace, name, &self.directory)?,
            Kind::Redis => redis::command(namespace, &directory)?,
            Kind::Rabbitmq => rabbitmq::command(namespace, name, &directory)?,
        };
        Process::start(&mut command, &self.directory.join(format!("{name}.log")))
    }

    /// Waits until an instance answers on its own address, asked from its own namespace.
    ///
    /// # Errors
    /// When it ends, or does not answer in time; the error holds its output.
    pub fn wait(
        &self,
        namespace: &Namespace,
        name: &str,
        address: SocketAddr,
        process: &mut Process,
    ) -> Result<Duration> {
        let what = format!("{} {name} to answer", self.kind);
        let mut ended = None;
        let waited = wait_until(&what, BOOT_PATIENCE, || {
            if let Some(status) = process.ended()? {
                ended = Some(status);
                return Ok(());
            }
            if self.kind == Kind::Redis {
                redis::set_name(namespace, address, name)?;
            }
            let answered = self.kind.identify(namespace, address)?;
            ensure!(answered == name, "{answered} answers at {address}");
            Ok(())
        });
        match (waited, ended) {
            (Ok(((), elapsed)), None) => Ok(elapsed),
            (Ok(_), Some(status)) => {
                Err(anyhow!("{name} ended with {status}").context(process.last_output()))
            }
            (Err(error), _) => Err(error.context(process.last_output())),
        }
    }
}

/// Adds `-h ADDRESS -p PORT`, which all the Debian clients understand.
fn at(command: &mut Command, target: SocketAddr) -> &mut Command {
    command.args(["-h", &target.ip().to_string(), "-p", &target.port().to_string()])
}

/// Runs a client with a limit of its own time: a hung one is a failure, not a hung test.
fn bounded(namespace: &Namespace, seconds: u32, program: &str, arguments: &[&str]) -> Command {
    let mut command = namespace.command("timeout");
    command.args(["--signal=KILL", &seconds.to_string(), program]).args(arguments);
    command
}

fn first_line(command: &mut Command) -> Result<String> {
    Ok(output(command)?.lines().next().unwrap_or_default().to_owned())
}
