//! Whether this machine, and the privilege the agent has on it, can carry the data plane.
//! Asked before anything is touched, so that the answer is clear and nothing is half done.

use std::{fs, io, path::Path};

use aya::util::KernelVersion;

use super::error::HostError;

const BTF: &str = "/sys/kernel/btf/vmlinux";
const STATUS: &str = "/proc/self/status";

/// Bits of capability sets (`linux/capability.h`).
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// Checks privilege and type information.
///
/// # Errors
/// What is missing.
pub fn require() -> Result<(), HostError> {
    let status = fs::read_to_string(STATUS).unwrap_or_default();
    let missing = missing_capabilities(effective(&status).unwrap_or(0));
    if !missing.is_empty() {
        return Err(HostError::Privilege { missing: missing.join(" ") });
    }
    require_xdp_links(KernelVersion::current().ok())?;
    require_btf(Path::new(BTF))
}

/// Links to XDP programs came with Linux 5.9, batches of arrays with 5.6, everything the
/// data plane calls with 5.15. A version that can not be read is taken to be new.
fn require_xdp_links(version: Option<KernelVersion>) -> Result<(), HostError> {
    match version {
        Some(version) if version < KernelVersion::new(5, 15, 0) => {
            Err(HostError::NoXdp { source: io::Error::from_raw_os_error(libc::EOPNOTSUPP) })
        }
        _ => Ok(()),
    }
}

fn require_btf(path: &Path) -> Result<(), HostError> {
    if path.exists() { Ok(()) } else { Err(HostError::NoBtf { path: path.to_owned() }) }
}

/// The effective set in `/proc/PID/status`.
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// `CAP_SYS_ADMIN` includes `CAP_BPF` and `CAP_PERFMON` (capabilities(7)).
fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    let has = |bit: u32| effective >> bit & 1 == 1;
    let wanted = [
        ("CAP_BPF", has(BPF) || has(SYS_ADMIN)),
        ("CAP_NET_ADMIN", has(NET_ADMIN)),
        ("CAP_PERFMON", has(PERFMON) || has(SYS_ADMIN)),
    ];
    wanted.into_iter().filter(|(_, held)| !held).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_lacks_all_three() {
        let status = "Name:\tpointsman\nCapEff:\t0000000000000000\n";
        let missing = missing_capabilities(effective(status).expect("present"));
        assert_eq!(missing, ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
    }

    #[test]
    fn system_administration_includes_bpf() {
        assert_eq!(missing_capabilities(1 << SYS_ADMIN), ["CAP_NET_ADMIN"]);
        let exact = 1 << NET_ADMIN | 1 << PERFMON | 1 << BPF;
        assert!(missing_capabilities(exact).is_empty());
    }

    #[test]
    fn a_kernel_that_is_too_old_is_told_which_is_not() {
        for (major, minor, patch) in [(4, 8, 0), (5, 10, 250), (5, 14, 21)] {
            let error = require_xdp_links(Some(KernelVersion::new(major, minor, patch)))
                .expect_err("too old");
            assert!(error.to_string().contains("use Linux 5.15 or later"), "{error}");
        }
    }

    #[test]
    fn a_kernel_that_is_new_enough_or_says_nothing_is_taken() {
        for (major, minor) in [(5, 15), (6, 1), (7, 0)] {
            assert!(require_xdp_links(Some(KernelVersion::new(major, minor, 0))).is_ok());
        }
        assert!(require_xdp_links(None).is_ok());
    }

    #[test]
    fn a_kernel_without_btf_is_named() {
        let error = require_btf(Path::new("/nonexistent/btf")).expect_err("absent");
        assert!(error.to_string().contains("CONFIG_DEBUG_INFO_BTF=y"), "{error}");
    }
}
