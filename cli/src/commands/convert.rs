//! `bulrush convert`: what Kubernetes objects mean, as Calico's resources.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::ValueEnum;
use model::translate::{Translation, translate};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    json_lines,
    offline::objects::listed,
    resource::{manifest, yaml},
};

/// What a line of a batch is.
const SHAPE: &str = r#"{"id", "object": {…}}"#;

/// Kinds that live in no namespace.
const GLOBAL: &[&str] = &["Namespace", "ClusterNetworkPolicy"];

/// Translate Kubernetes' policies, pods, namespaces and service accounts to Calico's resources
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

    /// The format
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Yaml)]
    output: Format,

    /// Read JSON lines {"id", "object"} and write one line of result for each
    #[arg(long, conflicts_with_all = ["files", "recursive", "namespace", "output"])]
    stdin: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// One document for each resource
    Yaml,
    /// One list with all of them
    Json,
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
        let (mut objects, mut errors) = (Vec::new(), Vec::new());
        for (origin, document) in documents {
            match document {
                Ok(document) => {
                    for object in listed(document) {
                        let object = self.with_namespace(object);
                        let mut translation = translate(&object);
                        translation.faults.extend(translation.ignored(&object));
                        let new = messages(&translation);
                        errors.extend(new.iter().map(|error| format!("{origin}: {error}")));
                        objects.extend(translation.objects);
                    }
                }
                Err(fault) => errors.push(format!("{origin}: {fault}")),
            }
        }
        self.print(&objects)?;
        for error in &errors {
            eprintln!("error: {error}");
        }
        Ok(if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn with_namespace(&self, mut object: Value) -> Value {
        let is_global = object["kind"].as_str().is_none_or(|kind| GLOBAL.contains(&kind));
        if !is_global && let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            metadata.entry("namespace").or_insert_with(|| json!(self.namespace));
        }
        object
    }

    fn print(&self, objects: &[Value]) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        match self.output {
            Format::Yaml => {
                for object in objects {
                    write!(out, "---\n{}", yaml::to_string(object))?;
                }
            }
            Format::Json => {
                let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
                serde_json::to_writer_pretty(&mut out, &list).map_err(io::Error::from)?;
                writeln!(out)?;
            }
        }
        Ok(())
    }
}

fn messages(translation: &Translation) -> Vec<String> {
    let faults = translation.faults.iter();
    faults.map(|fault| format!("{}: {fault}", translation.subject)).collect()
}

/// One line of input.
#[derive(Deserialize)]
struct Question {
    object: Value,
}

/// One line of output.
#[derive(Serialize)]
struct Answer {
    objects: Vec<Value>,
    errors: Vec<String>,
}

fn answer(question: Result<Question, String>) -> Answer {
    match question {
        Ok(question) => {
            let translation = translate(&question.object);
            Answer { errors: messages(&translation), objects: translation.objects }
        }
        Err(error) => Answer { objects: Vec::new(), errors: vec![error] },
    }
}
