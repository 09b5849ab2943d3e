//! Reloads under load: none of them costs a request.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use testbed::{
    loopback::{Loopback, PATIENCE, free},
    process::wait_until,
    web::{WebClient, server},
};

/// Reloads, unless `POINTSMAN_RELOADS` says otherwise.
const RELOADS: u64 = 1000;
/// Longest time for all of them, for each of them.
const LIMIT: Duration = Duration::from_millis(500);
/// Between two requests of a client: a thousand a second are load enough, and more of them only
/// take the processors from the reloads.
const PAUSE: Duration = Duration::from_millis(1);

/// Asks until it is told to stop; over one connection, or a new one each time.
fn load(address: SocketAddr, keeps: bool, stop: &AtomicBool, served: &AtomicU64) -> Result<()> {
    let mut kept = WebClient::connect(address)?;
    while !stop.load(Ordering::Relaxed) {
        let (body, _) = if keeps {
            kept.get("/", "")?
        } else {
            WebClient::connect(address)?.get("/", "connection: close\r\n")?
        };
        ensure!(["one", "two"].contains(&&*body), "{body}");
        served.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    Ok(())
}

#[test]
fn no_request_fails_over_a_thousand_reloads() -> Result<()> {
    let reloads = match std::env::var("POINTSMAN_RELOADS") {
        Ok(number) => number.parse().context("POINTSMAN_RELOADS")?,
        Err(_) => RELOADS,
    };
    let (mut place, front, beside) = (Loopback::new()?, free()?, free()?);
    let (one, two) = (server("one")?, server("two")?);
    let sections = |number: u64| {
        // The frontend stays; its rules, limits and servers change, and another one comes
        // and goes.
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
            "frontends:\n  f: {{mode: http, bind: [\"{front}\"], backend: b, \
             limits: {{streams: {}}}, rules: [{{set_response_header: {{x: \"{number}\"}}}}]}}\n\
             {beside}backends: {{b: {{servers: {{{servers}}}}}}}\n",
            50 + number % 50
        )
    };
    place.start(&sections(0))?;
    let (stop, served) = (AtomicBool::new(false), AtomicU64::new(0));
    let began = Instant::now();
    let (stop, count) = (&stop, &served);
    thread::scope(|scope| {
        let clients: Vec<_> = [true, true, false]
            .map(|keeps| scope.spawn(move || load(front, keeps, stop, count)))
            .into();
        let reloaded = (1..=reloads).try_for_each(|number| {
            let before = served.load(Ordering::Relaxed);
            place.reload(&sections(number))?;
            wait_until("clients are served", PATIENCE, || {
                let ended = clients.iter().any(thread::ScopedJoinHandle::is_finished);
                ensure!(ended || served.load(Ordering::Relaxed) > before, "nobody is served");
                Ok(())
            })
            .map(drop)
        });
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        reloaded
    })?;
    let (elapsed, served) = (began.elapsed(), served.load(Ordering::Relaxed));
    ensure!(elapsed < LIMIT * u32::try_from(reloads)?, "{reloads} reloads took {elapsed:?}");
    let status = place.status()?;
    let frontend = status.frontends.iter().find(|view| view.name == "f").context("f")?;
    let traffic = frontend.traffic;
    // Counters outlive reloads: nothing that clients saw is missing.
    ensure!(traffic.status_2xx >= served, "{served} were served: {traffic:?}");
    ensure!(traffic.requests == traffic.status_2xx, "{traffic:?}");
    Ok(())
}
