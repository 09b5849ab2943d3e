//! The load of each scenario.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use testbed::bench::{
    nginx::{KILOBYTE_PATH, LARGE_PATH},
    wrk::{self, Count},
};

use crate::{
    h2load,
    scenario::Scenario,
    site::{HTTP, HTTPS, Site, TCP},
    tls_client,
};

/// Loads the proxy for a while.
///
/// # Errors
/// When the program that makes the load fails.
pub(crate) fn run(site: &Site, scenario: Scenario, time: Duration) -> Result<Count> {
    const CLOSE: &[&str] = &["Connection: close"];
    let wrk = |scheme: &str, target: SocketAddr, path: &str, connections, headers: &[&str]| {
        let url = format!("{scheme}://{target}{path}");
        wrk::run(site.namespace.command("wrk"), connections, time, headers, &url)
    };
    match scenario {
        Scenario::H1Small => wrk("http", HTTP, "/", 64, &[]),
        Scenario::H1Kilobyte => wrk("http", HTTP, KILOBYTE_PATH, 512, &[]),
        Scenario::H1Close => wrk("http", HTTP, "/", 64, CLOSE),
        Scenario::H1Large => wrk("http", HTTP, LARGE_PATH, 16, &[]),
        Scenario::TlsSmall => wrk("https", HTTPS, "/", 64, &[]),
        Scenario::TlsClose => wrk("https", HTTPS, "/", 64, CLOSE),
        Scenario::TlsLarge => wrk("https", HTTPS, LARGE_PATH, 16, &[]),
        Scenario::TcpLarge => wrk("http", TCP, LARGE_PATH, 16, &[]),
        Scenario::H2Small => h2load::run(site, &format!("https://{HTTPS}/"), time),
        Scenario::TlsResume => tls_client::resume(site, time),
        Scenario::Idle | Scenario::IdleTls => Ok(Count::default()),
    }
}
