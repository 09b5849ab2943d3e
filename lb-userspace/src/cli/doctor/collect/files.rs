//! Reading what the kernel writes in files. What is missing or not understood is none.

use std::{fs, path::Path, str::FromStr};

/// The text of a file, without the white space around it.
pub(super) fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The number that is all of a file.
pub(super) fn number<T: FromStr>(path: impl AsRef<Path>) -> Option<T> {
    read(path)?.parse().ok()
}

/// A number below `/proc/sys`.
pub(super) fn sysctl<T: FromStr>(key: &str) -> Option<T> {
    number(Path::new("/proc/sys").join(key))
}

/// Names of the entries of a directory, in order; none if there is none.
pub(super) fn entries(directory: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// `6.1` of `6.1.0-28-amd64`.
pub(super) fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|character: char| !character.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Bytes of `MemAvailable` in `/proc/meminfo`.
pub(super) fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Two numbers with white space between them.
pub(super) fn pair(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once(char::is_whitespace)?;
    Some((first.parse().ok()?, last.trim().parse().ok()?))
}

/// `8080,9000-9100`: single ports and ranges, inclusive.
pub(super) fn ranges(text: &str) -> Vec<(u16, u16)> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    };
    text.split(',').filter_map(range).collect()
}

/// The word in brackets: `[integrity]` of `none [integrity] confidentiality`.
pub(super) fn chosen(text: &str) -> Option<&str> {
    text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}

/// Most open files that a process may allow itself, in `/proc/PID/limits`.
pub(super) fn descriptors(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let hard = line.split_whitespace().nth(1)?;
    if hard == "unlimited" { Some(u64::MAX) } else { hard.parse().ok() }
}

/// Where a process is in the hierarchies of control groups that limit memory, in
/// `/proc/PID/cgroup`: directory of the hierarchy, name of its limit, path of the group.
pub(super) fn memory_groups(cgroup: &str) -> Vec<(&'static str, &'static str, String)> {
    let group = |line: &str| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let path = path.trim_start_matches('/').to_owned();
        match controllers {
            "" => Some(("/sys/fs/cgroup", "memory.max", path)),
            "memory" => Some(("/sys/fs/cgroup/memory", "memory.limit_in_bytes", path)),
            _ => None,
        }
    };
    cgroup.lines().filter_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_the_kernel_writes_them() {
        assert_eq!(kernel_version("6.1.0-28-amd64"), Some((6, 1)));
        assert_eq!(kernel_version("5.15-rc1"), Some((5, 15)));
        assert_eq!(kernel_version("linux"), None);
        let meminfo = "MemTotal:       8000000 kB\nMemAvailable:    4000000 kB\n";
        assert_eq!(available(meminfo), Some(4_096_000_000));
        assert_eq!(available("MemAvailable: lots"), None);
        assert_eq!(pair("32768\t60999"), Some((32_768, 60_999)));
        assert_eq!(pair("32768"), None);
        assert_eq!(ranges("8080,9000-9100"), [(8080, 8080), (9000, 9100)]);
        assert_eq!(ranges(""), []);
        assert_eq!(chosen("none [integrity] confidentiality"), Some("integrity"));
        assert_eq!(chosen("none integrity"), None);
    }

    #[test]
    fn limits_of_a_process_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             127406               127406               processes\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(descriptors(limits), Some(524_288));
        assert_eq!(descriptors("Max open files 1024 unlimited files"), Some(u64::MAX));
        assert_eq!(descriptors(""), None);
        let groups = memory_groups("9:name=systemd:/a\n4:memory:/b/c\n0::/system.slice/d\n");
        let expected = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "b/c".to_owned()),
            ("/sys/fs/cgroup", "memory.max", "system.slice/d".to_owned()),
        ];
        assert_eq!(groups, expected);
    }
}
