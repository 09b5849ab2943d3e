//! Where things are in the repository, and what the repository pins.

use std::path::{Path, PathBuf};

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    // The manifest directory is ROOT/xtask, fixed when this program was compiled.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |directory| root().join(directory))
}

/// The Rust release that `rust-toolchain.toml` names.
pub(crate) fn toolchain() -> &'static str {
    const FILE: &str = include_str!("../../rust-toolchain.toml");
    FILE.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap_or("").trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_toolchain_is_a_release_number() {
        assert_eq!(toolchain().split('.').filter_map(|part| part.parse::<u32>().ok()).count(), 3);
    }

    #[test]
    fn the_root_holds_the_workspace_manifest() {
        let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[workspace]"));
    }
}
