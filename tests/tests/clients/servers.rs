//! Servers that people write: Node.js, Python, and nginx, asked by curl over HTTP/1.1 and, with
//! TLS, HTTP/2.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt, process::Command};

use anyhow::{Result, ensure};
use testbed::loopback::{Loopback, free, succeed};

use crate::messages::{PEERS, python};

/// Where the frontend takes HTTP/1.1, and HTTP/2.
struct Front {
    plain: SocketAddr,
    encrypted: SocketAddr,
}

/// What every server answers, whatever the client speaks.
fn check(place: &Loopback, front: &Front, is_echoing: bool) -> Result<()> {
    let (plain, encrypted) =
        (format!("http://{}", front.plain), format!("https://{}", front.encrypted));
    for (version, at) in [("--http1.1", plain), ("--http2", encrypted)] {
        let curl = |arguments: &[&str], path: &str| {
            let mut command = Command::new("curl");
            command.args(["-sSk", "--max-time", "60", version]).args(arguments);
            succeed(command.arg(format!("{at}{path}")))
        };
        let used = curl(&["-o", "/dev/null", "-w", "%{http_version}"], "/bytes?n=1")?;
        ensure!(used == if version == "--http2" { "2" } else { "1.1" }, "{version}: {used}");
        let body = curl(&[], "/bytes?n=100000")?;
        ensure!(body == "b".repeat(100_000), "{} bytes", body.len());
        let chunks: String = (0..1000).map(|number| format!("{number}\n")).collect();
        ensure!(curl(&[], "/chunks")? == chunks);
        let head = curl(&["-I"], "/bytes?n=77")?.to_ascii_lowercase();
        ensure!(head.contains("content-length: 77\r\n"), "{head}");
        let code = ["-o", "/dev/null", "-w", "%{http_code} %{size_download}"];
        ensure!(curl(&code, "/empty")? == "204 0");
        ensure!(curl(&code, "/missing")?.starts_with("404 "));
        ensure!(curl(&[], "/close")? == "bye");
        // Twenty over one connection of the client, whatever the server does with its own.
        let many = curl(&["-w", "|%{num_connects}\n"], "/bytes?n=[1-20]")?;
        let reused = many.lines().filter(|line| line.ends_with("|0")).count();
        ensure!(reused == 19, "{many}");
        if !is_echoing {
            continue;
        }
        let upload = place.path("upload");
        std::fs::write(&upload, "u".repeat(300_000))?;
        let from = format!("@{}", upload.display());
        ensure!(curl(&["--data-binary", &from], "/echo")? == "u".repeat(300_000));
        // The length is not known before the end, and the server is asked first.
        let chunked =
            ["-T", &from[1..], "-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue"];
        let chunked = if version == "--http1.1" { &chunked[..] } else { &chunked[..2] };
        ensure!(curl(chunked, "/echo")? == "u".repeat(300_000));
    }
    let bad: Vec<_> = place.log(1)?.into_iter().filter(|line| line["reason"] != "done").collect();
    ensure!(bad.is_empty(), "{bad:?}");
    Ok(())
}

fn start(place: &mut Loopback, server: SocketAddr) -> Result<Front> {
    let front = Front { plain: free()?, encrypted: free()? };
    let own = rcgen::generate_simple_self_signed(["a.test".to_owned()])?;
    let certificate = place.path("a.test.pem");
    std::fs::write(&certificate, own.cert.pem() + &own.signing_key.serialize_pem())?;
    std::fs::set_permissions(&certificate, std::fs::Permissions::from_mode(0o600))?;
    let (plain, encrypted, certificate) = (front.plain, front.encrypted, certificate.display());
    place.start(&format!(
        "frontends: {{f: {{mode: http, backend: b, bind: [\"{plain}\", {{address: \
         \"{encrypted}\", tls: {{certificates: {certificate}, alpn: [h2]}}}}]}}}}\n\
         backends: {{b: {{servers: {{s: \"{server}\"}}}}}}\n"
    ))?;
    Ok(front)
}

#[test]
fn a_server_of_nodejs() -> Result<()> {
    let (mut place, server) = (Loopback::new()?, free()?);
    let mut node = Command::new("node");
    node.arg(format!("{PEERS}/http_server.js")).arg(server.port().to_string());
    place.beside(&mut node, server)?;
    let front = start(&mut place, server)?;
    check(&place, &front, true)
}

#[test]
fn servers_of_pythons_library_of_either_version() -> Result<()> {
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let (mut place, server) = (Loopback::new()?, free()?);
        place.beside(python("http_server.py", server)?.arg(version), server)?;
        let front = start(&mut place, server)?;
        check(&place, &front, version == "HTTP/1.1")?;
    }
    Ok(())
}

#[test]
fn nginx_with_its_defaults() -> Result<()> {
    let (mut place, server) = (Loopback::new()?, free()?);
    let chunks: String = (0..1000).map(|number| format!("{number}\n")).collect();
    std::fs::write(place.path("chunks"), chunks)?;
    std::fs::write(place.path("bytes"), "b".repeat(100_000))?;
    std::fs::write(place.path("short"), "b".repeat(77))?;
    let root = place.path("").display().to_string();
    place.nginx(
        server,
        &format!(
            "listen {server}; root {root}; keepalive_requests 7; \
             location = /bytes {{ if ($arg_n != 100000) {{ rewrite ^ /short last; }} }} \
             location = /empty {{ return 204; }} \
             location = /close {{ keepalive_timeout 0; return 200 bye; }}"
        ),
    )?;
    let front = start(&mut place, server)?;
    check(&place, &front, false)
}
