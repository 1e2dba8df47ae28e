//! What became of each of several objects, and how that is said.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use model::Kind;

/// Counts while the work goes on.
#[derive(Default)]
pub(crate) struct Tally {
    kinds: Vec<Kind>,
    done: usize,
    failures: Vec<String>,
}

impl Tally {
    /// An object of this kind was done.
    pub(crate) fn done(&mut self, kind: Kind) {
        self.kinds.push(kind);
        self.done += 1;
    }

    /// An object of this kind failed; the text names it.
    pub(crate) fn failed(&mut self, kind: Kind, failure: String) {
        self.kinds.push(kind);
        self.failures.push(failure);
    }

    /// One line with what was done on stdout, each failure on stderr. Any failure is exit code 1.
    /// `verb` and `past` are for example `apply` and `applied`.
    pub(crate) fn report(mut self, verb: &str, past: &str) -> anyhow::Result<ExitCode> {
        let all = self.kinds.len();
        self.kinds.dedup();
        let what = match self.kinds.as_slice() {
            [kind] => format!("'{kind}' resource(s)"),
            _ => "resource(s)".to_owned(),
        };
        let mut out = io::stdout().lock();
        if self.failures.is_empty() {
            writeln!(out, "Successfully {past} {all} {what}")?;
            return Ok(ExitCode::SUCCESS);
        }
        if self.done > 0 {
            writeln!(out, "Successfully {past} {} of {all} {what}", self.done)?;
        }
        for failure in &self.failures {
            eprintln!("Failed to {verb} {failure}");
        }
        Ok(ExitCode::FAILURE)
    }
}
