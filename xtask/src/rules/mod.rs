//! Rules of the repository that no compiler checks, as functions from its files to
//! findings. Pure apart from [`Repository::read`], so each rule has tests on good and bad
//! samples. A rule that can not be checked by machine belongs in `docs/`, not here.

mod documents;
mod imports;
mod manifests;
mod source;

use std::{fmt, fs, path::Path};

use anyhow::{Context, Result};

/// The text files of the repository.
pub(crate) struct Repository {
    /// Every file the rules look at.
    pub(crate) files: Vec<File>,
}

/// One text file.
pub(crate) struct File {
    /// Path from the root, with `/`.
    pub(crate) path: String,
    /// What is in it.
    pub(crate) text: String,
}

/// Whether a finding fails the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// Worth a look.
    Warning,
    /// Against a rule.
    Error,
}

/// One place that is against a rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Whether it fails the check.
    pub(crate) severity: Severity,
    /// The file, from the root.
    pub(crate) path: String,
    /// Line, counted from 1; 0 if it is about the whole file.
    pub(crate) line: usize,
    /// What is wrong, and what would be right.
    pub(crate) message: String,
}

impl Finding {
    fn error(file: &File, line: usize, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, path: file.path.clone(), line, message: message.into() }
    }

    fn warning(file: &File, line: usize, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(file, line, message) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        if self.line == 0 {
            write!(f, "{severity}: {}: {}", self.path, self.message)
        } else {
            write!(f, "{severity}: {}:{}: {}", self.path, self.line, self.message)
        }
    }
}

/// Applies every rule; findings are in the order of files and lines.
pub(crate) fn check(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    source::check(repository, &mut findings);
    imports::check(repository, &mut findings);
    manifests::check(repository, &mut findings);
    documents::check(repository, &mut findings);
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    findings
}

impl Repository {
    /// Reads the text files below `root`, apart from what is built.
    ///
    /// # Errors
    /// A directory or file can not be read.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        read_directory(root, "", &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { files })
    }

    /// The file at `path`.
    fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The Rust sources.
    fn sources(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }
}

impl File {
    /// Lines with their numbers, counted from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

const SKIPPED: [&str; 2] = [".git", "target"];
const TEXT: [&str; 9] = ["rs", "toml", "md", "yaml", "yml", "json", "sh", "service", "py"];

fn read_directory(root: &Path, below: &str, files: &mut Vec<File>) -> Result<()> {
    let directory = root.join(below);
    let entries = fs::read_dir(&directory)
        .with_context(|| format!("could not list {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_dir() && !SKIPPED.contains(&name) {
            read_directory(root, &path, files)?;
        } else if kind.is_file() && is_text(&path) {
            let text = fs::read_to_string(root.join(&path))
                .with_context(|| format!("could not read {path}"))?;
            files.push(File { path, text });
        }
    }
    Ok(())
}

fn is_text(path: &str) -> bool {
    path == ".ci/run"
        || Path::new(path)
            .extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|extension| TEXT.contains(&extension))
}

#[cfg(test)]
mod testing {
    use super::{File, Finding, Repository};

    /// A repository of the given files.
    pub(super) fn repository(files: &[(&str, &str)]) -> Repository {
        let file = |&(path, text): &(&str, &str)| File { path: path.into(), text: text.into() };
        Repository { files: files.iter().map(file).collect() }
    }

    /// What a rule finds in the given files, as `path:line: message`.
    pub(super) fn findings(
        rule: fn(&Repository, &mut Vec<Finding>),
        files: &[(&str, &str)],
    ) -> Vec<String> {
        let mut findings = Vec::new();
        rule(&repository(files), &mut findings);
        findings.iter().map(ToString::to_string).collect()
    }
}
