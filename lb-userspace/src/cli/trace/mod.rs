//! `pointsman trace`: packets of the data plane as they came, each with what became of it and
//! why, as lines or as a file for tcpdump and Wireshark.

mod line;
mod order;
mod pcapng;

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use nix::time::{ClockId, clock_gettime};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use self::{order::Flow, pcapng::PacketFile};
use super::{Outcome, output::Output};
use crate::{
    admin::{DEFAULT_SOCKET, client::Client, flow_query::VipFilter, trace::TraceOrder},
    datapath::trace::Record,
    model::snapshot::Protocol,
};

/// More than a record has bytes.
const MOST_REST: usize = 4096;
/// How often what was written is handed on if little comes.
const STEP: Duration = Duration::from_millis(500);

const SNAPLEN: std::ops::RangeInclusive<i64> =
    TraceOrder::LEAST_SNAPLEN as i64..=TraceOrder::MOST_SNAPLEN as i64;

/// Options of `pointsman trace`. All conditions must hold, each of a packet as it came or as it
/// was sent on, so that both directions of a flow are seen.
#[derive(Debug, clap::Args)]
pub struct TraceArgs {
    /// Only packets from or to this address
    #[arg(long, value_name = "ADDRESS")]
    pub host: Option<IpAddr>,
    /// Only packets from or to this port
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Only packets through this VIP
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub vip: Option<VipFilter>,
    /// Only packets of this protocol
    #[arg(long, visible_alias = "protocol", value_parser = protocol_parser())]
    pub proto: Option<Protocol>,
    /// Only packets of the flow with these two ends
    #[arg(long, value_name = "ADDRESS:PORT,ADDRESS:PORT", conflicts_with_all = ["host", "port", "vip"])]
    pub flow: Option<Flow>,
    /// Look at one packet in N, which costs the others less
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub sample: u32,
    /// End after this many packets
    #[arg(long, short = 'c', value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// End after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=TraceOrder::MOST_SECONDS))]
    pub duration: u64,
    /// Bytes to keep of each packet
    #[arg(long, value_name = "BYTES", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(SNAPLEN))]
    pub snaplen: u32,
    /// Write a pcapng file, with verdict and reason as the comment of each packet, in place of what
    /// it has; a new one is readable for its owner alone. - is standard output
    #[arg(long, short = 'w', value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// Admin socket of the agent
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// Where packets go.
enum Sink<'a> {
    Lines(&'a mut Output),
    File(PacketFile<Box<dyn Write>>),
}

/// Why a trace ended.
#[derive(Clone, Copy, Debug)]
enum End {
    Count,
    Duration,
    Signal,
}

/// Shows packets until there were enough.
///
/// # Errors
/// If the agent can not show any, or what was found not be written.
pub fn run(args: &TraceArgs, output: &mut Output) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(trace(args, output))?;
    Ok(Outcome::Good)
}

async fn trace(args: &TraceArgs, output: &mut Output) -> anyhow::Result<()> {
    // These end the trace and not the process.
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let file = args.write.as_deref().map(open).transpose()?;
    let mut packets = Client::new(&args.socket).stream("/v1/trace", &order::of(args)).await?;
    output.complain(&format!(
        "tracing, {} packets at most, for up to {} s\n",
        args.count, args.duration
    ))?;
    let boot = boot()?;
    if let Some(Target::File(file)) = &file {
        empty(file).context("could not empty the file")?;
    }
    let mut sink = Sink::new(file, args.snaplen, output)?;
    let mut step = interval(STEP);
    step.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut lost, mut rest) = (0, 0, Vec::new());
    let end = 'all: loop {
        tokio::select! {
            part = packets.next() => {
                let Some(part) = part? else { break End::Duration };
                rest.extend_from_slice(&part);
            }
            _ = step.tick() => sink.flush()?,
            _ = interrupted.recv() => break End::Signal,
            _ = terminated.recv() => break End::Signal,
        }
        let mut read = 0;
        while let Some((record, length)) = Record::split(rest.get(read..).unwrap_or_default()) {
            sink.put(&record, boot)?;
            read += length;
            lost += u64::from(record.head.lost);
            seen += 1;
            if seen == args.count {
                break 'all End::Count;
            }
        }
        rest.drain(..read);
        if rest.len() > MOST_REST {
            bail!("the agent's answer is no packet; is it of another version?");
        }
    };
    sink.flush()?;
    drop(sink);
    io::stderr().lock().write_all(summary(seen, lost, end).as_bytes())?;
    Ok(())
}

/// What `--write` names.
enum Target {
    Stdout,
    File(File),
}

/// Opens what is to be written before the agent is asked for anything. What a file has stays
/// until there are packets to put in its place; a new one is for its owner alone, as packets are.
fn open(path: &Path) -> anyhow::Result<Target> {
    if path == Path::new("-") {
        return Ok(Target::Stdout);
    }
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(path);
    Ok(Target::File(file.with_context(|| format!("could not write {}", path.display()))?))
}

/// Pipes and devices have nothing to lose.
fn empty(file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() { file.set_len(0) } else { Ok(()) }
}

impl<'a> Sink<'a> {
    fn new(target: Option<Target>, snaplen: u32, output: &'a mut Output) -> anyhow::Result<Self> {
        let writer: Box<dyn Write> = match target {
            None => return Ok(Self::Lines(output)),
            Some(Target::Stdout) => Box::new(io::stdout()),
            Some(Target::File(file)) => Box::new(BufWriter::new(file)),
        };
        Ok(Self::File(PacketFile::new(writer, snaplen)?))
    }

    /// `boot`: when the clock of the records was zero, since 1970.
    fn put(&mut self, record: &Record, boot: Duration) -> io::Result<()> {
        let time = boot + Duration::from_nanos(record.head.time_ns);
        match self {
            Self::Lines(output) => {
                let name = interface_name(record.head.ifindex);
                output.print_text(&line::line(&record.head, time, &name))
            }
            Self::File(file) => file.put(record, time, interface_name),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Lines(_) => Ok(()),
            Self::File(file) => file.flush(),
        }
    }
}

fn protocol_parser() -> impl TypedValueParser<Value = Protocol> {
    PossibleValuesParser::new(["tcp", "udp"]).map(|name| match name.as_str() {
        "udp" => Protocol::Udp,
        _ => Protocol::Tcp,
    })
}

/// When `CLOCK_MONOTONIC` was zero, since 1970; as the clocks are set now.
fn boot() -> anyhow::Result<Duration> {
    let monotonic: Duration = clock_gettime(ClockId::CLOCK_MONOTONIC)?.into();
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(wall.saturating_sub(monotonic))
}

fn interface_name(index: u32) -> String {
    let name = nix::net::if_::if_indextoname(index).ok();
    let name = name.and_then(|name| name.into_string().ok()).filter(|name| !name.is_empty());
    name.unwrap_or_else(|| format!("if{index}"))
}

fn summary(seen: u64, lost: u64, end: End) -> String {
    let why = match end {
        End::Count => "as many as asked for",
        End::Duration => "time is over",
        End::Signal => "interrupted",
    };
    let lost = match lost {
        0 => String::new(),
        lost => format!("; {lost} more were lost for want of room: narrow the filter, or --sample"),
    };
    format!("{seen} packet{}, {why}{lost}\n", if seen == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_says_what_is_missing() {
        assert_eq!(summary(1, 0, End::Duration), "1 packet, time is over\n");
        let text = summary(1000, 7, End::Count);
        assert!(text.starts_with("1000 packets, as many as asked for; 7 more were lost"), "{text}");
    }

    #[test]
    fn an_interface_without_a_name_has_a_number() {
        assert_eq!(interface_name(0x7fff_0000), "if2147418112");
    }
}
