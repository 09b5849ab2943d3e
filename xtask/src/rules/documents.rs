//! Rules that tie documents to code: what code defines by name, a document must name.

use super::{Finding, Repository};

/// Every relative link of a document leads to something.
pub(super) fn check(repository: &Repository, findings: &mut Vec<Finding>) {
    for file in repository.files.iter().filter(|file| file.path.ends_with(".md")) {
        for (number, line) in file.lines() {
            for target in links(line) {
                let exists = resolve(&file.path, target).is_some_and(|path| {
                    let inside = format!("{path}/");
                    repository
                        .files
                        .iter()
                        .any(|other| other.path == path || other.path.starts_with(&inside))
                        || is_plain_file(&path)
                });
                if !exists {
                    let message = format!("the link to `{target}` leads nowhere");
                    findings.push(Finding::error(file, number, message));
                }
            }
        }
    }
}

/// Files that exist but are not read by the rules.
fn is_plain_file(path: &str) -> bool {
    ["LICENSE-MIT", "LICENSE-APACHE"].contains(&path)
}

/// Targets of the relative links of a line, without fragments.
fn links(line: &str) -> Vec<&str> {
    line.match_indices("](")
        .filter_map(|(at, _)| line[at + 2..].split(')').next())
        .filter(|target| !target.contains("://") && !target.starts_with(['#', '<']))
        .filter_map(|target| target.split('#').next())
        .collect()
}

/// The path from the root of a link in the document at `from`; none if it leads outside.
fn resolve(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::{super::testing::findings, *};

    #[test]
    fn links_lead_to_files_and_directories() {
        let files = [
            ("docs/a.md", "[b](b.md) [c](../README.md#x) [d](decisions/) [e](https://e.org)\n"),
            ("docs/b.md", "[top](#top)\n"),
            ("README.md", "[licence](LICENSE-MIT)\n"),
            ("docs/decisions/0001.md", ""),
        ];
        assert!(findings(check, &files).is_empty());
    }

    #[test]
    fn a_dead_link_is_found() {
        let found = findings(check, &[("docs/a.md", "\nsee [b](../b.md)\n")]);
        assert_eq!(found, ["error: docs/a.md:2: the link to `../b.md` leads nowhere"]);
        assert_eq!(findings(check, &[("a.md", "[b](../../b.md)\n")]).len(), 1);
    }
}
