//! Certificates and configurations that change while clients come and go.

use std::{
    fs,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Result, ensure};
use testbed::process::wait_until;

use crate::bed::{Bed, PATIENCE, free, greeter, greeting, herald, said, text};

#[test]
fn no_connection_is_lost_while_configurations_change() -> Result<()> {
    const RELOADS: u32 = 30;
    let mut bed = Bed::new()?;
    let (one, two, front, extra) = (greeter("hello")?, greeter("hello")?, free()?, free()?);
    let sections = |number: u32| {
        // The frontend that is looked at stays; one beside it comes and goes.
        let beside = if number.is_multiple_of(2) {
            format!("  u: {{mode: tcp, bind: [\"{extra}\"], backend: b}}\n")
        } else {
            String::new()
        };
        let server = if number.is_multiple_of(3) { one } else { two };
        format!(
            "frontends:\n  t: {{mode: tcp, bind: [\"{front}\"], backend: b}}\n{beside}\
             backends: {{b: {{servers: {{s: \"{server}\"}}}}}}\n"
        )
    };
    bed.start(&sections(0))?;
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let load: Vec<_> = (0..2)
        .map(|_| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            thread::spawn(move || -> Result<()> {
                while !stop.load(Ordering::Relaxed) {
                    ensure!(greeting(front, 5)?.1 == "hello");
                    served.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    for number in 1..=RELOADS {
        let before = served.load(Ordering::Relaxed);
        bed.configure(&sections(number))?;
        bed.command(&["reload"])?;
        wait_until("clients are served", PATIENCE, || {
            let finished = load.iter().any(thread::JoinHandle::is_finished);
            ensure!(finished || served.load(Ordering::Relaxed) > before, "nobody is served");
            Ok(())
        })?;
    }
    stop.store(true, Ordering::Relaxed);
    for client in load {
        client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
    }
    Ok(())
}

#[test]
fn certificates_are_renewed_under_load_and_faults_leave_the_old_ones() -> Result<()> {
    let mut bed = Bed::new()?;
    let certificate = bed.authority.issue("site.pem", &["old.test"])?;
    let (server, front) = (herald("hello\n")?, free()?);
    bed.start(&format!(
        "frontends:\n  t:\n    mode: tcp\n    backend: b\n    bind:\n      \
         - {{address: \"{front}\", tls: {{certificates: {}}}}}\n\
         backends: {{b: {{servers: {{s: \"{server}\"}}}}}}\n",
        text(&certificate)
    ))?;
    let ca = text(&bed.authority.certificate());
    let name = move || -> Result<String> {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &front.to_string(), "-verify_return_error"]);
        let output = command.args(["-CAfile", &ca]).stdin(Stdio::null()).output()?;
        let said = said(&output);
        ensure!(output.status.success(), "{said}");
        let subject = said.lines().find_map(|line| line.strip_prefix("subject=CN = "));
        Ok(subject.unwrap_or_default().to_owned())
    };
    ensure!(name()? == "old.test", "{}", name()?);
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, load) = (Arc::clone(&stop), name.clone());
    let client = thread::spawn(move || -> Result<()> {
        while !stopped.load(Ordering::Relaxed) {
            load()?;
        }
        Ok(())
    });

    bed.authority.issue("site.pem", &["new.test"])?;
    wait_until("the new certificate is shown", PATIENCE, || {
        ensure!(name()? == "new.test");
        Ok(())
    })?;
    fs::write(&certificate, "not a certificate")?;
    wait_until("the fault is said", PATIENCE, || {
        ensure!(bed.said().contains("the old ones stay in force"), "{}", bed.said());
        Ok(())
    })?;
    ensure!(name()? == "new.test");
    bed.authority.issue("site.pem", &["newer.test"])?;
    wait_until("what was put right is shown", PATIENCE, || {
        ensure!(name()? == "newer.test");
        Ok(())
    })?;
    stop.store(true, Ordering::Relaxed);
    client.join().map_err(|_| anyhow::anyhow!("the client panicked"))?
}
