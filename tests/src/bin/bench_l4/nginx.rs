//! The servers: one nginx in each server's namespace, with an answer of a few bytes, so
//! that what is measured is connections and packets.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};
use testbed::{
    bed::{Bed, Family},
    namespace::Namespace,
    process::{Process, wait_until},
};

use crate::direct;

/// Where nginx listens, and the port of the VIPs in front of it.
pub(crate) const PORT: u16 = 8080;

/// Where the nginx of a server answers.
pub(crate) const fn address(server: u8) -> SocketAddr {
    SocketAddr::new(Bed::server_address(server, Family::V4), PORT)
}

/// Starts one nginx process in every server's namespace, and as many in the first server's
/// for the direct link. The work is divided between the same number of processes in every
/// turn, or a machine with few processors would favour the turn with fewer.
///
/// # Errors
/// When one does not get ready.
pub(crate) fn start(bed: &Bed) -> Result<Vec<Process>> {
    let mut running = Vec::new();
    let direct = SocketAddr::new(direct::SERVER_ADDRESS, PORT);
    for (index, server) in (0_u8..).zip(&bed.servers) {
        running.push(launch(bed, server, address(index), &format!("nginx{index}"))?);
        running.push(launch(bed, bed.server(0)?, direct, &format!("direct{index}"))?);
    }
    Ok(running)
}

fn launch(bed: &Bed, namespace: &Namespace, address: SocketAddr, name: &str) -> Result<Process> {
    let directory = bed.directory().join(name);
    fs::create_dir(&directory).context("create nginx's directory")?;
    let file = directory.join("nginx.conf");
    fs::write(&file, configuration(address)).context("write nginx's configuration")?;
    let mut command = namespace.command("nginx");
    command.arg("-p").arg(&directory).arg("-c").arg(&file);
    let process = Process::start(&mut command, &directory.join("log"))?;
    let answered = wait_until("nginx", Duration::from_secs(5), || {
        namespace.run(|| Ok(TcpStream::connect(address)?))
    });
    answered.map_err(|error| error.context(process.last_output()))?;
    Ok(process)
}

/// Paths are relative to the server's own directory. Connections live as long as the
/// client likes: nginx's default closes them after 1000 requests. With `reuseport` the
/// kernel deals connections out evenly to the processes that listen on one address.
fn configuration(address: SocketAddr) -> String {
    format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n\
         access_log off;\nkeepalive_requests 1000000000;\nkeepalive_timeout 60s;\n\
         client_body_temp_path body;\nproxy_temp_path proxy;\nfastcgi_temp_path fastcgi;\n\
         uwsgi_temp_path uwsgi;\nscgi_temp_path scgi;\n\
         server {{ listen {address} reuseport backlog=4096; location / {{ return 200 \"good\\n\"; }} }}\n\
         }}\n"
    )
}
