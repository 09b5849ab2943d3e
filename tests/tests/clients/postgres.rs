//! PostgreSQL through `mode: tcp`: psql and pgbench.

use std::process::Command;

use anyhow::{Result, ensure};
use testbed::{
    loopback::{Loopback, free, succeed},
    real::cluster,
};

#[test]
fn psql_and_pgbench_work_through_it() -> Result<()> {
    let (mut place, server, front) = (Loopback::new()?, free()?, free()?);
    let directory = place.path("cluster");
    std::fs::create_dir(&directory)?;
    let mut postgres = cluster(&directory, server)?;
    place.beside(&mut postgres, server)?;
    place.start(&format!(
        "frontends: {{db: {{mode: tcp, bind: [\"{front}\"], backend: b}}}}\n\
         backends: {{b: {{check: {{type: tcp}}, servers: {{s: \"{server}\"}}}}}}\n"
    ))?;
    let port = front.port().to_string();
    let at = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres"];
    let query = "select sum(length(repeat('x', 1000) || n)) from generate_series(1, 10000) n";
    let mut psql = Command::new("psql");
    psql.args(at).args(["-X", "-At", "-d", "bench", "-c", query]);
    ensure!(succeed(&mut psql)?.trim() == "10038894");
    let mut load = Command::new("pgbench");
    // A new connection for each transaction, then many over a few.
    load.args(at).args(["-n", "-S", "-C", "-c", "4", "-t", "50", "bench"]);
    let said = succeed(&mut load)?;
    ensure!(said.contains("actually processed: 200/200"), "{said}");
    let mut load = Command::new("pgbench");
    load.args(at).args(["-n", "-c", "10", "-t", "200", "bench"]);
    let said = succeed(&mut load)?;
    ensure!(said.contains("actually processed: 2000/2000"), "{said}");
    let log = place.log(200)?;
    let bad: Vec<_> = log.iter().filter(|line| line["reason"] != "done").collect();
    ensure!(bad.is_empty(), "{bad:?}");
    Ok(())
}
