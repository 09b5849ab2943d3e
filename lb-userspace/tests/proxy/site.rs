//! Certificates of a test's own, and curl as the client that verifies them.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// An authority and the certificate of a site, in a directory.
pub(crate) struct Site {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Site {
    /// With a certificate for `www.test`.
    pub(crate) fn new() -> Self {
        let directory = TempDir::with_prefix("pointsman-https-").expect("a directory");
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Not that of the site, or its certificate looks self-signed.
        parameters.distinguished_name.push(DnType::CommonName, "Test Authority");
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(parameters, key).expect("an authority");
        fs::write(directory.path().join("ca.crt"), issuer.pem()).expect("it is written");
        let site = Self { directory, issuer };
        site.issue("www.test");
        site
    }

    /// Puts a certificate for `name` in place.
    pub(crate) fn issue(&self, name: &str) {
        self.issue_as("site.pem", name);
    }

    /// Puts a certificate for `name`, a client's or a server's, into a file.
    pub(crate) fn issue_as(&self, file: &str, name: &str) {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new([name.to_owned()]).expect("a good name");
        parameters.distinguished_name.push(DnType::CommonName, name);
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        let path = self.file(file);
        fs::write(&path, certificate.pem() + &key.serialize_pem()).expect("it is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The key `tls` of a bind address.
    pub(crate) fn tls(&self) -> String {
        format!("tls: {{certificates: {}}}", self.file("site.pem").display())
    }

    /// curl on its way to `name`.
    pub(crate) fn curl(&self, address: SocketAddr, name: &str, arguments: &[&str]) -> Child {
        curl(&self.file("ca.crt"), address, &format!("https://{name}"), arguments)
    }
}

/// curl on its way to an origin without a port, which is to be found at `address`.
pub(crate) fn curl(
    authority: &Path,
    address: SocketAddr,
    origin: &str,
    arguments: &[&str],
) -> Child {
    let name = origin.split_once("://").expect("a scheme").1;
    let port = address.port();
    let mut command = Command::new("curl");
    command
        .args(["-sS", "-i", "--noproxy", "*", "--max-time", "10", "--cacert"])
        .arg(authority)
        .args(["--resolve", &format!("{name}:{port}:127.0.0.1")])
        .args(arguments)
        .arg(format!("{origin}:{port}/path?query"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("curl is installed")
}

/// What curl printed, and its exit status.
pub(crate) fn printed(curl: Child) -> (Option<i32>, String) {
    let output = curl.wait_with_output().expect("curl ends");
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    (output.status.code(), format!("{out}{err}"))
}
