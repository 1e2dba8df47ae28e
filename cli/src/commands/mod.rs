//! The commands: one file each, with its flags as `Args` and its work as `Args::run`.

use std::process::ExitCode;

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
    Run => run,
    Selector => selector,
    Validate => validate,
    Version => version,
    Watch => watch,
    Whatif => whatif,
}
