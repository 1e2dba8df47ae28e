//! The batch modes: JSON lines in, JSON lines out.

use std::{
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    process::ExitCode,
};

use anyhow::Context as _;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// The longest line, in bytes: what bounds the memory.
const MAX_LINE: u64 = 16 << 20;

/// Answers each line of stdin by one on stdout, in order; see [`run`].
pub(crate) fn run_on_stdin<Question: DeserializeOwned, Answer: Serialize>(
    shape: &str,
    answer: impl FnMut(Result<Question, String>) -> Answer,
) -> anyhow::Result<ExitCode> {
    run(&mut BufReader::new(io::stdin().lock()), io::stdout().lock(), shape, answer)
}

/// Answers line by line, in order, with the line's `id` first. A line that isn't of this `shape`,
/// as words for the message, is an error to answer; only broken streams end it.
fn run<Question: DeserializeOwned, Answer: Serialize>(
    input: &mut BufReader<impl Read>,
    output: impl Write,
    shape: &str,
    mut answer: impl FnMut(Result<Question, String>) -> Answer,
) -> anyhow::Result<ExitCode> {
    #[derive(Serialize)]
    struct Line<Answer> {
        id: Value,
        #[serde(flatten)]
        answer: Answer,
    }
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
        let mut id = Value::Null;
        let question = if is_too_long {
            Err(format!("line {number} is longer than {MAX_LINE} bytes; split it"))
        } else {
            read_question(&line, &mut id).map_err(|error| match error {
                Unfit::Json(error) => format!("line {number} is no JSON: {error}"),
                Unfit::Shape(error) => format!("line {number} is no {shape}: {error}"),
            })
        };
        let line = Line { id, answer: answer(question) };
        // As an IO error, a reader that stopped early is told apart.
        serde_json::to_writer(&mut output, &line).map_err(io::Error::from)?;
        output.write_all(b"\n")?;
        // Whoever waits for an answer before the next question gets it.
        if input.buffer().is_empty() {
            output.flush()?;
        }
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Why a line is no question.
enum Unfit {
    Json(serde_json::Error),
    Shape(serde_json::Error),
}

/// Takes `id` apart, so that a line of another shape is still answered under its name.
fn read_question<Question: DeserializeOwned>(
    line: &[u8],
    id: &mut Value,
) -> Result<Question, Unfit> {
    let mut question: Value = serde_json::from_slice(line).map_err(Unfit::Json)?;
    if let Some(given) = question.get_mut("id") {
        *id = given.take();
    }
    serde_json::from_value(question).map_err(Unfit::Shape)
}
