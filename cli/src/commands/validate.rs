//! `bulrush validate`: whether objects may be, and what a write would store of them.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use model::validate::{self, FieldError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    json_lines,
    resource::{API_VERSION, CRD_VERSION, manifest},
};

/// What a line of a batch is.
const SHAPE: &str = r#"{"id", "object": {…}, "old": {…}}"#;

/// Check manifests without a cluster: all rules, unknown fields too
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Files, folders, or - for standard input: YAML documents or JSON
    #[arg(
        short = 'f',
        long = "filename",
        value_name = "FILE",
        required_unless_present = "stdin"
    )]
    files: Vec<String>,

    /// Also read the folders in folders
    #[arg(short = 'R', long)]
    recursive: bool,

    /// The namespace of objects that need one and name none
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,

    /// Read JSON lines {"id", "object", "old"} and write one line of result for each; old is what
    /// an update replaces
    #[arg(long, conflicts_with_all = ["files", "recursive", "namespace"])]
    stdin: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if self.stdin {
            return json_lines::run_on_stdin(SHAPE, answer);
        }
        let documents = manifest::read_json(&self.files, self.recursive)?;
        if documents.is_empty() {
            anyhow::bail!("no objects in {}", self.files.join(", "));
        }
        let mut out = io::stdout().lock();
        let (count, mut wrong) = (documents.len(), 0);
        for (origin, document) in documents {
            let (name, errors) = match document {
                Ok(object) => self.judge(object),
                Err(fault) => (String::new(), vec![fault]),
            };
            let verdict = if errors.is_empty() { "ok" } else { "invalid" };
            writeln!(out, "{origin}: {name}{verdict}")?;
            for error in &errors {
                writeln!(out, "  {error}")?;
            }
            wrong += usize::from(!errors.is_empty());
        }
        writeln!(out, "{count} objects, {wrong} invalid")?;
        Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// How the object is called, with a blank behind it, and what is wrong with it.
    fn judge(&self, mut object: Value) -> (String, Vec<String>) {
        let text = |object: &Value, field: &str| {
            object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let (kind, version) = (text(&object, "kind"), text(&object, "apiVersion"));
        let schema = validate::schemas().find(|schema| schema.kind.name() == kind);
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut)
            && schema.is_some_and(|schema| schema.kind.is_namespaced())
        {
            meta.entry("namespace").or_insert_with(|| self.namespace.as_str().into());
        }
        let name = called(&kind, object.get("metadata").and_then(Value::as_object));
        let verdict = validate::validate(&object, None);
        let mut errors: Vec<_> = verdict.errors.iter().map(ToString::to_string).collect();
        let unknown = verdict.unknown_fields.iter().map(|field| {
            format!("{field}: {kind} has no such field; remove it, or correct its name")
        });
        errors.extend(unknown);
        if ![API_VERSION, CRD_VERSION].contains(&version.as_str()) {
            errors.push(format!("apiVersion: {version:?}: must be {API_VERSION}"));
        }
        (name, errors)
    }
}

fn called(kind: &str, meta: Option<&Map<String, Value>>) -> String {
    let text = |field| meta?.get(field)?.as_str();
    match (text("namespace"), text("name")) {
        (Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}: "),
        (None, Some(name)) => format!("{kind} {name}: "),
        _ if kind.is_empty() => String::new(),
        _ => format!("{kind}: "),
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
