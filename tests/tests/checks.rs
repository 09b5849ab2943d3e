//! When checks come, by the clock of the server that is checked (`datapath.mode: off`: what a
//! data plane does with the results is the subject of `eviction`).

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use testbed::{
    agent::binary,
    namespace::Namespace,
    process::{Process, wait_until},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// The normal interval, and how much later than it should a check may be seen.
const INTERVAL: Duration = Duration::from_millis(500);
const SLACK: Duration = Duration::from_millis(350);
/// `fall` and `rise`.
const THRESHOLD: usize = 10;
/// What a change takes with checks at the fast interval of 20 ms is about 0.2 s; at the
/// normal one it takes at least nine times nine tenths of that.
const CHANGED_WITHIN: Duration = Duration::from_secs(2);

/// What a checked server has seen: when each check came and whether it was told to pass.
#[derive(Default)]
struct Checked {
    well: AtomicBool,
    stopping: AtomicBool,
    seen: Mutex<Vec<(Instant, bool)>>,
}

impl Checked {
    fn seen(&self) -> Vec<(Instant, bool)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers checks until told to stop. One that comes while it answers another waits, and
    /// counts from when it is taken.
    fn serve(&self, listener: &TcpListener) -> Result<()> {
        while !self.stopping.load(Ordering::Relaxed) {
            let (stream, _) = listener.accept()?;
            let well = self.well.load(Ordering::Relaxed);
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), well));
            // A check that gave up is seen in the agent's state.
            let _ = answer(stream, well);
        }
        Ok(())
    }

    /// Waits until this many checks in a row, up to the last one, were answered so; the
    /// instants of those.
    fn wait_for_row(&self, well: bool, count: usize) -> Result<Vec<Instant>> {
        let what = format!("{count} checks that find it {}well", if well { "" } else { "un" });
        let (row, _) = wait_until(&what, PATIENCE, || {
            let seen = self.seen();
            let row = seen.iter().rev().take_while(|(_, told)| *told == well);
            let mut row: Vec<Instant> = row.map(|(at, _)| *at).collect();
            row.reverse();
            ensure!(row.len() >= count, "{} so far", row.len());
            Ok(row)
        })?;
        Ok(row)
    }
}

fn answer(mut stream: TcpStream, well: bool) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut bytes = [0; 512];
        let read = stream.read(&mut bytes)?;
        ensure!(read > 0, "the request ends early");
        head.extend_from_slice(bytes.get(..read).unwrap_or_default());
    }
    let status = if well { "200 OK" } else { "503 Service Unavailable" };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    Ok(stream.write_all(head.as_bytes())?)
}

/// At rest checks come one normal interval after another, whether they pass or fail.
fn require_rest(row: &[Instant]) -> Result<()> {
    let (first, last) = (row.first().context("no check")?, row.last().context("no check")?);
    let gaps = u32::try_from(row.len())?.saturating_sub(1);
    let expected = INTERVAL * 9 / 10 * gaps;
    let took = *last - *first;
    ensure!(took + SLACK >= expected, "{gaps} intervals of {INTERVAL:?} took only {took:?}");
    Ok(())
}

/// From the first check that speaks against the state to the last one that is needed.
fn require_haste(row: &[Instant]) -> Result<()> {
    let (first, last) = (row.first(), row.get(THRESHOLD - 1));
    let took = *last.context("too few checks")? - *first.context("no check")?;
    ensure!(took < CHANGED_WITHIN, "{THRESHOLD} checks took {took:?}");
    Ok(())
}

#[test]
fn checks_come_fast_while_a_server_changes_and_slowly_else() -> Result<()> {
    const AT_REST: usize = 2;
    let namespace = Namespace::create("checks")?;
    let directory = tempfile::tempdir()?;
    let listener = namespace.run(|| Ok(TcpListener::bind("127.0.0.1:0")?))?;
    let address = listener.local_addr()?;
    let checked = Arc::new(Checked::default());
    checked.well.store(true, Ordering::Relaxed);
    let server = {
        let checked = Arc::clone(&checked);
        thread::spawn(move || checked.serve(&listener))
    };
    let _agent = start_agent(&namespace, directory.path(), address)?;

    // The first check decides alone; those after it find nothing that changes.
    let row = checked.wait_for_row(true, 1 + AT_REST)?;
    require_rest(row.get(1..=AT_REST).context("a row")?)?;
    for well in [false, true] {
        checked.well.store(well, Ordering::Relaxed);
        let row = checked.wait_for_row(well, THRESHOLD + AT_REST)?;
        require_haste(&row)?;
        require_rest(row.get(THRESHOLD - 1..THRESHOLD + AT_REST).context("a row")?)?;
    }
    // One check that fails begins a change, and one that passes ends it.
    checked.well.store(false, Ordering::Relaxed);
    checked.wait_for_row(false, 2)?;
    checked.well.store(true, Ordering::Relaxed);
    let row = checked.wait_for_row(true, AT_REST)?;
    require_rest(row.get(..AT_REST).context("a row")?)?;

    checked.stopping.store(true, Ordering::Relaxed);
    // Ends a blocked accept, unless a check came first and ended it: nobody listens then.
    namespace.run(|| Ok(TcpStream::connect(address).is_ok()))?;
    server.join().expect("the server does not panic")
}

fn start_agent(
    namespace: &Namespace,
    directory: &std::path::Path,
    server: SocketAddr,
) -> Result<Process> {
    let file = directory.join("pointsman.yaml");
    let milliseconds = INTERVAL.as_millis();
    let text = format!(
        "datapath: {{mode: off}}\n\
         admin: {{socket: {}}}\n\
         log: {{access: {{target: {}}}}}\n\
         frontends:\n  web: {{mode: l4, bind: [\"127.0.0.1:8480\"], backend: pool}}\n\
         backends:\n  pool:\n    \
         check: {{type: http, path: /health, interval: {milliseconds}ms, fast_interval: 20ms, \
         timeout: 400ms, fall: {THRESHOLD}, rise: {THRESHOLD}}}\n    \
         servers: {{one: \"{server}\"}}\n",
        directory.join("admin.sock").display(),
        directory.join("access.log").display(),
    );
    fs::write(&file, text)?;
    let binary = binary()?;
    let mut command = namespace.command(binary.to_str().context("paths here are text")?);
    command.args(["run", "--config"]).arg(&file);
    Process::start(&mut command, &directory.join("agent.log"))
}
