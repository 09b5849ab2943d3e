//! What only drivers know, by `ethtool`, which is also what remedies are made of.

use std::{collections::BTreeMap, process::Command};

/// Whether there is an `ethtool`.
pub(super) fn is_there() -> bool {
    run(&["--version"]).is_some()
}

/// Offloads by name; none if the interface does not say.
pub(super) fn offloads(interface: &str) -> BTreeMap<String, bool> {
    run(&["-k", interface]).map_or_else(BTreeMap::new, |text| switches(&text))
}

/// Receive queues, and most that there can be.
pub(super) fn queues(interface: &str) -> Option<(u32, u32)> {
    let sections = sections(&run(&["-l", interface])?);
    // Those that also send are counted apart.
    let count = |section: &BTreeMap<String, u32>| -> u32 {
        ["RX", "Combined"].iter().filter_map(|name| section.get(*name)).sum()
    };
    Some((count(&sections.current), count(&sections.most))).filter(|(current, _)| *current > 0)
}

/// Packets that each receive queue has room for, and most that it can have.
pub(super) fn ring(interface: &str) -> Option<(u32, u32)> {
    let sections = sections(&run(&["-g", interface])?);
    Some((*sections.current.get("RX")?, *sections.most.get("RX")?))
}

fn run(arguments: &[&str]) -> Option<String> {
    let output = Command::new("ethtool").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What `ethtool -k` prints: `NAME: on`, `NAME: off [fixed]`.
fn switches(text: &str) -> BTreeMap<String, bool> {
    let feature = |line: &str| {
        let (name, value) = line.trim().split_once(": ")?;
        match value.split(' ').next()? {
            "on" => Some((name.to_owned(), true)),
            "off" => Some((name.to_owned(), false)),
            _ => None,
        }
    };
    text.lines().filter_map(feature).collect()
}

/// What `ethtool -l` and `-g` print: maximums, then what is set.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sections {
    most: BTreeMap<String, u32>,
    current: BTreeMap<String, u32>,
}

fn sections(text: &str) -> Sections {
    let mut sections = Sections::default();
    let mut is_current = false;
    for line in text.lines() {
        if line.starts_with("Current hardware settings") {
            is_current = true;
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        let Ok(value) = value.trim().parse() else { continue };
        let section = if is_current { &mut sections.current } else { &mut sections.most };
        section.insert(name.trim().to_owned(), value);
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offloads_are_read_as_ethtool_prints_them() {
        let text = "Features for eth0:\nrx-checksumming: on [fixed]\n\
                    tcp-segmentation-offload: off\n\ttx-tcp-segmentation: off [requested on]\n\
                    large-receive-offload: on\n";
        let found = switches(text);
        assert_eq!(found.get("large-receive-offload"), Some(&true));
        assert_eq!(found.get("tx-tcp-segmentation"), Some(&false));
        assert_eq!(found.len(), 4);
        assert!(switches("").is_empty());
    }

    #[test]
    fn numbers_are_read_as_ethtool_prints_them() {
        let text = "Ring parameters for eth0:\nPre-set maximums:\nRX:\t\t4096\nRX Mini:\tn/a\n\
                    TX:\t\t4096\nCurrent hardware settings:\nRX:\t\t512\nRX Mini:\tn/a\nTX:\t\t256\n";
        let found = sections(text);
        assert_eq!((found.most.get("RX"), found.current.get("RX")), (Some(&4096), Some(&512)));
        assert_eq!((found.most.len(), found.current.len()), (2, 2));
        assert_eq!(sections(""), Sections::default());
    }
}
