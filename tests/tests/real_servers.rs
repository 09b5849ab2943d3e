//! PostgreSQL, Redis and RabbitMQ behind a VIP of each family, under their own load tools on
//! both at the same time, with a server killed and restored during the run.
//!
//! What is promised: clients of the killed server get errors, not silence; from the
//! eviction on every new connection and every run of the load tool succeeds; the restored
//! server is used again.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pointsman::model::state::ServerState;
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    configuration::{FAST_TCP_CHECK, Service},
    fleet,
    namespace::Namespace,
    process::wait_until,
    real::{Installation, Kind, Load},
    report::note,
};

/// One run of the load tool in the background: short, so that there are many.
const SHORT: Load = Load { connections: 4, operations: 50 };
const LONG: Load = Load { connections: 8, operations: 500 };

#[test]
fn redis_goes_on_when_a_server_is_killed() -> Result<()> {
    goes_on_when_a_server_is_killed(Kind::Redis)
}

#[test]
fn postgres_goes_on_when_a_server_is_killed() -> Result<()> {
    goes_on_when_a_server_is_killed(Kind::Postgres)
}

#[test]
fn rabbitmq_goes_on_when_a_server_is_killed() -> Result<()> {
    goes_on_when_a_server_is_killed(Kind::Rabbitmq)
}

fn goes_on_when_a_server_is_killed(kind: Kind) -> Result<()> {
    let bed = Bed::new(3, Mode::from_environment()?)?;
    let installation = Installation::prepare(kind, bed.directory())?;
    let mut processes = Vec::new();
    for index in 0..3 {
        processes.push(installation.start(bed.server(index)?, &fleet::name(index))?);
    }
    for (index, process) in (0..).zip(&mut processes) {
        installation.wait(
            bed.server(index)?,
            &fleet::name(index),
            own_address(kind, index),
            process,
        )?;
    }
    let families = [(kind.name(), kind.port(), kind.port())];
    let services = families.into_iter().flat_map(|ports| {
        Family::BOTH.map(|family| {
            let mut service = Service::embedded(&bed, ports, "tcp", family);
            service.check = FAST_TCP_CHECK.into();
            service
        })
    });
    let agent = Agent::launch(&bed, services.collect())?;
    let vips = Family::BOTH.map(|family| Bed::vip(family, kind.port()));

    for vip in vips {
        wait_for_names(kind, &bed.client, vip, &["s0", "s1", "s2"])?;
        note(format!("{kind} through {vip}: {}", kind.load(&bed.client, vip, LONG)?));
    }

    let mut loads = Vec::new();
    for vip in vips {
        loads.push(Background::start(kind, &bed.client, vip)?);
    }
    let wait_for_runs = |further| loads.iter().try_for_each(|load| load.wait_for_runs(further));
    wait_for_runs(3)?;
    // Before the first signal: a client notices sooner than the last process has ended.
    let killed = Instant::now();
    bed.server(0)?.kill_processes()?;
    agent.wait_for_state("s0", ServerState::Down)?;
    let evicted = Instant::now();
    note(format!("{kind}: evicted after {:?}", evicted - killed));
    wait_for_runs(4)?;
    for vip in vips {
        let done = kind.load(&bed.client, vip, LONG)?;
        note(format!("{kind} through {vip} with two servers: {done}"));
        require_names(kind, &bed.client, vip, &["s1", "s2"])?;
    }

    let restarted = installation.start(bed.server(0)?, &fleet::name(0))?;
    let restored = processes.first_mut().context("three servers")?;
    *restored = restarted;
    installation.wait(bed.server(0)?, &fleet::name(0), own_address(kind, 0), restored)?;
    agent.wait_for_state("s0", ServerState::Up)?;
    let back = Instant::now();
    wait_for_runs(3)?;
    for vip in vips {
        wait_for_names(kind, &bed.client, vip, &["s0", "s1", "s2"])?;
        let done = kind.load(&bed.client, vip, LONG)?;
        note(format!("{kind} through {vip} with three again: {done}"));
    }

    for (vip, load) in vips.into_iter().zip(loads) {
        let runs = load.stop();
        let failed: Vec<&Run> = runs.iter().filter(|run| run.outcome.is_err()).collect();
        note(format!("{kind} through {vip}: {} runs, {} failed", runs.len(), failed.len()));
        for run in failed {
            // A run may only fail because it was under way when the server was killed, or
            // began before the eviction; a starting server is not used before it is UP.
            let excused = run.started < evicted && run.ended > killed;
            ensure!(
                excused,
                "a run through {vip} failed {:?} after the kill: {:?}",
                run.started.saturating_duration_since(killed),
                run.outcome
            );
        }
        let after = runs.iter().filter(|run| run.started > back && run.outcome.is_ok());
        ensure!(after.count() > 0, "no run through {vip} with the restored server");
    }
    Ok(())
}

fn own_address(kind: Kind, index: u8) -> SocketAddr {
    SocketAddr::new(Bed::server_address(index, Family::V4), kind.port())
}

/// Asks until each of these servers has answered.
fn wait_for_names(kind: Kind, client: &Namespace, vip: SocketAddr, names: &[&str]) -> Result<()> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    wait_until("every server to answer", Duration::from_secs(20), || {
        *seen.entry(kind.identify(client, vip)?).or_default() += 1;
        ensure!(names.iter().all(|name| seen.contains_key(*name)), "so far {seen:?}");
        Ok(())
    })?;
    Ok(())
}

/// Twenty new connections succeed, and only these servers answer.
fn require_names(kind: Kind, client: &Namespace, vip: SocketAddr, names: &[&str]) -> Result<()> {
    for _ in 0..20 {
        let name = kind.identify(client, vip)?;
        ensure!(names.contains(&name.as_str()), "{name} answered, not {names:?}");
    }
    Ok(())
}

/// One run of the load tool.
#[derive(Debug)]
struct Run {
    started: Instant,
    ended: Instant,
    outcome: Result<String>,
}

/// The load tool, started again and again.
struct Background {
    shared: Arc<Shared>,
    worker: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    stopping: AtomicBool,
    runs: Mutex<Vec<Run>>,
}

impl Background {
    fn start(kind: Kind, client: &Arc<Namespace>, vip: SocketAddr) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let for_worker = Arc::clone(&shared);
        let client = Arc::clone(client);
        let worker = thread::Builder::new().spawn(move || {
            while !for_worker.stopping.load(Ordering::Relaxed) {
                let started = Instant::now();
                let outcome = kind.load(&client, vip, SHORT);
                let run = Run { started, ended: Instant::now(), outcome };
                for_worker.runs.lock().unwrap_or_else(PoisonError::into_inner).push(run);
                thread::sleep(Duration::from_millis(20));
            }
        })?;
        Ok(Self { shared, worker })
    }

    /// Waits for this many further runs.
    fn wait_for_runs(&self, further: usize) -> Result<()> {
        let count = || self.shared.runs.lock().unwrap_or_else(PoisonError::into_inner).len();
        let wanted = count() + further;
        wait_until("runs of the load", Duration::from_secs(60), || {
            ensure!(count() >= wanted, "{} of {wanted}", count());
            Ok(())
        })?;
        Ok(())
    }

    fn stop(self) -> Vec<Run> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        // A panic of the worker was printed, and its runs so far are judged.
        let _ = self.worker.join();
        let mut runs = self.shared.runs.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *runs)
    }
}
