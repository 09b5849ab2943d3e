//! Rules that tie documents to code: what code defines by name, a document must name.

use super::{File, Finding, Repository};

/// What code defines by name, and the document that must name it.
struct Tie {
    /// The source that defines the names.
    source: &'static str,
    /// The name that a line of the source defines, if any.
    name: fn(&str) -> Option<&str>,
    /// What is defined, for the message.
    what: &'static str,
    /// The document.
    document: &'static str,
}

const TIES: [Tie; 2] = [
    Tie { source: "lb-common/src/abi.rs", name: map_name, what: "map", document: "docs/maps.md" },
    Tie {
        source: "lb-common/src/drop_reason.rs",
        name: drop_reason,
        what: "drop reason",
        document: "docs/maps.md",
    },
];

/// Crates whose modules the code map lists.
const MAPPED: [&str; 3] = ["lb-common/src/", "lb-ebpf/src/", "lb-userspace/src/"];
const CODE_MAP: &str = "docs/ARCHITECTURE.md";

pub(super) fn check(repository: &Repository, findings: &mut Vec<Finding>) {
    check_links(repository, findings);
    check_ties(repository, findings);
    check_code_map(repository, findings);
    check_quotations(repository, findings);
}

/// Every relative link of a document leads to something.
fn check_links(repository: &Repository, findings: &mut Vec<Finding>) {
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

/// Every name that [`TIES`] speaks of is in its document, as code.
fn check_ties(repository: &Repository, findings: &mut Vec<Finding>) {
    for tie in TIES {
        let Some(source) = repository.file(tie.source) else { continue };
        let document = repository.file(tie.document);
        for (number, line) in source.lines() {
            if let Some(name) = (tie.name)(line)
                && !document.is_some_and(|document| names(document, name))
            {
                let Tie { what, document, .. } = tie;
                let message = format!("{document} does not name the {what} `{name}`");
                findings.push(Finding::error(source, number, message));
            }
        }
    }
}

/// Every module of the product's crates is on the code map.
fn check_code_map(repository: &Repository, findings: &mut Vec<Finding>) {
    let map = repository.file(CODE_MAP);
    let mut last = String::new();
    for file in repository.sources() {
        let Some((crate_path, path)) = MAPPED
            .iter()
            .find_map(|&crate_path| Some((crate_path, file.path.strip_prefix(crate_path)?)))
        else {
            continue;
        };
        let name = path.split('/').next().unwrap_or(path);
        let module = format!("{crate_path}{name}");
        if ["lib.rs", "main.rs", "bin"].contains(&name) || module == last {
            continue;
        }
        let name = name.strip_suffix(".rs").unwrap_or(name);
        if !map.is_some_and(|map| names(map, name)) {
            let message = format!("{CODE_MAP} does not name the module `{name}`");
            findings.push(Finding::error(file, 0, message));
        }
        last = module;
    }
}

/// A block of code after a line `<!-- PATH -->` is the file at that path, word for word.
fn check_quotations(repository: &Repository, findings: &mut Vec<Finding>) {
    for file in repository.files.iter().filter(|file| file.path.ends_with(".md")) {
        for (at, _) in file.text.match_indices("\n<!-- ") {
            let Some((path, rest)) = file.text[at + 6..].split_once(" -->\n```") else { continue };
            let quoted = rest.split_once('\n').and_then(|(_, code)| code.split_once("```"));
            let wanted = repository.file(path).map(|quoted| quoted.text.as_str());
            if quoted.map(|(code, _)| code) != wanted {
                let line = file.text[..=at].matches('\n').count() + 1;
                let message = format!("the block below is not what is in `{path}`");
                findings.push(Finding::error(file, line, message));
            }
        }
    }
}

/// Whether a document has the name as code, alone or at the start of some.
fn names(document: &File, name: &str) -> bool {
    document.text.match_indices(name).any(|(at, _)| {
        let before = document.text[..at].chars().next_back();
        let after = document.text[at + name.len()..].chars().next();
        let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        before == Some('`') && !part(after)
    })
}

/// `    pub const VIPS: &str = "VIPS";` defines `VIPS`.
fn map_name(line: &str) -> Option<&str> {
    let (constant, text) = line.trim().strip_prefix("pub const ")?.split_once(": &str = \"")?;
    let name = text.strip_suffix("\";")?;
    (name == constant).then_some(name)
}

/// `    NoFlow = 4, "no_flow";` defines `no_flow`.
fn drop_reason(line: &str) -> Option<&str> {
    let (_, rest) = line.trim().split_once(" = ")?;
    let (number, text) = rest.split_once(", \"")?;
    number.parse::<u32>().ok()?;
    text.strip_suffix("\";")
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
    fn every_map_is_in_the_document() {
        let abi = "pub const ABI: u32 = 1;\npub const DIR: &str = \"/sys\";\n    pub const VIPS: &str = \"VIPS\";\n";
        let source = ("lb-common/src/abi.rs", abi);
        let map = ("docs/ARCHITECTURE.md", "`abi`\n");
        assert!(findings(check, &[source, map, ("docs/maps.md", "## `VIPS`\n")]).is_empty());
        for bad in ["VIPS\n", "`VIPS2`\n", ""] {
            let found = findings(check, &[source, map, ("docs/maps.md", bad)]);
            let wanted = "error: lb-common/src/abi.rs:3: docs/maps.md does not name the map `VIPS`";
            assert_eq!(found, [wanted]);
        }
        assert_eq!(findings(check, &[source, map]).len(), 1);
    }

    #[test]
    fn every_drop_reason_is_in_the_document() {
        let source = ("lb-common/src/drop_reason.rs", "    NoFlow = 4, \"no_flow\";\n");
        let map = ("docs/ARCHITECTURE.md", "`drop_reason`\n");
        assert!(findings(check, &[source, map, ("docs/maps.md", "| `no_flow` |\n")]).is_empty());
        assert_eq!(findings(check, &[source, map, ("docs/maps.md", "| no_flow |\n")]).len(), 1);
    }

    #[test]
    fn quoted_files_are_quoted_word_for_word() {
        let quoting = |code: &str| format!("# A\n\n<!-- configs/a.yaml -->\n```yaml\n{code}```\n");
        let check_one = |document: &str| {
            findings(check, &[("README.md", document), ("configs/a.yaml", "a: 1\nb: 2\n")])
        };
        assert!(check_one(&quoting("a: 1\nb: 2\n")).is_empty());
        let found = check_one(&quoting("a: 1\n"));
        assert_eq!(
            found,
            ["error: README.md:3: the block below is not what is in `configs/a.yaml`"]
        );
        assert_eq!(check_one(&quoting("").replace("a.yaml", "b.yaml")).len(), 1);
        assert!(check_one("# A\n\n<!-- a remark -->\n").is_empty());
    }

    #[test]
    fn every_module_is_on_the_code_map_once() {
        let files = [
            ("lb-userspace/src/admin/mod.rs", ""),
            ("lb-userspace/src/admin/socket.rs", ""),
            ("lb-userspace/src/app.rs", ""),
            ("lb-userspace/src/lib.rs", ""),
            ("docs/ARCHITECTURE.md", "`app.rs` wires\n"),
        ];
        let found = findings(check, &files);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("the module `admin`"), "{found:?}");
    }

    #[test]
    fn a_dead_link_is_found() {
        let found = findings(check, &[("docs/a.md", "\nsee [b](../b.md)\n")]);
        assert_eq!(found, ["error: docs/a.md:2: the link to `../b.md` leads nowhere"]);
        assert_eq!(findings(check, &[("a.md", "[b](../../b.md)\n")]).len(), 1);
    }
}
