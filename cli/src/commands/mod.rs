//! The commands: one file each, with its flags as `Args` and its work as `Args::run`.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Subcommand;

/// Declares the commands: a line here and a file of that name are a new command.
macro_rules! commands {
    ($($variant:ident => $module:ident,)*) => {
        $(mod $module;)*

        /// What to do. Each command's help is the text at its `Args`.
        #[derive(Subcommand)]
        pub(crate) enum Command {
            $($variant($module::Args),)*
        }

        impl Command {
            /// Does it. An error ends the program with exit code 1 and its text on stderr.
            pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
                match self {
                    $(Self::$variant(args) => args.run(),)*
                }
            }
        }
    };
}

commands! {
    Apply => apply,
    Certs => certs,
    Completion => completion,
    Convert => convert,
    Create => create,
    Datastore => datastore,
    Delete => delete,
    Dev => dev,
    Explain => explain,
    Get => get,
    Ipam => ipam,
    Lab => lab,
    Label => label,
    Loadtest => loadtest,
    Matrix => matrix,
    Node => node,
    Patch => patch,
    Replace => replace,
    Replay => replay,
    Rollout => rollout,
    Run => run,
    Selector => selector,
    Validate => validate,
    Version => version,
    Watch => watch,
    Whatif => whatif,
}

/// calicoctl takes these flags before the command too; whether each has a value.
const BEFORE: &[(&str, bool)] = &[
    ("--allow-version-mismatch", false),
    ("--context", true),
    ("--log-level", true),
    ("-l", true),
];

/// Prints an answer that the exit code gives too: that code holds also where the reader, such as `head`, has seen enough.
fn answer(text: &str) -> io::Result<()> {
    answer_by(|out| out.write_all(text.as_bytes()))
}

/// The same of what is too long to be held.
fn answer_by(write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            // What it still holds nobody reads.
            drop(out.into_parts());
            Ok(())
        }
        other => other,
    }
}

/// The arguments with those that calicoctl takes before the command behind it.
pub(crate) fn in_order(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let mut moved = Vec::new();
    while let Some(first) = arguments.get(1).and_then(|first| first.to_str()) {
        let (name, value) = first.split_once('=').map_or((first, None), |(a, b)| (a, Some(b)));
        let Some((_, has_value)) = BEFORE.iter().find(|(known, _)| *known == name) else { break };
        let length = if *has_value && value.is_none() { 2 } else { 1 };
        if arguments.len() <= 1 + length {
            break;
        }
        moved.extend(arguments.drain(1..=length));
    }
    let end = arguments.iter().position(|it| it == "--").unwrap_or(arguments.len());
    arguments.splice(end..end, moved);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_before_the_command_are_taken_as_if_behind_it() {
        for (given, taken) in [
            ("b get node", "b get node"),
            ("b -l info get node -A", "b get node -A -l info"),
            (
                "b --context=x --allow-version-mismatch get node",
                "b get node --context=x --allow-version-mismatch",
            ),
            ("b --context x get -- node", "b get --context x -- node"),
            ("b --log-level", "b --log-level"),
            ("b --version", "b --version"),
        ] {
            let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
            assert_eq!(in_order(words(given)), words(taken), "{given}");
        }
    }
}
