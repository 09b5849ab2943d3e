//! TLS that ends at the proxy, with openssl and curl as clients.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};

use crate::bed::{Bed, free, herald, said, succeed, text};

/// An agent that ends TLS in front of a greeter, with these keys beside `certificates`.
fn start(bed: &mut Bed, certificates: &str, more: &str) -> Result<SocketAddr> {
    let (address, server) = (free()?, herald("hello\n")?);
    bed.start(&format!(
        "frontends:\n  t:\n    mode: tcp\n    backend: b\n    bind:\n      \
         - {{address: \"{address}\", tls: {{certificates: {certificates}{more}}}}}\n\
         backends: {{b: {{servers: {{s: \"{server}\"}}}}}}\n"
    ))?;
    Ok(address)
}

/// What `openssl s_client` says of a connection until the server has no more to say, and
/// whether it was made.
fn s_client(bed: &Bed, address: SocketAddr, arguments: &[&str]) -> Result<(bool, String)> {
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-ign_eof", "-connect", &address.to_string()])
        .args(["-verify_return_error", "-CAfile"])
        .arg(bed.authority.certificate())
        .args(arguments)
        .stdin(Stdio::null());
    let output = command.output()?;
    Ok((output.status.success(), said(&output)))
}

#[test]
fn the_certificate_follows_the_server_name() -> Result<()> {
    let mut bed = Bed::new()?;
    fs::create_dir(bed.path("certs"))?;
    bed.authority.issue("certs/0-default.pem", &["default.test"])?;
    bed.authority.issue("certs/exact.pem", &["www.example.test"])?;
    bed.authority.issue("certs/wild.pem", &["*.example.test"])?;
    let directory = text(&bed.path("certs"));
    let address = start(&mut bed, &directory, "")?;
    let check = |asked: &str, expected: &str| {
        let (made, said) =
            s_client(&bed, address, &["-servername", asked, "-verify_hostname", expected])?;
        ensure!(made && said.contains("Verify return code: 0"), "{asked} {expected}: {said}");
        let subject = said.lines().find(|line| line.starts_with("subject=")).unwrap_or_default();
        ensure!(
            subject.ends_with(expected.trim_start_matches("x.")) || asked == expected,
            "{said}"
        );
        Ok(())
    };
    check("www.example.test", "www.example.test")?;
    check("api.example.test", "api.example.test")?;
    check("other.test", "default.test")
}

#[test]
fn old_versions_and_weak_suites_are_not_spoken() -> Result<()> {
    let mut bed = Bed::new()?;
    let certificate = bed.authority.issue("site.pem", &["www.test"])?;
    let suites = ", ciphers: [TLS_AES_128_GCM_SHA256, ECDHE-ECDSA-AES128-GCM-SHA256]";
    let address = start(&mut bed, &text(&certificate), suites)?;
    for (arguments, expected) in [
        (&["-tls1_3"][..], Some("TLS_AES_128_GCM_SHA256")),
        (&["-tls1_2"], Some("ECDHE-ECDSA-AES128-GCM-SHA256")),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"], None),
        (&["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"], None),
        (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], None),
        (&["-tls1", "-cipher", "ALL:@SECLEVEL=0"], None),
    ] {
        let (made, said) = s_client(&bed, address, arguments)?;
        ensure!(made == expected.is_some(), "{arguments:?}: {said}");
        ensure!(expected.is_none_or(|suite| said.contains(suite)), "{arguments:?}: {said}");
    }
    let reasons = bed.log(6)?;
    let of = |reason: &str| reasons.iter().filter(|line| line["reason"] == reason).count();
    ensure!(of("tls_incompatible") == 4, "{reasons:?}");
    Ok(())
}

#[test]
fn any_worker_resumes_a_session() -> Result<()> {
    let mut bed = Bed::new()?;
    let certificate = bed.authority.issue("site.pem", &["www.test"])?;
    let address = start(&mut bed, &text(&certificate), "")?;
    for version in ["-tls1_2", "-tls1_3"] {
        let session = text(&bed.path("session.pem"));
        // Reads until the greeting, behind which TLS 1.3 has sent its tickets.
        let (made, said) =
            s_client(&bed, address, &[version, "-servername", "www.test", "-sess_out", &session])?;
        ensure!(made && said.contains("New, TLSv1."), "{said}");
        for _ in 0..6 {
            let (made, said) = s_client(
                &bed,
                address,
                &[version, "-servername", "www.test", "-sess_in", &session],
            )?;
            ensure!(made && said.contains("Reused, TLSv1."), "{version}: {said}");
        }
    }
    Ok(())
}

#[test]
fn clients_show_certificates() -> Result<()> {
    let mut bed = Bed::new()?;
    let certificate = bed.authority.issue("site.pem", &["www.test"])?;
    let client = text(&bed.authority.issue("alice.pem", &["alice.test"])?);
    let ca = text(&bed.authority.certificate());
    let address = start(&mut bed, &text(&certificate), &format!(", client_auth: {{ca: {ca}}}"))?;
    let greeted = |arguments: &[&str]| {
        // A client of TLS 1.3 is told afterwards that it is refused: what counts is whether
        // anything comes through.
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-connect", &address.to_string()]).args(arguments);
        let output = command.stdin(Stdio::null()).output()?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&output.stdout).contains("hello"))
    };
    ensure!(greeted(&["-cert", &client, "-key", &client])?, "{}", bed.said());
    ensure!(!greeted(&[])?);
    let stranger = Bed::new()?;
    let mallory = text(&stranger.authority.issue("mallory.pem", &["alice.test"])?);
    ensure!(!greeted(&["-cert", &mallory, "-key", &mallory])?);
    let log = bed.log(3)?;
    let reasons: Vec<_> = log.iter().map(|line| line["reason"].as_str().unwrap_or("")).collect();
    ensure!(reasons.contains(&"tls_no_certificate"), "{reasons:?}");
    ensure!(reasons.contains(&"tls_bad_certificate"), "{reasons:?}");
    Ok(())
}

#[test]
fn an_ocsp_response_is_stapled() -> Result<()> {
    let mut bed = Bed::new()?;
    let certificate = bed.authority.issue("site.pem", &["www.test"])?;
    let serial = succeed(
        Command::new("openssl").args(["x509", "-noout", "-serial", "-in"]).arg(&certificate),
    )?;
    let serial = serial.trim().trim_start_matches("serial=");
    fs::write(bed.path("index"), format!("V\t400101000000Z\t\t{serial}\tunknown\t/CN=x\n"))?;
    let ca = bed.authority.certificate();
    let key: PathBuf = bed.path("ca.key");
    succeed(
        Command::new("openssl")
            .args(["ocsp", "-index"])
            .arg(bed.path("index"))
            .arg("-rsigner")
            .arg(&ca)
            .arg("-rkey")
            .arg(&key)
            .arg("-CA")
            .arg(&ca)
            .arg("-issuer")
            .arg(&ca)
            .arg("-cert")
            .arg(&certificate)
            .args(["-ndays", "1", "-respout"])
            .arg(bed.path("site.pem.ocsp")),
    )?;
    let address = start(&mut bed, &text(&certificate), "")?;
    let (made, said) = s_client(&bed, address, &["-status"])?;
    ensure!(made && said.contains("OCSP Response Status: successful"), "{said}");
    ensure!(said.contains("Cert Status: good"), "{said}");
    Ok(())
}

#[test]
fn files_that_do_not_work_are_said_at_the_start() -> Result<()> {
    let mut bed = Bed::new()?;
    let certificate = bed.path("broken.pem");
    fs::write(&certificate, "-----BEGIN CERTIFICATE-----\n")?;
    let error = start(&mut bed, &text(&certificate), "").unwrap_err();
    let message = format!("{error:#}");
    ensure!(message.contains("frontends.t.bind[0].tls"), "{message}");
    ensure!(message.contains("broken.pem is not good PEM"), "{message}");
    Ok(())
}
