//! What became of each of several objects, and how that is said.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use datastore::Datastore;
use model::Kind;

use super::{
    manifest::{Lines, Manifest},
    shape::Written,
    source::SourceArgs,
    write::{self, Refusal},
};
use crate::store::StoreArgs;

/// What commands that write whole resources are given.
#[derive(clap::Args)]
pub(crate) struct WriteArgs {
    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    store: StoreArgs,
}

impl WriteArgs {
    /// Writes each resource, and says what became of them. `verb` and `past` are for example `apply`
    /// and `applied`.
    pub(crate) fn each(
        &self,
        verb: &str,
        past: &str,
        act: impl AsyncFn(&dyn Datastore, &Written) -> Result<(), Refusal>,
    ) -> anyhow::Result<ExitCode> {
        let Some(manifests) = self.source.read_named()? else { return Ok(ExitCode::SUCCESS) };
        runtime::block_on(async {
            let store = self.store.connect().await?;
            write::initialise(&*store).await?;
            let namespace = self.source.namespace.as_deref();
            let act = async move |written: &Written| act(&*store, written).await;
            each(manifests, namespace, verb, past, act).await
        })
    }
}

/// Does something to each resource, and says what became of them. `verb` and `past` are for example
/// `delete` and `deleted`.
pub(crate) async fn each(
    manifests: Vec<Manifest>,
    namespace: Option<&str>,
    verb: &str,
    past: &str,
    act: impl AsyncFn(&Written) -> Result<(), Refusal>,
) -> anyhow::Result<ExitCode> {
    let mut tally = Tally::default();
    tally.each(manifests, namespace, act).await;
    tally.report(verb, past)
}

/// Counts while the work goes on.
#[derive(Default)]
pub(crate) struct Tally {
    kinds: Vec<Kind>,
    done: usize,
    unread: usize,
    failures: Vec<String>,
    lines: Lines,
}

impl Tally {
    /// Does something to each resource.
    pub(crate) async fn each(
        &mut self,
        manifests: Vec<Manifest>,
        namespace: Option<&str>,
        act: impl AsyncFn(&Written) -> Result<(), Refusal>,
    ) {
        for mut manifest in manifests {
            let result = match manifest.written.place(namespace) {
                Ok(()) => act(&manifest.written).await,
                Err(fault) => Err(fault.into()),
            };
            match result {
                Ok(()) => self.done(manifest.written.kind),
                Err(failure) => self.failed(&manifest, &failure),
            }
        }
    }

    /// An object of this kind was done.
    fn done(&mut self, kind: Kind) {
        self.kinds.push(kind);
        self.done += 1;
    }

    /// An object failed.
    fn failed(&mut self, manifest: &Manifest, failure: &Refusal) {
        let Manifest { origin, written, text } = manifest;
        self.kinds.push(written.kind);
        let called = written.called();
        let mut say = |line: &str, text: &dyn std::fmt::Display| {
            let place =
                if origin.is_arguments() { String::new() } else { format!(" ({origin}{line})") };
            self.failures.push(format!("{called}{place}: {text}"));
        };
        match failure {
            Refusal::Faults(faults) => {
                for fault in faults {
                    say(&self.lines.behind(origin, text.as_ref(), &fault.path), fault);
                }
            }
            failure => say("", failure),
        }
    }

    /// A document that is no resource; the text names its place.
    pub(crate) fn unread(&mut self, failure: String) {
        self.unread += 1;
        self.failures.push(failure);
    }

    /// One line with what was done on stdout, each failure on stderr. Any failure is exit code 1.
    pub(crate) fn report(mut self, verb: &str, past: &str) -> anyhow::Result<ExitCode> {
        let all = self.kinds.len() + self.unread;
        self.kinds.sort_unstable();
        self.kinds.dedup();
        let what = match self.kinds.as_slice() {
            [kind] if self.unread == 0 => format!("'{kind}' resource(s)"),
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
