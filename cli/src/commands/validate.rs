//! `bulrush validate`: whether objects may be, and what a write would store of them.

use std::process::ExitCode;

use model::validate::{self, FieldError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    json_lines,
    resource::{shape::Written, source::SourceArgs, tally::Tally, write::Refusal},
    store::StoreArgs,
};

/// What a line of a batch is.
const SHAPE: &str = r#"{"id", "object": {…}, "old": {…}}"#;

/// Check manifests without a cluster: all rules, unknown fields too
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// Read JSON lines {"id", "object", "old"} and write one line of result for each; old is what
    /// an update replaces
    #[arg(long, conflicts_with_all = ["files", "recursive", "namespace"])]
    stdin: bool,

    #[command(flatten)]
    store: StoreArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if self.stdin {
            return json_lines::run_on_stdin(SHAPE, answer);
        }
        let Some(contents) = self.source.read_all()?.named()? else {
            return Ok(ExitCode::SUCCESS);
        };
        let namespace = self.source.namespace.as_deref();
        let mut tally = Tally::default();
        for fault in contents.faults {
            tally.unread(fault);
        }
        runtime::block_on(async {
            let check = async |written: &Written| {
                written.key()?;
                let verdict = written.judge(None);
                // A write repairs what it can.
                if verdict.defaulted.is_some() { Ok(()) } else { Err(Refusal::from(&verdict)) }
            };
            tally.each(contents.manifests, namespace, check).await;
            tally.report("validate", "validated")
        })
    }
}

/// One line of input.
#[derive(Deserialize)]
struct Question {
    object: Value,
    old: Option<Value>,
}

/// One line of output.
#[derive(Serialize)]
struct Answer {
    valid: bool,
    errors: Vec<Fault>,
    defaulted: Option<Value>,
}

#[derive(Serialize)]
struct Fault {
    field: String,
    value: Value,
    rule: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    hint: String,
}

fn answer(question: Result<Question, String>) -> Answer {
    match question {
        Ok(Question { object, old }) => {
            let verdict = validate::validate(&object, old.as_ref());
            let errors = verdict.errors.into_iter().map(|error| {
                let FieldError { field, value, rule, hint } = error;
                Fault { field, value, rule, hint }
            });
            Answer {
                valid: verdict.valid,
                errors: errors.collect(),
                defaulted: verdict.defaulted,
            }
        }
        Err(rule) => {
            let fault =
                Fault { field: String::new(), value: Value::Null, rule, hint: String::new() };
            Answer { valid: false, errors: vec![fault], defaulted: None }
        }
    }
}
