//! Real servers behind the proxy, and clients in front of it.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sha2::{Digest, Sha256};

use crate::bed::{Bed, PATIENCE, free, greeter, greeting, inheritable, succeed, text};

/// A frontend at `bind`, an entry of the list, before servers under `backend`, its keys.
fn sections(bind: &str, backend: &str) -> String {
    format!(
        "frontends:\n  t: {{mode: tcp, bind: [{bind}], backend: b}}\nbackends:\n  b: {{{backend}}}\n"
    )
}

#[test]
fn nginx_gets_tls_again_and_is_verified() -> Result<()> {
    let mut bed = Bed::new()?;
    let inside = text(&bed.authority.issue("inside.pem", &["inside.test"])?);
    let outside = text(&bed.authority.issue("outside.pem", &["www.test"])?);
    let ca = text(&bed.authority.certificate());
    let client = text(&bed.authority.issue("proxy.pem", &["proxy.test"])?);
    let (server, front, wrong) = (free()?, free()?, free()?);
    let port = server.port();
    bed.nginx(
        server,
        &format!(
            "listen {server} ssl; ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {inside}; ssl_certificate_key {inside}; \
             ssl_client_certificate {ca}; ssl_verify_client on; \
             location / {{ return 200 \"$ssl_server_name $ssl_client_s_dn $ssl_protocol\"; }}"
        ),
    )?;
    let tls = format!("tls: {{certificates: {outside}}}");
    let backend = |sni: &str| {
        format!(
            "servers: {{s: \"127.0.0.1:{port}\"}}, tls: {{ca: {ca}, sni: {sni}, \
             client_certificate: {client}}}"
        )
    };
    bed.start(&format!(
        "frontends:\n  \
         good: {{mode: tcp, bind: [{{address: \"{front}\", {tls}}}], backend: good}}\n  \
         bad: {{mode: tcp, bind: [{{address: \"{wrong}\", {tls}}}], backend: bad}}\n\
         backends:\n  good: {{{}}}\n  bad: {{{}}}\n",
        backend("inside.test"),
        backend("other.test")
    ))?;
    let curl = |address: SocketAddr| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "15", "--cacert", &ca, "--resolve"]);
        command.arg(format!("www.test:{}:127.0.0.1", address.port()));
        command.arg(format!("https://www.test:{}/", address.port()));
        succeed(&mut command)
    };
    ensure!(curl(front)? == "inside.test CN=proxy.test TLSv1.3", "{}", curl(front)?);
    ensure!(curl(wrong).is_err());
    let log = bed.log(2)?;
    let refused = log.iter().find(|line| line["frontend"] == "bad").context("it is logged")?;
    ensure!(refused["reason"] == "server_tls_bad_certificate", "{refused}");
    ensure!(refused["state"] == "SC", "{refused}");
    Ok(())
}

#[test]
fn clients_are_introduced_on_both_sides() -> Result<()> {
    for version in ["v1", "v2", "v2-full"] {
        let mut bed = Bed::new()?;
        let (server, front) = (free()?, free()?);
        let answer = "return 200 \"$proxy_protocol_addr $proxy_protocol_port\";";
        bed.nginx(server, &format!("listen {server} proxy_protocol; location / {{ {answer} }}"))?;
        let bind = format!("{{address: \"{front}\", accept_proxy: {{from: [127.0.0.0/8]}}}}");
        let backend = format!("servers: {{s: \"{server}\"}}, send_proxy: {version}");
        bed.start(&sections(&bind, &backend))?;
        let url = format!("http://{front}/");
        let said = succeed(Command::new("curl").args([
            "-sS",
            "--haproxy-protocol",
            "-w",
            " %{local_ip} %{local_port}",
            &url,
        ]))?;
        let words: Vec<&str> = said.split(' ').collect();
        ensure!(words[..2] == words[2..], "{version}: {said}");
        // Without a header it is refused.
        ensure!(succeed(Command::new("curl").args(["-sS", "--max-time", "15", &url])).is_err());
        // Workers write their lines in turn, not in the order of the sessions' ends.
        let log = bed.log(2)?;
        ensure!(log.iter().any(|line| line["reason"] == "proxy_header_missing"), "{log:?}");
    }
    Ok(())
}

#[test]
fn redis_speaks_through_it_and_over_a_unix_socket() -> Result<()> {
    let mut bed = Bed::new()?;
    let server = free()?;
    let socket = text(&bed.path("front.sock"));
    let mut command = Command::new("redis-server");
    command.args(["--port", &server.port().to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.arg("--dir").arg(bed.directory.path());
    bed.beside(&mut command, server)?;
    let front = free()?;
    let bind = format!("\"{front}\", {{address: \"unix@{socket}\", mode: \"0600\"}}");
    bed.start(&sections(&bind, &format!("servers: {{s: \"{server}\"}}")))?;
    let port = front.port().to_string();
    let big = "x".repeat(100_000);
    let set = succeed(Command::new("redis-cli").args(["-p", &port, "set", "k", &big]))?;
    ensure!(set.trim() == "OK", "{set}");
    let got = succeed(Command::new("redis-cli").args(["-s", &socket, "get", "k"]))?;
    ensure!(got.trim() == big);
    let load = ["-p", &port, "-n", "5000", "-c", "20", "-P", "4", "-t", "set,get", "-q"];
    let load = succeed(Command::new("redis-benchmark").args(load))?;
    ensure!(load.contains("GET"), "{load}");
    Ok(())
}

#[test]
fn bulk_comes_through_unchanged() -> Result<()> {
    const BLOCK: usize = 1 << 20;
    const BLOCKS: u32 = 256;
    let block = |number: u32| {
        let mut block = vec![0_u8; BLOCK];
        let mut state = number;
        for byte in &mut block {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = state.to_le_bytes()[3];
        }
        block
    };
    let mut bed = Bed::new()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let server = listener.local_addr()?;
    let front = free()?;
    bed.start(&sections(&format!("\"{front}\""), &format!("servers: {{s: \"{server}\"}}")))?;
    let sender = thread::spawn(move || -> Result<Vec<u8>> {
        let (mut stream, _) = listener.accept()?;
        let mut digest = Sha256::new();
        for number in 0..BLOCKS {
            let block = block(number);
            digest.update(&block);
            stream.write_all(&block)?;
        }
        Ok(digest.finalize().to_vec())
    });
    let mut stream = TcpStream::connect(front)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut digest, mut buffer, mut total) = (Sha256::new(), vec![0; BLOCK], 0);
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            read => {
                total += read;
                digest.update(&buffer[..read]);
            }
        }
    }
    let sent = sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    ensure!(total == BLOCK * BLOCKS as usize, "{total}");
    ensure!(sent == digest.finalize().to_vec());
    drop(stream);
    let log = &bed.log(1)?[0];
    ensure!(log["bytes_down"] == total && log["state"] == "--", "{log}");
    Ok(())
}

#[test]
fn an_inherited_socket_is_served() -> Result<()> {
    let mut bed = Bed::new()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (front, number) = (listener.local_addr()?, inheritable(&listener)?);
    let server = greeter("hello")?;
    let servers = format!("servers: {{s: \"{server}\"}}");
    bed.start(&sections(&format!("\"fd@{number}\""), &servers))?;
    drop(listener);
    ensure!(greeting(front, 5)?.1 == "hello");
    Ok(())
}

/// Services are started with 1024 of them on many systems, which is 512 connections.
#[test]
fn the_agent_has_as_many_descriptors_as_it_can() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, 1024.min(most), most)?;
    let server = greeter("a")?;
    let mut bed = Bed::new()?;
    bed.start(&sections(&format!("\"{}\"", free()?), &format!("servers: {{a: \"{server}\"}}")))?;
    let limits = bed.process_file("limits")?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let words: Vec<_> = line.context("no such limit")?.split_whitespace().collect();
    let most = most.to_string();
    ensure!(words.get(3..5) == Some(&[most.as_str(), most.as_str()]), "{words:?}, not {most}");
    Ok(())
}

#[test]
fn sessions_follow_the_state_of_their_server() -> Result<()> {
    let mut bed = Bed::new()?;
    let (one, other, front) = (greeter("one")?, greeter("two")?, free()?);
    let backend = format!("balance: first, servers: {{s1: \"{one}\", s2: \"{other}\"}}");
    bed.start(&sections(&format!("\"{front}\""), &backend))?;
    let (mut drained, text) = greeting(front, 3)?;
    ensure!(text == "one");
    bed.command(&["server", "set", "b/s1", "--state", "drain"])?;
    testbed::process::wait_until("new sessions go elsewhere", PATIENCE, || {
        ensure!(greeting(front, 3)?.1 == "two");
        Ok(())
    })?;
    drained.write_all(b"still")?;
    let mut echo = [0; 5];
    drained.read_exact(&mut echo)?;
    ensure!(&echo == b"still");
    bed.command(&["server", "set", "b/s1", "--state", "maint"])?;
    let error = drained.read(&mut echo).err().context("it is reset")?;
    ensure!(error.kind() == std::io::ErrorKind::ConnectionReset, "{error}");
    Ok(())
}

#[test]
fn the_log_can_be_haproxys() -> Result<()> {
    let mut bed = Bed::new()?;
    let (server, front) = (greeter("hello")?, free()?);
    bed.start(&sections(&format!("\"{front}\""), &format!("servers: {{s: \"{server}\"}}")))?;
    drop(greeting(front, 5)?);
    bed.log(1)?;
    // The other format, over a reload.
    let text = fs::read_to_string(bed.path("pointsman.yaml"))?.replace("json", "text");
    fs::write(bed.path("pointsman.yaml"), text)?;
    bed.command(&["reload"])?;
    let (stream, _) = greeting(front, 5)?;
    let client = stream.local_addr()?;
    drop(stream);
    let line = testbed::process::wait_until("a line is written", PATIENCE, || {
        let log = fs::read_to_string(bed.path("access.log"))?;
        log.lines()
            .find(|line| line.starts_with(&client.to_string()))
            .map(str::to_owned)
            .context(log)
    })?;
    let words: Vec<&str> = line.0.split(' ').collect();
    ensure!(words.len() == 9, "{words:?}");
    ensure!(words[2..4] == ["t", "b/s"] && words[5..7] == ["5", "--"], "{words:?}");
    Ok(())
}
