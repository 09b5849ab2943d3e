//! Sends checks the way of traffic: what `health` asks for, by the classifiers of `datapath`.
//! They are loaded and attached when the first such check comes, follow interfaces that come and
//! go, and leave when no check needs them.

use std::{
    error::Error,
    net::IpAddr,
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use lb_common::{
    address::{Address4, Address6, Be16},
    check_path::CheckPath,
};
use tokio::sync::watch;

use crate::{
    datapath::{CheckPaths, DatapathError},
    health::{AsTraffic, Way},
    model::snapshot::Snapshot,
};

/// For how long interfaces are taken to be as they were.
const LOOK: Duration = Duration::from_secs(1);

/// Sends checks the way of traffic.
#[derive(Debug)]
pub struct ChecksAsTraffic {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    attached: Mutex<Option<Attached>>,
}

#[derive(Debug)]
struct Attached {
    paths: CheckPaths,
    /// To which interfaces, as configured.
    interfaces: Vec<String>,
    looked: Instant,
}

impl ChecksAsTraffic {
    /// For the interfaces of the snapshots. Nothing is attached yet.
    #[must_use]
    pub fn new(snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self { snapshots, attached: Mutex::default() }
    }

    /// Attaches what the configuration needs, before any check does.
    ///
    /// # Errors
    /// If the kernel can not send checks that way.
    pub fn prepare(&self) -> Result<(), DatapathError> {
        let interfaces = self.interfaces();
        interfaces.map_or(Ok(()), |names| up_to_date(&mut self.lock(), &names).map(drop))
    }

    /// The interfaces to be on; none while no check is to go that way.
    fn interfaces(&self) -> Option<Vec<String>> {
        let snapshot = self.snapshots.borrow();
        snapshot.checks_as_traffic().then(|| snapshot.datapath.interfaces.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Attached>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsTraffic for ChecksAsTraffic {
    fn send(&self, socket: BorrowedFd<'_>, way: &Way) -> Result<(), Box<dyn Error + Send + Sync>> {
        let interfaces = self.interfaces().ok_or("the configuration changes")?;
        let path = CheckPath {
            server: common(way.server),
            vip: common(way.vip),
            forward: way.forward.to_raw(),
            gue_port: Be16::new(way.gue_port),
            ..CheckPath::default()
        };
        let mut attached = self.lock();
        Ok(up_to_date(&mut attached, &interfaces)?.set(socket, &path)?)
    }

    fn rest(&self) {
        *self.lock() = None;
    }
}

/// The classifiers, on the interfaces that are there.
fn up_to_date<'a>(
    attached: &'a mut Option<Attached>,
    interfaces: &[String],
) -> Result<&'a mut CheckPaths, DatapathError> {
    let now = Instant::now();
    let fresh = |old: &Attached| {
        old.interfaces == interfaces && now.saturating_duration_since(old.looked) < LOOK
    };
    let current = match attached.take() {
        Some(current) if fresh(&current) => current,
        old => {
            let mut paths = old.map_or_else(CheckPaths::load, |old| Ok(old.paths))?;
            paths.follow(interfaces)?;
            Attached { paths, interfaces: interfaces.to_vec(), looked: now }
        }
    };
    Ok(&mut attached.insert(current).paths)
}

fn common(address: IpAddr) -> Address6 {
    match address {
        IpAddr::V4(address) => Address6::mapped(Address4::new(address.octets())),
        IpAddr::V6(address) => Address6::new(address.octets()),
    }
}
