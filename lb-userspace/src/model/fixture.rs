//! A small configuration for unit tests.

use std::{collections::BTreeMap, time::Duration};

use super::{
    access::AccessList,
    backend::ProxySettings,
    frontend::{Frontend, L4Frontend},
    name::Name,
    snapshot::{
        Admin, AttachMode, Backend, Check, CheckKind, Datapath, FlowTimeouts, HashBy, Log,
        LogTarget, OnDown, Server, Snapshot, SynCookies,
    },
    state::ServerId,
};

/// A name that is known to be one.
pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("tests use good names")
}

/// The place of `server` in the backend `pg`.
pub(crate) fn pg(server: &str) -> ServerId {
    (name("pg"), name(server))
}

/// Frontend `postgres` on 10.0.0.100:5432/tcp with the checked backend `pg` of these
/// servers, by name and address, of weight 100.
pub(crate) fn snapshot(servers: &[(&str, &str)]) -> Snapshot {
    let servers = servers.iter().map(|(server, address)| {
        let address = address.parse().expect("tests use good addresses");
        (name(server), Server { address, weight: 100, backup: false, max_connections: None })
    });
    let backend = Backend {
        hash: HashBy::Tuple,
        spread: crate::model::snapshot::Spread::Hashed,
        refuse_when_full: false,
        affinity: None,
        on_down: OnDown::Reset,
        check: Some(check()),
        proxy: ProxySettings::default(),
        servers: servers.collect(),
    };
    let address = "10.0.0.100:5432".parse().expect("is an address");
    let frontend = Frontend::L4(L4Frontend::of_one_vip(address, name("pg")));
    Snapshot {
        datapath: datapath(),
        admin: Admin { socket: "/run/pointsman/admin.sock".into(), listen: None },
        log: Log { target: LogTarget::Stderr, access: None },
        frontends: BTreeMap::from([(name("postgres"), frontend)]),
        backends: BTreeMap::from([(name("pg"), backend)]),
    }
}

fn check() -> Check {
    Check {
        kind: CheckKind::Tcp,
        interval: Duration::from_secs(2),
        fast_interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        fall: 3,
        rise: 2,
        port: None,
        via: super::snapshot::Via::Server,
    }
}

fn datapath() -> Datapath {
    let minute = Duration::from_secs(60);
    Datapath {
        interfaces: vec!["eth0".into()],
        mode: AttachMode::Auto,
        pin_directory: lb_common::abi::PIN_DIRECTORY.into(),
        manage_addresses: false,
        answer_echo: true,
        syn_cookies: SynCookies::Off,
        syn_cookie_threshold: 50,
        snat_ports: (1024, 32767),
        gue_port: 6080,
        max_flows: 1000,
        max_half_open: 1000,
        max_prefixes: 1000,
        max_sources: 1000,
        access: AccessList::default(),
        timeouts: FlowTimeouts {
            half_open: minute,
            established: minute,
            closing: minute,
            closed: minute,
            udp: minute,
        },
        sweep_interval: Duration::from_secs(5),
    }
}
