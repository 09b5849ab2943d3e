//! `pointsman doctor`: looks at the machine, the configuration and the running agent, and
//! says what is wrong with the command that mends it. Changes nothing.
//!
//! `collect` reads, `judge` judges; all that could be argued about is in `judge`,
//! which is pure.

mod collect;
mod facts;
mod judge;

use std::path::{Path, PathBuf};

use anyhow::bail;
use serde::Serialize;

use self::judge::{Finding, Level};
use super::{Outcome, check, output::Output, reload::render_faults, run::DEFAULT_CONFIGURATION};
use crate::config::{Fault, Loaded};

/// Columns that subjects get at most.
const WIDEST_SUBJECT: usize = 24;

/// Options of `pointsman doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Configuration file; without the default one, only the machine is looked at
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `pointsman doctor` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// How many findings keep packets from being forwarded, or are about to.
    problems: usize,
    /// How many could be better.
    notices: usize,
    /// Everything that was looked at, good or not.
    findings: Vec<Finding>,
}

/// Looks at everything.
///
/// # Errors
/// If something could not be looked at, or standard output not written.
pub fn run(args: &DoctorArgs, output: &mut Output) -> anyhow::Result<Outcome> {
    let default = Path::new(DEFAULT_CONFIGURATION);
    let path = match &args.config {
        Some(path) => Some(path.as_path()),
        None => Some(default).filter(|path| path.exists()),
    };
    let loaded = match path.map(check::load).transpose()? {
        Some(Err(faults)) => {
            output.complain(&render_faults(&faults))?;
            return Ok(Outcome::No);
        }
        Some(Ok(loaded)) => Some(loaded),
        None => None,
    };
    let report = examine(loaded.as_ref())?;
    output.print(args.json, &report, render)?;
    if loaded.is_none() {
        output.complain(&format!(
            "(there is no {DEFAULT_CONFIGURATION}: name a configuration with --config to have \
             interfaces and servers looked at)\n"
        ))?;
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("not everything could be looked at; run this as root");
    }
    Ok(if report.problems == 0 { Outcome::Good } else { Outcome::No })
}

fn examine(loaded: Option<&Loaded>) -> anyhow::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut facts = runtime.block_on(collect::facts(loaded.map(|loaded| &loaded.snapshot)))?;
    let warnings = loaded.map_or(&[][..], |loaded| &loaded.warnings);
    facts.warnings = warnings.iter().map(|warning| warning_of(&warning.0)).collect();
    let findings = judge::findings(&facts);
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    Ok(Report { problems: count(Level::Problem), notices: count(Level::Notice), findings })
}

/// Where a warning is and what it says; what to do.
fn warning_of(fault: &Fault) -> (String, Option<String>) {
    (
        format!("{}:{}: {}: {}", fault.file, fault.line, fault.path, fault.message),
        fault.hint.clone(),
    )
}

fn render(report: &Report) -> String {
    let mut text = String::new();
    let subjects = report.findings.iter().map(|finding| finding.subject.len());
    let width = subjects.max().unwrap_or(0).min(WIDEST_SUBJECT);
    for finding in &report.findings {
        let word = match finding.level {
            Level::Good => "ok",
            Level::Notice => "NOTICE",
            Level::Problem => "PROBLEM",
        };
        text += &format!("{word:<8} {:<width$}  {}\n", finding.subject, finding.text);
        if let Some(remedy) = &finding.remedy {
            text += &format!("{:<8} {:<width$}  -> {remedy}\n", "", "");
        }
    }
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let (problems, notices) = (report.problems, report.notices);
    text + &format!(
        "\n{problems} problem{}, {notices} notice{}\n",
        plural(problems),
        plural(notices)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_is_followed_by_what_mends_it() {
        let finding = |level, remedy: Option<&str>| Finding {
            level,
            subject: "interface eth0".into(),
            text: "is down".into(),
            remedy: remedy.map(str::to_owned),
        };
        let good = Finding { subject: "kernel".into(), ..finding(Level::Good, None) };
        let findings = vec![good, finding(Level::Problem, Some("ip link set dev eth0 up"))];
        let text = render(&Report { problems: 1, notices: 0, findings });
        let expected = "ok       kernel          is down\n\
                        PROBLEM  interface eth0  is down\n                         \
                        -> ip link set dev eth0 up\n\n1 problem, 0 notices\n";
        assert_eq!(text, expected);
    }
}
