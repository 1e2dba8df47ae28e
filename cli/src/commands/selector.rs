//! `bulrush selector`: what a selector means, for a person or for a batch of JSON lines.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context as _;
use model::selector::{ParseError, Restriction, Selector};
use serde::{Deserialize, Serialize};

use crate::json_lines;

/// What a line of a batch is.
const SHAPE: &str = r#"{"id", "selector": "…", "labels": [{"name": "value"}]}"#;

/// Read a selector: its canonical form, its id, and what it demands of labels
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The selector, for example "app == 'web' && has(tier)"
    #[arg(required_unless_present = "stdin")]
    selector: Option<String>,

    /// Read JSON lines {"id", "selector", "labels": [{…}, …]} and write one line of result for each
    #[arg(long, conflicts_with = "selector")]
    stdin: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.selector {
            Some(text) => explain(&text),
            None => json_lines::run_on_stdin(SHAPE, |request: Result<Request, _>| {
                let outcome = request.map_err(anyhow::Error::msg).and_then(|it| meaning(&it));
                outcome.unwrap_or_else(|error| Outcome::Failure {
                    ok: false,
                    error: format!("{error:#}"),
                })
            }),
        }
    }
}

fn explain(text: &str) -> anyhow::Result<ExitCode> {
    let selector = match Selector::parse(text) {
        Ok(selector) => selector,
        Err(error) => {
            eprintln!("error: not a selector, {error}\n\n{}", pointed_at(text, &error));
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut out = io::stdout().lock();
    writeln!(out, "canonical  {selector}\nid         {}", selector.unique_id())?;
    let restrictions = selector.restrictions();
    if restrictions.is_empty() {
        writeln!(out, "demands    nothing of any single label")?;
    }
    for (index, (label, restriction)) in restrictions.iter().enumerate() {
        let heading = if index == 0 { "demands" } else { "" };
        writeln!(out, "{heading:9}  {label}: {}", in_words(restriction))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The text with a caret below the place of the error. Only blanks that are shown as one column
/// come before it: a tab stays a tab.
fn pointed_at(text: &str, error: &ParseError) -> String {
    let before = text.get(..error.position).unwrap_or(text);
    let indent: String =
        before.chars().map(|char| if char == '\t' { '\t' } else { ' ' }).collect();
    let line = text.replace(['\n', '\r'], " ");
    format!("  {line}\n  {indent}^")
}

fn in_words(restriction: &Restriction) -> String {
    let mut words = Vec::new();
    if restriction.must_be_present {
        words.push("must be present".to_owned());
    }
    if restriction.must_be_absent {
        words.push("must be absent".to_owned());
    }
    match &restriction.one_of {
        None => {}
        Some(values) if values.is_empty() => words.push("can have no value".to_owned()),
        Some(values) => {
            let values: Vec<_> = values.iter().map(|value| format!("{value:?}")).collect();
            words.push(format!("one of {}", values.join(", ")));
        }
    }
    words.join(", ")
}

/// One line of input.
#[derive(Deserialize)]
struct Request {
    selector: String,
    #[serde(default)]
    labels: Vec<BTreeMap<String, String>>,
}

/// One line of output, beside its `id`.
#[derive(Serialize)]
#[serde(untagged)]
enum Outcome {
    Meaning {
        ok: bool,
        canonical: String,
        unique_id: String,
        restrictions: BTreeMap<String, Demand>,
        matches: Vec<bool>,
    },
    Failure {
        ok: bool,
        error: String,
    },
}

#[derive(Serialize)]
struct Demand {
    must_be_present: bool,
    must_be_absent: bool,
    one_of: Option<Vec<String>>,
}

fn meaning(request: &Request) -> anyhow::Result<Outcome> {
    let selector = Selector::parse(&request.selector)
        .with_context(|| format!("selector {:?}", shortened(&request.selector)))?;
    let restrictions = selector.restrictions().into_iter().map(|(label, restriction)| {
        let one_of = restriction
            .one_of
            .map(|values| values.iter().map(ToString::to_string).collect::<Vec<_>>());
        let demand = Demand {
            must_be_present: restriction.must_be_present,
            must_be_absent: restriction.must_be_absent,
            one_of,
        };
        (label.to_string(), demand)
    });
    Ok(Outcome::Meaning {
        ok: true,
        canonical: selector.to_string(),
        unique_id: selector.unique_id(),
        restrictions: restrictions.collect(),
        matches: request.labels.iter().map(|labels| selector.matches(labels)).collect(),
    })
}

/// A text short enough for a message.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(80) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
