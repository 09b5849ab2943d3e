//! `soak`: an agent on loopback under mixed load and reloads. Requests and connections of
//! clients that behave must not fail, and the agent's memory has to stay flat.
#![allow(clippy::print_stdout, reason = "it says how it goes")]

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use clap::Parser;
use testbed::{
    loopback::{Loopback, free},
    web::{WebClient, server},
};

/// Put an agent under load, and see that nothing fails or grows
#[derive(Parser)]
struct Options {
    /// For how long
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Reloads, spread over that time
    #[arg(long, default_value_t = 1000)]
    reloads: u64,
}

/// What the agent may grow by from the second quarter of the time to the last one, KiB, and
/// the same as a share.
const GROWTH: (u64, u64) = (6 * 1024, 10);

/// What the clients have in common.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    served: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Does something again and again, and notes what went wrong.
    fn run(&self, what: &str, mut step: impl FnMut() -> Result<()>) {
        while !self.stop.load(Ordering::Relaxed) {
            match step() {
                Ok(()) => _ = self.served.fetch_add(1, Ordering::Relaxed),
                Err(error) => {
                    let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
                    failures.push(format!("{what}: {error:#}"));
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut place = Loopback::new()?;
    let (http, tcp, beside) = (free()?, free()?, free()?);
    let (one, two) = (server("one")?, server("two")?);
    let sections = |number: u64| {
        let beside = match number % 2 {
            0 => format!("  g: {{mode: http, bind: [\"{beside}\"], backend: b}}\n"),
            _ => String::new(),
        };
        let servers = match number % 3 {
            0 => format!("one: \"{one}\", two: \"{two}\""),
            1 => format!("one: \"{one}\""),
            _ => format!("two: \"{two}\""),
        };
        format!(
            "frontends:\n  h: {{mode: http, bind: [\"{http}\"], backend: b, \
             rules: [{{set_response_header: {{x: \"{number}\"}}}}]}}\n  \
             t: {{mode: tcp, bind: [\"{tcp}\"], backend: b}}\n\
             {beside}backends: {{b: {{servers: {{{servers}}}}}}}\n"
        )
    };
    place.start(&sections(0))?;
    let load = Load::default();
    let began = Instant::now();
    let whole = Duration::from_secs(options.seconds);
    let memory = thread::scope(|scope| {
        for name in ["kept connections", "more of them"] {
            let load = &load;
            scope.spawn(move || keep_asking(load, name, http));
        }
        scope.spawn(|| load.run("new connections", || ask_once(http)));
        scope.spawn(|| load.run("mode: tcp", || ask_once(tcp)));
        scope.spawn(|| load.run("clients that break off", || break_off(http)));
        let memory = watch(&place, &sections, &options, began, whole);
        load.stop.store(true, Ordering::Relaxed);
        memory
    })?;
    let failures = load.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{} requests, {} failed, {} reloads in {:.0} s",
        load.served.into_inner(),
        failures.len(),
        options.reloads,
        began.elapsed().as_secs_f64()
    );
    for failure in failures.iter().take(10) {
        println!("  {failure}");
    }
    ensure!(failures.is_empty(), "{} requests failed", failures.len());
    judge(&memory)
}

fn keep_asking(load: &Load, name: &str, address: SocketAddr) {
    let mut client = None;
    load.run(name, || {
        let mut kept = match client.take() {
            Some(kept) => kept,
            None => WebClient::connect(address)?,
        };
        kept.get("/some/path?and=more", "user-agent: soak\r\n")?;
        client = Some(kept);
        Ok(())
    });
}

fn ask_once(address: SocketAddr) -> Result<()> {
    WebClient::connect(address)?.get("/", "connection: close\r\n").map(drop)
}

/// In the middle of a header, or of a body.
fn break_off(address: SocketAddr) -> Result<()> {
    for part in ["GET / HT", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nabc"] {
        TcpStream::connect(address)?.write_all(part.as_bytes())?;
    }
    thread::sleep(Duration::from_millis(2));
    Ok(())
}

/// Reloads and takes samples of the agent's memory until the time is over; when each was
/// taken, as a share of the whole, and KiB.
fn watch(
    place: &Loopback,
    sections: &impl Fn(u64) -> String,
    options: &Options,
    began: Instant,
    whole: Duration,
) -> Result<Vec<(f64, u64)>> {
    let (mut samples, mut reloads) = (Vec::new(), 0);
    loop {
        let share = began.elapsed().as_secs_f64() / whole.as_secs_f64();
        samples.push((share, place.resident_kib()?));
        let behind = (reloads as f64) < options.reloads as f64 * share;
        if reloads < options.reloads && behind {
            reloads += 1;
            place.reload(&sections(reloads))?;
        } else if share >= 1.0 {
            return Ok(samples);
        } else {
            thread::sleep(Duration::from_millis(20));
        }
        if began.elapsed() > whole * 3 {
            bail!("{reloads} reloads took {:?}", began.elapsed());
        }
    }
}

/// Whether memory is flat once everything has happened a few times.
fn judge(samples: &[(f64, u64)]) -> Result<()> {
    let median = |from: f64, to: f64| {
        let mut within: Vec<u64> = samples
            .iter()
            .filter(|(share, _)| (from..to).contains(share))
            .map(|(_, kib)| *kib)
            .collect();
        within.sort_unstable();
        within.get(within.len() / 2).copied().unwrap_or(0)
    };
    let (early, late) = (median(0.25, 0.5), median(0.75, f64::INFINITY));
    println!("memory: {early} KiB in the second quarter, {late} KiB in the last");
    let (kib, percent) = GROWTH;
    let most = early + kib.max(early * percent / 100);
    ensure!(early > 0 && late <= most, "the agent grew from {early} to {late} KiB");
    Ok(())
}
