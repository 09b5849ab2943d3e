//! Faults as operators see them, example configurations, and input that means harm.

use std::path::{Path, PathBuf};

use super::{Loaded, load};

/// The example configurations.
fn examples() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_example_loads_without_a_warning() {
    let files = examples();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let Loaded { warnings, .. } =
            load(&file).unwrap_or_else(|error| panic!("{}:\n{error}", file.display()));
        assert_eq!(warnings, [], "{}", file.display());
    }
}
