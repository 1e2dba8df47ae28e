//! `bulrush selector`: what a selector means, for a person or for a batch of JSON lines.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    process::ExitCode,
};

use anyhow::Context as _;
use model::selector::{ParseError, Restriction, Selector};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest line of a batch, in bytes: what bounds the memory.
const MAX_LINE: u64 = 16 << 20;

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
            None => batch(&mut BufReader::new(io::stdin().lock()), io::stdout().lock()),
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

/// One line of output.
#[derive(Serialize)]
struct Response {
    id: Value,
    ok: bool,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Outcome {
    Meaning {
        canonical: String,
        unique_id: String,
        restrictions: BTreeMap<String, Demand>,
        matches: Vec<bool>,
    },
    Failure {
        error: String,
    },
}

#[derive(Serialize)]
struct Demand {
    must_be_present: bool,
    must_be_absent: bool,
    one_of: Option<Vec<String>>,
}

/// Answers line by line, in order. A line that is wrong gets an answer that says so; only broken
/// streams end it.
fn batch(input: &mut BufReader<impl Read>, output: impl Write) -> anyhow::Result<ExitCode> {
    let mut output = BufWriter::new(output);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = input.take(MAX_LINE + 1).read_until(b'\n', &mut line);
        if read.with_context(|| format!("reading line {number} of stdin"))? == 0 {
            break;
        }
        let is_too_long = line.len() as u64 > MAX_LINE && !line.ends_with(b"\n");
        if is_too_long {
            input.skip_until(b'\n').with_context(|| format!("reading line {number} of stdin"))?;
        } else if line.trim_ascii().is_empty() {
            continue;
        }
        let response = if is_too_long {
            let error = format!("line {number} is longer than {MAX_LINE} bytes; split it");
            Response { id: Value::Null, ok: false, outcome: Outcome::Failure { error } }
        } else {
            answer(&line, number)
        };
        serde_json::to_writer(&mut output, &response).map_err(io::Error::from)?;
        output.write_all(b"\n")?;
        // Whoever waits for an answer before the next question gets it.
        if input.buffer().is_empty() {
            output.flush()?;
        }
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn answer(line: &[u8], number: u64) -> Response {
    let mut id = Value::Null;
    let outcome = match meaning(line, number, &mut id) {
        Ok(meaning) => meaning,
        Err(error) => Outcome::Failure { error: format!("{error:#}") },
    };
    Response { id, ok: matches!(outcome, Outcome::Meaning { .. }), outcome }
}

fn meaning(line: &[u8], number: u64, id: &mut Value) -> anyhow::Result<Outcome> {
    let mut request: Value =
        serde_json::from_slice(line).with_context(|| format!("line {number} is no JSON"))?;
    if let Some(given) = request.get_mut("id") {
        *id = given.take();
    }
    let request: Request = serde_json::from_value(request).with_context(|| {
        format!(r#"line {number} is no {{"id", "selector": "…", "labels": [{{"name": "value"}}]}}"#)
    })?;
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
