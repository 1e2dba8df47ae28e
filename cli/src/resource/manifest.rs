//! Files, folders and standard input to resources, each with the place where it was written.

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::shape::{self, Written};

/// The largest nesting and size that a document may have: generous, and an end to bombs.
const BUDGET_NODES: usize = 10_000_000;

/// Where a resource was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    file: String,
    /// From 1.
    document: usize,
    /// In a list, from 1.
    item: Option<usize>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {}", self.file, self.document)?;
        match self.item {
            Some(item) => write!(f, ", item {item}"),
            None => Ok(()),
        }
    }
}

/// A resource and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Manifest {
    pub(crate) origin: Origin,
    pub(crate) written: Written,
}

/// Reads all resources of these files, folders, or `-` for standard input. Anything that is no
/// resource refuses all of them, before anything is written: the error lists every fault.
pub(crate) fn read(
    paths: &[String],
    recursive: bool,
    namespace: &str,
) -> anyhow::Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    let mut faults = Vec::new();
    for (origin, value) in read_json(paths, recursive)? {
        let written = value
            .and_then(|value| shape::read(&value, namespace).map_err(|fault| fault.to_string()));
        match written {
            Ok(written) => manifests.push(Manifest { origin, written }),
            Err(fault) => faults.push(format!("{origin}: {fault}")),
        }
    }
    if !faults.is_empty() {
        bail!("nothing was changed, because the input has faults:\n  {}", faults.join("\n  "));
    }
    Ok(manifests)
}

/// A document, or an item of the list that a document is; or why it is none.
pub(crate) type Document = (Origin, Result<Value, String>);

/// Reads all documents of these files, folders, or `-` for standard input, whatever they hold.
pub(crate) fn read_json(paths: &[String], recursive: bool) -> anyhow::Result<Vec<Document>> {
    let mut found = Vec::new();
    for path in paths {
        if path == "-" {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("reading standard input")?;
            read_text("stdin", &text, &mut found);
            continue;
        }
        for file in files(Path::new(path), recursive)? {
            let text = fs::read_to_string(&file)
                .with_context(|| format!("{}: can't be read", file.display()))?;
            read_text(&file.display().to_string(), &text, &mut found);
        }
    }
    Ok(found)
}

/// The file itself, or the manifests of a folder in the order of their names.
fn files(path: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    let unreadable = || format!("{}: can't be read", path.display());
    if !fs::metadata(path).with_context(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut entries = fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>())
        .with_context(unreadable)?;
    entries.sort();
    let mut found = Vec::new();
    for entry in entries {
        let extension = entry.extension().and_then(|extension| extension.to_str());
        if entry.is_dir() {
            if recursive {
                found.extend(files(&entry, true)?);
            }
        } else if matches!(extension, Some("yaml" | "yml" | "json")) {
            found.push(entry);
        }
    }
    Ok(found)
}

fn read_text(file: &str, text: &str, found: &mut Vec<Document>) {
    for (index, (first_line, document)) in documents(text).into_iter().enumerate() {
        let origin = Origin { file: file.to_owned(), document: index + 1, item: None };
        let value = match parse(document, first_line) {
            Ok(value) => value,
            Err(fault) => {
                found.push((origin, Err(fault)));
                continue;
            }
        };
        let items = value.as_array().or_else(|| shape::items_of_list(&value));
        match items {
            None => found.push((origin, Ok(value))),
            Some(items) => found.extend(items.iter().enumerate().map(|(index, item)| {
                (Origin { item: Some(index + 1), ..origin.clone() }, Ok(item.clone()))
            })),
        }
    }
}

/// The documents of a stream, each with the number of the line before it. A document starts at a
/// line `---`; one without any text is none.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line) = (0, 0);
    let mut position = 0;
    let mut close = |from: usize, line: usize, to: usize| {
        let document = &text[from..to];
        let body = document.strip_prefix("---").unwrap_or(document);
        if !body.trim().is_empty() {
            documents.push((line, document));
        }
    };
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let is_marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.chars().next().is_none_or(char::is_whitespace));
        if is_marker {
            close(start, start_line, position);
            (start, start_line) = (position, number);
        }
        position += line.len();
    }
    close(start, start_line, text.len());
    documents
}

/// One document as JSON. YAML is read as calicoctl does: `yes` is a boolean, a key twice is an
/// error. JSON is YAML.
fn parse(document: &str, first_line: usize) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_nodes: BUDGET_NODES,
            max_events: 4 * BUDGET_NODES,
        },
    };
    let values: Vec<Value> =
        serde_saphyr::from_multiple_with_options(document, options).map_err(|error| {
            let place = error.location().map_or_else(String::new, |place| {
                format!("line {}, column {}: ", first_line as u64 + place.line(), place.column())
            });
            // It says the place again, counted from the document's first line.
            let text = error.without_snippet().to_string();
            let text = text.split(" at line ").next().unwrap_or_default();
            format!("{place}no YAML or JSON: {text}")
        })?;
    let mut values = values.into_iter().map(with_whole_numbers);
    values.next().ok_or_else(|| "it has nothing but comments; remove it, or its ---".to_owned())
}

/// 100.0 is stored as 100: for Calico's readers only the latter is a whole number. The parser's
/// limit of depth bounds the recursion.
fn with_whole_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            // Up to here every whole float is exact.
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9e15 => {
                #[allow(clippy::cast_possible_truncation, reason = "it is whole and below 9e15")]
                let whole = float as i64;
                whole.into()
            }
            _ => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(with_whole_numbers).collect(),
        Value::Object(map) => {
            let fields = map.into_iter().map(|(name, value)| (name, with_whole_numbers(value)));
            Value::Object(fields.collect())
        }
        other => other,
    }
}
