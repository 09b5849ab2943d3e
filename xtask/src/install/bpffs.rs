//! The BPF file system, where maps and programs are pinned. systemd mounts it; machines
//! without systemd (containers, small virtual machines) often do not have it.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail};

use crate::process;

const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Mounts the BPF file system unless it is mounted.
///
/// # Errors
/// We are not root, or the kernel refused.
pub(crate) fn ensure() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").context("could not read /proc/mounts")?;
    if is_mounted(&mounts) {
        return Ok(());
    }
    if !process::is_root() {
        bail!("no BPF file system; run as root:  mount -t bpf bpf {MOUNT_POINT}");
    }
    println!("setup: mounting the BPF file system on {MOUNT_POINT}");
    process::run(Command::new("mount").args(["-t", "bpf", "bpf", MOUNT_POINT]))
}

fn is_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(MOUNT_POINT) && fields.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bpf_mount_in_the_right_place_counts() {
        assert!(is_mounted("sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n"));
        assert!(!is_mounted("bpf /run/other bpf rw 0 0\n"));
        assert!(!is_mounted("tmpfs /sys/fs/bpf tmpfs rw 0 0\n"));
    }
}
