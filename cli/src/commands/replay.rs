//! `bulrush replay`: what a node would be told, from recorded events.

use std::{path::PathBuf, process::ExitCode};

use serde_json::Value;

/// Compute a node's state from a case or a record of a store's events
///
/// A case is one JSON object with steps; everything else is read as a record, a line for each event.
/// Prints a JSON list: the state after each step that the case asks for, or the record's last one. Of two
/// files it prints a JSON list of what differs between their last states, and ends with 1 if anything does.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The case or the record
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Another one, to compare
    #[arg(value_name = "OTHER")]
    other: Option<PathBuf>,

    /// The node
    #[arg(long, value_name = "NAME")]
    node: String,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let states = crate::replay::run(&self.file, &self.node)?;
        let (printed, code) = match &self.other {
            None => (states, ExitCode::SUCCESS),
            Some(other) => {
                let others = crate::replay::run(other, &self.node)?;
                let last = |states: &[Value]| states.last().cloned().unwrap_or_default();
                let found = crate::replay::difference::of(&last(&states), &last(&others));
                let code = ExitCode::from(u8::from(!found.is_empty()));
                (found, code)
            }
        };
        super::answer(&format!("{}\n", serde_json::to_string(&printed)?))?;
        Ok(code)
    }
}
