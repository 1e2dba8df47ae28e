//! A line on stderr that says how far it is, on a terminal only.

use std::io::{self, IsTerminal as _, Write as _};

const WIDTH: usize = 30;

/// The line.
pub(crate) struct Progress {
    shown: Option<String>,
    terminal: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { shown: None, terminal: io::stderr().is_terminal() }
    }

    /// So many of `all`.
    pub(crate) fn show(&mut self, now: u64, all: u64, what: &str) {
        if !self.terminal {
            return;
        }
        let filled =
            (now.min(all) * WIDTH as u64).checked_div(all).unwrap_or(WIDTH as u64) as usize;
        let bar = format!("{}{}", "#".repeat(filled), ".".repeat(WIDTH - filled));
        let line = format!("[{bar}] {now} of {all} {what}");
        if self.shown.as_ref() != Some(&line) {
            // Nobody reads what can't be printed.
            let _ = write!(io::stderr(), "\r\x1b[K{line}");
            self.shown = Some(line);
        }
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
