//! Python packages that tests use as clients, in a virtual environment below `target`.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{process, workspace};

/// Clients of RabbitMQ (AMQP 0-9-1), gRPC, WebSockets, HTTP/2 and Prometheus, and what they need,
/// each with its version.
const PACKAGES: [(&str, &str); 8] = [
    ("pika", "1.3.2"),
    ("typing_extensions", "4.16.0"),
    ("grpcio", "1.76.0"),
    ("websockets", "15.0.1"),
    ("hyperframe", "6.1.0"),
    ("hpack", "4.1.0"),
    ("h2", "4.3.0"),
    ("prometheus_client", "0.26.0"),
];

/// The interpreter of the environment; tests look for it here.
pub(crate) fn interpreter() -> PathBuf {
    workspace::target().join("python/bin/python")
}

/// Makes the environment and installs what it lacks.
///
/// # Errors
/// The system's Python can not make environments, or a package could not be installed.
pub(crate) fn ensure() -> Result<()> {
    let python = interpreter();
    if !python.exists() {
        println!("setup: making a Python environment in {}", workspace::target().display());
        let directory = workspace::target().join("python");
        process::run(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(directory))
            .context("could not make a Python environment")?;
    }
    for (name, version) in PACKAGES {
        let script = format!("import importlib.metadata as m; print(m.version('{name}'))");
        let found = process::output(Command::new(&python).args(["-c", &script]));
        if found.is_ok_and(|found| found.trim() == version) {
            continue;
        }
        println!("setup: installing {name} {version} from PyPI");
        let wanted = format!("{name}=={version}");
        process::run(
            Command::new(&python)
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
                // Binary packages and nothing that is not listed: what is tested is pinned.
                .args(["--no-deps", "--only-binary", ":all:", &wanted])
                .env_remove("PYTHONPATH"),
        )
        .with_context(|| format!("could not install {wanted}"))?;
    }
    Ok(())
}
