//! Writes the agent's configuration for a bed: YAML as an operator would write it.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use lb_common::forward::Forward;

use crate::{
    bed::{Bed, Family},
    fleet,
    servers::port,
};

/// A check fast enough for tests: dead after about 0.2 s, back after about 0.1 s.
pub const FAST_HTTP_CHECK: &str = "{type: http, path: /health, port: 8080, interval: 200ms, \
     fast_interval: 50ms, timeout: 200ms, fall: 2, rise: 2}";

/// The same on the server's own port, by handshake alone.
pub const FAST_TCP_CHECK: &str =
    "{type: tcp, interval: 200ms, fast_interval: 50ms, timeout: 200ms, fall: 2, rise: 2}";

/// One `frontends` entry and its backend of the same name.
#[derive(Clone, Debug)]
pub struct Service {
    /// Name of the frontend and of the backend.
    pub name: String,
    /// VIP.
    pub vip: SocketAddr,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// `forward` of the frontend.
    pub forward: Forward,
    /// Further keys of the frontend as YAML, such as `limits: {packets: {rate: 9}}`.
    pub frontend_options: Vec<String>,
    /// Further keys of the backend as YAML, such as `on_down: keep`.
    pub options: Vec<String>,
    /// `check` of the backend as YAML; none if empty.
    pub check: String,
    /// Names and values (an address, or a YAML mapping) of the servers.
    pub servers: Vec<(String, String)>,
}

/// A whole configuration file.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// `datapath.interfaces`.
    pub interfaces: Vec<String>,
    /// `datapath.mode`.
    pub mode: String,
    /// `datapath.pin_directory`.
    pub pin_directory: PathBuf,
    /// Further keys of `datapath` as YAML, such as `sweep_interval: 1s`.
    pub datapath_options: Vec<String>,
    /// `admin.socket`.
    pub socket: PathBuf,
    /// `log.access.target`, a file, as JSON lines.
    pub access_log: PathBuf,
    /// What is served.
    pub services: Vec<Service>,
}

/// TCP services of the embedded servers and their VIP ports.
pub const TCP_SERVICES: [(&str, u16, u16); 4] = [
    ("line", port::LINE, port::LINE),
    ("digest", port::DIGEST, port::DIGEST),
    ("source", port::SOURCE, port::SOURCE),
    ("web", 80, port::HTTP),
];

impl Service {
    /// A service of embedded servers `s0` to `sN` of a bed.
    #[must_use]
    pub fn embedded(
        bed: &Bed,
        (name, vip_port, server_port): (&str, u16, u16),
        protocol: &'static str,
        family: Family,
    ) -> Self {
        let suffix = if family == Family::V4 { "4" } else { "6" };
        let servers = (0_u8..).zip(&bed.servers).map(|(index, _)| {
            let address: IpAddr = Bed::server_address(index, family);
            (fleet::name(index), quoted(SocketAddr::new(address, server_port)))
        });
        Self {
            name: format!("{name}{suffix}"),
            vip: Bed::vip(family, vip_port),
            protocol,
            forward: Forward::Nat,
            frontend_options: Vec::new(),
            options: Vec::new(),
            check: FAST_HTTP_CHECK.into(),
            servers: servers.collect(),
        }
    }

    /// Every service of the embedded servers, in both families.
    #[must_use]
    pub fn all_embedded(bed: &Bed) -> Vec<Self> {
        let families = Family::BOTH.into_iter();
        families
            .flat_map(|family| {
                let udp = ("udp", port::UDP, port::UDP);
                let mut services: Vec<Self> = TCP_SERVICES
                    .into_iter()
                    .map(|service| Self::embedded(bed, service, "tcp", family))
                    .collect();
                services.push(Self::embedded(bed, udp, "udp", family));
                services
            })
            .collect()
    }
}

impl Configuration {
    /// The service of this name, to change it.
    ///
    /// # Panics
    /// When the test asks for a service that it did not put in.
    pub fn service(&mut self, name: &str) -> &mut Service {
        let found = self.services.iter_mut().find(|service| service.name == name);
        found.unwrap_or_else(|| panic!("the configuration has no service {name}"))
    }

    /// The file's text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!(
            "datapath:\n  interfaces: [{}]\n  mode: {}\n  pin_directory: {}\n",
            self.interfaces.join(", "),
            self.mode,
            self.pin_directory.display()
        );
        for option in &self.datapath_options {
            line(&mut text, &format!("  {option}"));
        }
        line(&mut text, &format!("admin: {{socket: {}}}", self.socket.display()));
        let log = format!(
            "log: {{target: stderr, access: {{target: {}, format: json}}}}",
            self.access_log.display()
        );
        line(&mut text, &log);
        line(&mut text, "frontends:");
        for Service { name, vip, protocol, forward, frontend_options, .. } in &self.services {
            let bind = format!("[{{address: {}, protocol: {protocol}}}]", quoted(*vip));
            let forward = forward.name();
            let mut keys = format!("mode: l4, bind: {bind}, forward: {forward}, backend: {name}");
            for option in frontend_options {
                keys.push_str(", ");
                keys.push_str(option);
            }
            line(&mut text, &format!("  {name}: {{{keys}}}"));
        }
        line(&mut text, "backends:");
        for service in &self.services {
            line(&mut text, &format!("  {}:", service.name));
            line(&mut text, "    balance: maglev");
            for option in &service.options {
                line(&mut text, &format!("    {option}"));
            }
            if !service.check.is_empty() {
                line(&mut text, &format!("    check: {}", service.check));
            }
            line(&mut text, "    servers:");
            for (name, value) in &service.servers {
                line(&mut text, &format!("      {name}: {value}"));
            }
        }
        text
    }
}

fn line(text: &mut String, line: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{line}");
}

/// An address as YAML: quoted, for the colons.
#[must_use]
pub fn quoted(address: SocketAddr) -> String {
    format!("\"{address}\"")
}
