//! The worker that checks one server: waits, probes, lets the machine judge, and reports.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    counts::Count,
    http,
    machine::{CheckMachine, CheckResult, Verdict},
    schedule,
    task::{HealthEvent, Target},
    tcp,
    way::AsTraffic,
};
use crate::model::{
    address::ServerAddress,
    snapshot::{Check, CheckKind},
    state::{Health, ServerId},
};

/// Checks one server until the target's sender or the events' receiver is gone.
pub(super) async fn run(
    server: ServerId,
    mut targets: watch::Receiver<Target>,
    known: Option<Health>,
    events: mpsc::Sender<HealthEvent>,
    count: Arc<Count>,
    path: Arc<dyn AsTraffic>,
) {
    let mut target = targets.borrow_and_update().clone();
    let mut machine = machine(&target.check, known);
    let mut start = first_start(&target.check);
    let mut reported = None;
    loop {
        let (started, result) = tokio::select! {
            biased;
            changed = targets.changed() => {
                if changed.is_err() {
                    return;
                }
                let new = targets.borrow_and_update().clone();
                machine.set_thresholds(new.check.rise, new.check.fall);
                let is_elsewhere = new.server != target.server
                    || new.probed != target.probed
                    || new.way != target.way;
                if is_elsewhere || new.paused {
                    machine.forget();
                }
                start = start.min(first_start(&new.check));
                let newly_marked = new.marked.clone().filter(|_| target.marked.is_none());
                target = new;
                reported = None;
                if let Some(why) = newly_marked {
                    machine.fail(Instant::now().into_std());
                    let event = down(&server, target.server, &why);
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
                continue;
            }
            finished = check_at(start, &target, &*path), if !target.paused => finished,
        };
        count.note(&result);
        if let Some(transition) = machine.observe(&result, Instant::now().into_std()) {
            let (backend, name) = &server;
            // The control loop tells the operator what follows.
            tracing::debug!(
                %backend, server = %name, from = ?transition.from, to = ?transition.to,
                reason = result.reason, "health changed"
            );
        }
        start = next_start(started, &target.check, &machine);
        let known = (machine.health(), reason(&machine, &result));
        if reported.as_ref() != Some(&known) {
            let (health, reason) = known.clone();
            let (server, address, duration) = (server.clone(), target.server, result.duration);
            let event = HealthEvent { server, address, health, reason, duration };
            if events.send(event).await.is_err() {
                return;
            }
            reported = Some(known);
        }
    }
}

/// The news that traffic holds a server for down.
fn down(server: &ServerId, address: ServerAddress, why: &str) -> HealthEvent {
    let (health, reason) = (Health::Down, format!("marked down by traffic: {why}"));
    HealthEvent { server: server.clone(), address, health, reason, duration: Duration::ZERO }
}

fn machine(check: &Check, known: Option<Health>) -> CheckMachine {
    let now = Instant::now().into_std();
    match known {
        Some(health) => CheckMachine::decided(health, check.rise, check.fall, now),
        None => CheckMachine::undecided(Health::Up, check.rise, check.fall, now),
    }
}

fn first_start(check: &Check) -> Instant {
    let now = Instant::now().into_std();
    schedule::first_start(now, check.interval, fastrand::u32(..)).into()
}

fn next_start(started: Instant, check: &Check, machine: &CheckMachine) -> Instant {
    let interval = if machine.in_transition() { check.fast_interval } else { check.interval };
    let now = Instant::now().into_std();
    schedule::next_start(started.into_std(), now, interval, fastrand::u32(..)).into()
}

/// Waits, then probes; returns when the probe began and what it found.
async fn check_at(start: Instant, target: &Target, path: &dyn AsTraffic) -> (Instant, CheckResult) {
    sleep_until(start).await;
    let started = Instant::now();
    let (verdict, reason) = probe(target, path).await;
    (started, CheckResult { verdict, reason, duration: started.elapsed() })
}

async fn probe(target: &Target, path: &dyn AsTraffic) -> (Verdict, String) {
    let Target { probed, check, way, .. } = target;
    let detour = way.as_ref().map(|way| (way, path));
    let outcome = match &check.kind {
        CheckKind::Tcp => {
            let connected = tcp::check(*probed, detour, check.timeout).await;
            connected.map(|()| (Verdict::Passed, "connected".into()))
        }
        CheckKind::Http(http) => http::check(*probed, http, detour, check.timeout)
            .await
            .map(|answer| (answer.verdict, format!("status {}", answer.status))),
    };
    outcome.unwrap_or_else(|error| {
        let verdict = if error.is_of_host() { Verdict::Unknown } else { Verdict::Failed };
        (verdict, error.to_string())
    })
}

fn reason(machine: &CheckMachine, result: &CheckResult) -> String {
    match machine.progress() {
        Some((count, needed)) => {
            let what = if machine.health() == Health::Down { "success" } else { "failure" };
            format!("{} ({what} {count} of {needed})", result.reason)
        }
        None => result.reason.clone(),
    }
}
