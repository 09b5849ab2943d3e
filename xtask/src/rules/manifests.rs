//! Rules about the manifests: who may depend on whom, and where versions are.

use super::{File, Finding, Repository};

/// Crates of the workspace that a crate may depend on.
const WORKSPACE: [(&str, &[&str]); 5] = [
    ("lb-common", &[]),
    ("lb-ebpf", &["lb-common"]),
    // The agent gets the XDP programs as bytes, built by its build script.
    ("lb-userspace", &["lb-common"]),
    ("tests", &["lb-common", "lb-userspace"]),
    // Must start where the data plane can not be built yet.
    ("xtask", &[]),
];

/// Crates that may depend on these external crates and no others; the half that runs in
/// the kernel stays small.
const EXTERNAL: [(&str, &[&str]); 2] =
    [("lb-common", &["aya"]), ("lb-ebpf", &["aya-ebpf", "aya-log-ebpf", "network-types"])];

const MEMBERS: [&str; 3] = ["lb-common", "lb-ebpf", "lb-userspace"];

pub(super) fn check(repository: &Repository, findings: &mut Vec<Finding>) {
    for file in &repository.files {
        let Some(member) = file.path.strip_suffix("/Cargo.toml") else { continue };
        if !file.text.contains("[lints]\nworkspace = true") {
            findings.push(Finding::error(file, 0, "lacks `[lints] workspace = true`"));
        }
        for dependency in dependencies(file) {
            check_dependency(file, member, &dependency, findings);
        }
    }
}

fn check_dependency(
    file: &File,
    member: &str,
    dependency: &Dependency<'_>,
    findings: &mut Vec<Finding>,
) {
    let Dependency { name, line, from_workspace, for_tests } = *dependency;
    let mut error = |message| findings.push(Finding::error(file, line, message));
    if !from_workspace {
        error(format!("`{name}`: versions are in the root manifest; write `workspace = true`"));
    }
    let of = |table: &[(&str, &'static [&'static str])]| {
        table.iter().find(|(crate_name, _)| *crate_name == member).map(|(_, names)| *names)
    };
    if MEMBERS.contains(&name) {
        match of(&WORKSPACE) {
            Some(allowed) if allowed.contains(&name) => {}
            Some(_) => error(format!("`{member}` must not depend on `{name}`")),
            None => error(format!("the rules do not know the crate `{member}`: add it to them")),
        }
    } else if !for_tests && of(&EXTERNAL).is_some_and(|allowed| !allowed.contains(&name)) {
        error(format!("`{member}` stays small: `{name}` is not among its dependencies"));
    }
}

#[derive(Clone, Copy)]
struct Dependency<'a> {
    name: &'a str,
    line: usize,
    from_workspace: bool,
    for_tests: bool,
}

/// The dependencies of a manifest; each is on a line of its own, or a table.
fn dependencies(file: &File) -> Vec<Dependency<'_>> {
    let mut found: Vec<Dependency<'_>> = Vec::new();
    let mut section = "";
    for (line, text) in file.lines() {
        if let Some(header) = text.strip_prefix('[') {
            section = header.trim_end_matches(']');
            if let Some((kind, name)) = section.rsplit_once("dependencies.") {
                let for_tests = kind.ends_with("dev-");
                found.push(Dependency { name, line, from_workspace: false, for_tests });
            }
            continue;
        }
        if section.ends_with("dependencies") {
            if let Some((name, rest)) = text.split_once('=') {
                let (name, suffix) = name.trim().split_once('.').unwrap_or((name.trim(), ""));
                let from_workspace = suffix == "workspace" || rest.contains("workspace = true");
                let for_tests = section.ends_with("dev-dependencies");
                found.push(Dependency { name, line, from_workspace, for_tests });
            }
        } else if section.contains("dependencies.")
            && text.trim() == "workspace = true"
            && let Some(last) = found.last_mut()
        {
            last.from_workspace = true;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{super::testing::findings, *};

    fn check_one(path: &str, dependencies: &str) -> Vec<String> {
        let text =
            format!("[package]\nname = \"x\"\n\n{dependencies}\n[lints]\nworkspace = true\n");
        findings(check, &[(path, &text)])
    }

    #[test]
    fn good_manifests_have_no_findings() {
        let good = "[dependencies]\nlb-common = { workspace = true, features = [\"user\"] }\n\
                    aya.workspace = true\n[dev-dependencies]\nproptest = { workspace = true }\n\
                    [dependencies.serde]\nworkspace = true\n";
        assert!(check_one("lb-userspace/Cargo.toml", good).is_empty());
    }

    #[test]
    fn versions_belong_to_the_root() {
        for bad in [
            "[dependencies]\nserde = \"1\"\n",
            "[dev-dependencies]\nserde = { version = \"1\" }\n",
            "[dependencies.serde]\nversion = \"1\"\n",
        ] {
            assert_eq!(check_one("lb-userspace/Cargo.toml", bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn crates_depend_in_one_direction() {
        let on = |name: &str| format!("[dependencies]\n{name} = {{ workspace = true }}\n");
        assert!(check_one("tests/Cargo.toml", &on("lb-userspace")).is_empty());
        assert_eq!(check_one("lb-common/Cargo.toml", &on("lb-ebpf")).len(), 1);
        assert_eq!(check_one("lb-userspace/Cargo.toml", &on("lb-ebpf")).len(), 1);
        assert_eq!(check_one("xtask/Cargo.toml", &on("lb-common")).len(), 1);
    }

    #[test]
    fn the_kernel_half_stays_small() {
        let on = "dependencies]\nserde = { workspace = true }\n";
        assert_eq!(check_one("lb-ebpf/Cargo.toml", &format!("[{on}")).len(), 1);
        assert_eq!(check_one("lb-common/Cargo.toml", &format!("[{on}")).len(), 1);
        assert!(check_one("lb-common/Cargo.toml", &format!("[dev-{on}")).is_empty());
    }

    #[test]
    fn lints_of_the_workspace_apply_everywhere() {
        let found = findings(check, &[("xtask/Cargo.toml", "[package]\nname = \"xtask\"\n")]);
        assert_eq!(found.len(), 1);
    }
}
