//! Keys whose change takes effect only at the next start. Pure.

use crate::model::snapshot::{AttachMode, Snapshot};

/// The configuration to go on with after a reload: `new`, but with the values of `old`
/// where a change needs a restart; and a warning for each such change.
#[must_use]
pub fn hold_back(old: &Snapshot, mut new: Snapshot) -> (Snapshot, Vec<String>) {
    let mut warnings = Vec::new();
    let mut changed = |key: &str, differs: bool| {
        if differs {
            warnings.push(format!("{key} changed; it takes effect when the agent is restarted"));
        }
        differs
    };
    let off = |snapshot: &Snapshot| snapshot.datapath.mode == AttachMode::Off;
    let switched = off(old) != off(&new);
    if changed("datapath.mode from or to off", switched) {
        new.datapath.mode = old.datapath.mode;
        new.datapath.interfaces.clone_from(&old.datapath.interfaces);
    }
    let (was, now) = (&old.datapath, &mut new.datapath);
    if changed("datapath.pin_directory", was.pin_directory != now.pin_directory) {
        now.pin_directory.clone_from(&was.pin_directory);
    }
    if changed("datapath.max_flows", was.max_flows != now.max_flows) {
        now.max_flows = was.max_flows;
    }
    if changed("datapath.max_half_open", was.max_half_open != now.max_half_open) {
        now.max_half_open = was.max_half_open;
    }
    if changed("datapath.max_prefixes", was.max_prefixes != now.max_prefixes) {
        now.max_prefixes = was.max_prefixes;
    }
    if changed("datapath.max_sources", was.max_sources != now.max_sources) {
        now.max_sources = was.max_sources;
    }
    if changed("datapath.sweep_interval", was.sweep_interval != now.sweep_interval) {
        now.sweep_interval = was.sweep_interval;
    }
    if changed("admin.socket", old.admin.socket != new.admin.socket) {
        new.admin.socket.clone_from(&old.admin.socket);
    }
    if changed("admin.listen", old.admin.listen != new.admin.listen) {
        new.admin.listen = old.admin.listen;
    }
    if changed("log.target", old.log.target != new.log.target) {
        new.log.target = old.log.target;
    }
    (new, warnings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{fixture::snapshot, snapshot::LogTarget};

    #[test]
    fn keys_that_need_a_restart_keep_their_values_and_are_named() {
        let old = snapshot(&[("pg1", "10.0.1.20:5432")]);
        let mut new = snapshot(&[("pg1", "10.0.1.20:5432"), ("pg2", "10.0.1.21:5432")]);
        let expected = new.clone();
        new.datapath.pin_directory = "/sys/fs/bpf/other".into();
        new.datapath.max_flows = 7;
        new.datapath.max_half_open = 7;
        new.datapath.max_prefixes = 7;
        new.datapath.max_sources = 7;
        new.datapath.sweep_interval = std::time::Duration::from_secs(9);
        new.datapath.mode = AttachMode::Off;
        new.admin.socket = "/run/other.sock".into();
        new.admin.listen = Some("127.0.0.1:9900".parse().unwrap());
        new.log.target = LogTarget::Journald;
        let (held, warnings) = hold_back(&old, new);
        assert_eq!(held, expected);
        assert_eq!(warnings.len(), 10);
        assert!(warnings[1].starts_with("datapath.pin_directory "));
    }

    #[test]
    fn other_changes_pass_without_a_word() {
        let old = snapshot(&[("pg1", "10.0.1.20:5432")]);
        let mut new = snapshot(&[("pg2", "10.0.1.21:5432")]);
        new.datapath.mode = AttachMode::Generic;
        new.datapath.manage_addresses = true;
        assert_eq!(hold_back(&old, new.clone()), (new, Vec::new()));
    }
}
