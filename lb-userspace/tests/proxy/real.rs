//! Real clients and servers: curl through the proxy to nginx, both ways, by hash.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use crate::{
    rig::{PATIENCE, Rig, free},
    site::Site,
};

/// An nginx that serves and takes files in a directory, and ends with the test.
struct Nginx {
    child: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Nginx {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let address = free();
        let root = directory.path().display();
        let configuration = format!(
            "daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log;\n\
             user root;\nevents {{}}\n\
             http {{ access_log off; client_body_temp_path {root}/tmp;\n\
             server {{ listen {address}; root {root}/files; client_max_body_size 0;\n\
             dav_methods PUT; keepalive_requests 20; }} }}\n"
        );
        let file = directory.path().join("nginx.conf");
        fs::write(&file, configuration).expect("the directory is writable");
        fs::create_dir(directory.path().join("files")).expect("the directory is writable");
        let child = Command::new("nginx")
            .args(["-p", &root.to_string(), "-e", "error.log", "-c"])
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is installed");
        let nginx = Self { child, address, directory };
        for _ in 0..PATIENCE.as_millis() / 10 {
            if TcpStream::connect(address).is_ok() {
                return nginx;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("nginx does not listen");
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM, so that the master takes its worker along.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--max-time", "30"])
        .args(arguments)
        .output()
        .expect("curl is installed");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("curl's words are text")
}

/// Bytes that no compression and no mistake in their order leaves alike.
fn noise(path: &Path, size: usize) {
    let mut random = fastrand::Rng::with_seed(7);
    let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(size).collect();
    fs::write(path, bytes).expect("the directory is writable");
}

#[test]
fn curl_uploads_to_and_downloads_from_nginx() {
    let nginx = Nginx::start();
    let rig = Rig::new("", nginx.address);
    let sent = nginx.path("sent");
    noise(&sent, 24 << 20);
    for (name, version) in [("one", "--http1.1"), ("two", "--http2-prior-knowledge")] {
        let url = format!("http://{}/{name}", rig.address);
        let (from, to) = (sent.display().to_string(), nginx.path(name).display().to_string());
        curl(&[version, "--upload-file", &from, &url]);
        assert!(fs::read(nginx.path("files").join(name)).unwrap() == fs::read(&sent).unwrap());
        curl(&[version, "--output", &to, &url]);
        assert!(fs::read(&to).unwrap() == fs::read(&sent).unwrap(), "{name}");
        // Chunked, which nginx has to be told by the proxy.
        curl(&[version, "--header", "Transfer-Encoding: chunked", "--upload-file", &from, &url]);
        assert!(fs::read(nginx.path("files").join(name)).unwrap() == fs::read(&sent).unwrap());
    }
}

#[test]
fn uploads_and_downloads_are_whole_over_tls() {
    let (nginx, site) = (Nginx::start(), Site::new());
    let rig = Rig::on(&site.tls(), "", &format!("servers: {{s1: \"{}\"}}", nginx.address));
    let sent = nginx.path("sent");
    noise(&sent, 24 << 20);
    let port = rig.address.port();
    let (authority, resolve) =
        (site.file("ca.crt").display().to_string(), format!("www.test:{port}:127.0.0.1"));
    let common = ["--noproxy", "*", "--cacert", &authority, "--resolve", &resolve];
    for (name, version) in [("one", "--http1.1"), ("two", "--http2")] {
        let url = format!("https://www.test:{port}/{name}");
        let (from, to) = (sent.display().to_string(), nginx.path(name).display().to_string());
        curl(&[&common[..], &[version, "--upload-file", &from, &url]].concat());
        assert!(fs::read(nginx.path("files").join(name)).unwrap() == fs::read(&sent).unwrap());
        curl(&[&common[..], &[version, "--output", &to, &url]].concat());
        assert!(fs::read(&to).unwrap() == fs::read(&sent).unwrap(), "{name}");
    }
}

#[test]
fn many_streams_of_many_connections_over_tls_are_all_answered() {
    let (nginx, site) = (Nginx::start(), Site::new());
    fs::write(nginx.path("files").join("page"), "page").expect("the directory is writable");
    let rig = Rig::on(&site.tls(), "", &format!("servers: {{s1: \"{}\"}}", nginx.address));
    let output = Command::new("h2load")
        .args(["-n", "4000", "-c", "10", "-m", "20"])
        .arg(format!("https://{}/page", rig.address))
        .output()
        .expect("h2load is installed");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("4000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
    assert!(said.contains("Application protocol: h2"), "{said}");
}

#[test]
fn a_server_that_closes_connections_now_and_then_costs_no_request() {
    let nginx = Nginx::start();
    fs::write(nginx.path("files").join("page"), "page").expect("the directory is writable");
    let rig = Rig::new("", nginx.address);
    let url = format!("http://{}/page", rig.address);
    // nginx closes after every 20th request.
    let answers = curl(&vec![url.as_str(); 200]);
    assert_eq!(answers, "page".repeat(200));
}
