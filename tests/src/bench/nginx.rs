//! nginx as the server of benchmarks: one process, with answers that cost it little, so
//! that what is measured is what stands in front of it.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    namespace::Namespace,
    process::{Process, wait_until},
};

/// Bytes of [`LARGE_PATH`].
pub const LARGE_BYTES: usize = 1 << 20;
/// Where an answer of [`LARGE_BYTES`] is.
pub const LARGE_PATH: &str = "/large";
/// Where an answer of 1024 bytes is.
pub const KILOBYTE_PATH: &str = "/1k";

/// Starts one nginx process in a namespace, with its files in `directory`, which must not
/// exist. `wrap` makes the command, as with [`Namespace::command`].
///
/// `/` answers with five bytes, [`KILOBYTE_PATH`] and [`LARGE_PATH`] with more.
///
/// # Errors
/// When it does not get ready.
pub fn start(
    namespace: &Namespace,
    wrap: impl Fn(&str) -> Command,
    address: SocketAddr,
    directory: &Path,
) -> Result<Process> {
    fs::create_dir(directory).context("create nginx's directory")?;
    fs::create_dir(directory.join("files")).context("create nginx's directory")?;
    for (path, length) in [(KILOBYTE_PATH, 1024), (LARGE_PATH, LARGE_BYTES)] {
        fs::write(directory.join("files").join(&path[1..]), vec![b'x'; length])
            .context("write a file to serve")?;
    }
    let file = directory.join("nginx.conf");
    fs::write(&file, configuration(address)).context("write nginx's configuration")?;
    run(namespace, wrap("nginx"), directory, &file, address)
}

/// Starts nginx with a configuration and waits until it listens at `address`.
///
/// # Errors
/// When it does not get ready.
pub fn run(
    namespace: &Namespace,
    mut command: Command,
    directory: &Path,
    configuration: &Path,
    address: SocketAddr,
) -> Result<Process> {
    command.arg("-p").arg(directory).arg("-c").arg(configuration);
    let process = Process::start(&mut command, &directory.join("log"))?;
    let answered = wait_until("nginx", Duration::from_secs(5), || {
        namespace.run(|| Ok(TcpStream::connect(address)?))
    });
    answered.map_err(|error| error.context(process.last_output()))?;
    Ok(process)
}

/// What every configuration of one nginx process in the foreground begins with. Paths are
/// relative to its own directory.
pub const MAIN: &str = "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\n\
     events { worker_connections 16384; }\n";

/// What every `http` section begins with. Connections live as long as the client likes:
/// nginx's default closes them after 1000 requests.
pub const HTTP: &str = "access_log off;\nkeepalive_requests 1000000000;\nkeepalive_timeout 60s;\n\
     sendfile on;\ntcp_nopush on;\n\
     client_body_temp_path body;\nproxy_temp_path proxy;\nfastcgi_temp_path fastcgi;\n\
     uwsgi_temp_path uwsgi;\nscgi_temp_path scgi;\n";

/// With `reuseport` the kernel deals connections out evenly to the processes that listen on
/// one address. Files are kept open, or opening them would be most of the work.
fn configuration(address: SocketAddr) -> String {
    format!(
        "{MAIN}http {{\n{HTTP}open_file_cache max=16;\nroot files;\n\
         server {{ listen {address} reuseport backlog=4096;\n\
         location = / {{ return 200 \"good\\n\"; }}\nlocation / {{ }}\n}}\n}}\n"
    )
}
