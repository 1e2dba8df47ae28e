//! `bulrush replay`: what a node would be told, from recorded events.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

/// Compute a node's state from a case or a record of a store's events
///
/// A case is one JSON object with steps; everything else is read as a record, a line for each event.
/// Prints a JSON list: the state after each step that the case asks for, or the record's last one.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The case or the record
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The node
    #[arg(long, value_name = "NAME")]
    node: String,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let states = crate::replay::run(&self.file, &self.node)?;
        let mut out = io::BufWriter::new(io::stdout().lock());
        serde_json::to_writer(&mut out, &states).map_err(io::Error::from)?;
        writeln!(out)?;
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}
