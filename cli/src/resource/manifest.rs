//! Files, folders and standard input to resources, each with the place where it was written.

use std::{
    fmt, fs,
    io::{self, Read as _},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::{
    locate::Places,
    shape::{self, Faulty, Written},
};

/// The largest nesting and size that a document may have: generous, and an end to bombs.
const BUDGET_NODES: usize = 10_000_000;

/// Where a resource was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Empty: in the command's arguments.
    file: String,
    /// From 1.
    document: usize,
    /// In a list, from 1.
    item: Option<usize>,
}

impl Origin {
    /// The command's arguments.
    pub(crate) fn arguments() -> Self {
        Self { file: String::new(), document: 0, item: None }
    }

    pub(crate) fn is_arguments(&self) -> bool {
        self.file.is_empty()
    }
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
    /// The text that it was read from; none: it is from the arguments.
    pub(crate) text: Option<Text>,
}

/// What files, folders, or `-` for standard input hold.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) manifests: Vec<Manifest>,
    /// What is wrong with the rest, each with its place.
    pub(crate) faults: Vec<String>,
}

impl Contents {
    /// Anything that is no resource refuses all of them, before anything is done: the error lists
    /// every fault.
    pub(crate) fn sound(self) -> anyhow::Result<Vec<Manifest>> {
        if !self.faults.is_empty() {
            bail!("nothing was done, because of the input:\n  {}", self.faults.join("\n  "));
        }
        Ok(self.manifests)
    }
}

/// Reads all resources of these files. A file without any is a fault unless it `may_be_empty`.
pub(crate) fn read(
    paths: &[String],
    recursive: bool,
    may_be_empty: bool,
) -> anyhow::Result<Contents> {
    let mut contents = Contents::default();
    let mut lines = Lines::default();
    each_text(paths, recursive, |file, text| {
        let documents = read_text(file, &Arc::from(text));
        if documents.is_empty() && !may_be_empty {
            contents.faults.push(format!("{file}: no resources; or pass --skip-empty"));
        }
        for Document { origin, value, text } in documents {
            let read = match value {
                Ok(value) => shape::read(&value, text.is_listed),
                Err(fault) => {
                    contents.faults.push(format!("{origin}: {fault}"));
                    continue;
                }
            };
            match read {
                Ok(written) => {
                    contents.manifests.push(Manifest { origin, written, text: Some(text) });
                }
                Err(Faulty { object, faults }) => {
                    contents.faults.extend(faults.iter().map(|fault| {
                        let object =
                            if object.is_empty() { String::new() } else { format!("{object}: ") };
                        let line = lines.behind(&origin, Some(&text), &fault.path);
                        format!("{origin}{line}: {object}{fault}")
                    }));
                }
            }
        }
    })?;
    Ok(contents)
}

/// Reads all documents of these files, folders, or `-` for standard input, whatever they hold. Those of comments alone
/// are none: templates write many.
pub(crate) fn read_json(
    paths: &[String],
    recursive: bool,
) -> anyhow::Result<Vec<(Origin, Result<Value, String>)>> {
    let mut found = Vec::new();
    each_text(paths, recursive, |file, text| {
        let documents = read_text(file, &Arc::from(text)).into_iter();
        let documents = documents.filter(|it| !it.text.is_comment());
        found.extend(documents.map(|it| (it.origin, it.value)));
    })?;
    Ok(found)
}

/// A value in an argument, as JSON or YAML.
pub(crate) fn read_value(text: &str) -> Result<Value, String> {
    parse(text, 0)
}

/// Calls with the name and the text of each of these files.
fn each_text(
    paths: &[String],
    recursive: bool,
    mut call: impl FnMut(&str, &str),
) -> anyhow::Result<()> {
    for path in paths {
        if path == "-" {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("reading standard input")?;
            call("stdin", &text);
            continue;
        }
        for file in files(Path::new(path), recursive)? {
            let text = fs::read_to_string(&file)
                .with_context(|| format!("{}: can't be read", file.display()))?;
            call(&file.display().to_string(), &text);
        }
    }
    Ok(())
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
        let extension = entry.extension().unwrap_or_default().to_ascii_lowercase();
        // A link to a folder is not followed: it may lead back here.
        let is_folder = fs::symlink_metadata(&entry).is_ok_and(|entry| entry.is_dir());
        if is_folder {
            if recursive {
                found.extend(files(&entry, true)?);
            }
        } else if ["yaml", "yml", "json"].iter().any(|known| extension == *known) {
            found.push(entry);
        }
    }
    Ok(found)
}

/// A document, or an item of the list that a document is.
struct Document {
    origin: Origin,
    /// What it says, or why that can't be read.
    value: Result<Value, String>,
    text: Text,
}

/// The text that a document was read from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Text {
    file: Arc<str>,
    document: Range<usize>,
    /// Lines of the file before the document.
    lines_before: usize,
    /// Whether it is an item of a list as a server gives it.
    is_listed: bool,
}

impl Text {
    /// Whether there is nothing but comments.
    fn is_comment(&self) -> bool {
        let document = &self.file[self.document.clone()];
        let document = document.strip_prefix("---").unwrap_or(document);
        let mut lines = document.lines().map(str::trim);
        lines.all(|line| line.is_empty() || line.starts_with('#'))
    }
}

/// Finds the lines of fields. It keeps the places of the last document: a list may have many faults.
#[derive(Default)]
pub(crate) struct Lines {
    last: Option<(Text, Places)>,
}

impl Lines {
    /// `, line 7` for behind the object's origin, or nothing if the field's line isn't known.
    pub(crate) fn behind(&mut self, origin: &Origin, text: Option<&Text>, path: &str) -> String {
        let Some(text) = text else { return String::new() };
        let is_same = self.last.as_ref().is_some_and(|(last, _)| {
            Arc::ptr_eq(&last.file, &text.file) && last.document == text.document
        });
        if !is_same {
            let places = Places::of(&text.file[text.document.clone()], options());
            self.last = Some((text.clone(), places));
        }
        let prefix = match (origin.item, text.is_listed) {
            (None, _) => String::new(),
            (Some(item), true) => format!("items[{}].", item - 1),
            (Some(item), false) => format!("[{}].", item - 1),
        };
        let line =
            self.last.as_ref().and_then(|(_, places)| places.line(&format!("{prefix}{path}")));
        line.map_or_else(String::new, |line| format!(", line {}", text.lines_before as u64 + line))
    }
}

fn read_text(file: &str, text: &Arc<str>) -> Vec<Document> {
    let mut found = Vec::new();
    for (index, (lines_before, document)) in documents(text).into_iter().enumerate() {
        let origin = Origin { file: file.to_owned(), document: index + 1, item: None };
        let value = parse(&text[document.clone()], lines_before);
        let text = Text { file: Arc::clone(text), document, lines_before, is_listed: false };
        let item = |(index, value): (usize, Value), is_listed| Document {
            origin: Origin { item: Some(index + 1), ..origin.clone() },
            value: Ok(value),
            text: Text { is_listed, ..text.clone() },
        };
        match value {
            Ok(Value::Array(items)) => {
                found.extend(items.into_iter().enumerate().map(|it| item(it, false)));
            }
            Ok(mut list) if shape::items_of_list(&list).is_some() => {
                let Value::Array(mut items) = list["items"].take() else { continue };
                shape::complete_items(&list, &mut items);
                found.extend(items.into_iter().enumerate().map(|it| item(it, true)));
            }
            value => found.push(Document { origin, value, text }),
        }
    }
    found
}

/// The documents of a stream, each with the number of the line before it. A document starts at a
/// line `---`; one without any text is none.
fn documents(text: &str) -> Vec<(usize, Range<usize>)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line) = (0, 0);
    let mut position = 0;
    let mut close = |from: usize, line: usize, to: usize| {
        let document = &text[from..to];
        let body = document.strip_prefix("---").unwrap_or(document);
        if !body.trim().is_empty() {
            documents.push((line, from..to));
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
    let values: Vec<Value> = serde_saphyr::from_multiple_with_options(document, options())
        .map_err(|error| {
            let place = error.location().map_or_else(String::new, |place| {
                format!("line {}, column {}: ", first_line as u64 + place.line(), place.column())
            });
            if let serde_saphyr::Error::UnsupportedTag { location, .. } = error.without_snippet() {
                let line = document.lines().nth((location.line() as usize).saturating_sub(1));
                return format!("{place}{}", tagged(line.unwrap_or_default()));
            }
            // It says the place again, counted from the document's first line.
            let text = error.without_snippet().to_string();
            let text = text.split(" at line ").next().unwrap_or_default();
            let text = match text.split_once(", set DuplicateKeyPolicy") {
                Some((text, _)) => format!("{text}; remove one"),
                None if text.contains("tabs disallowed") => {
                    "a tab; indent with spaces alone".to_owned()
                }
                None => text.to_owned(),
            };
            format!("{place}no YAML or JSON: {text}")
        })?;
    let mut values = values.into_iter().map(with_whole_numbers);
    values.next().ok_or_else(|| "it has nothing but comments; remove it, or its ---".to_owned())
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        reject_unsupported_tags: true,
        legacy_octal_numbers: true,
        budget: serde_saphyr::budget! {
            max_nodes: BUDGET_NODES,
            max_events: 4 * BUDGET_NODES,
        },
    }
}

/// What to do about a line whose value starts with `!`: YAML takes that for a tag, and the value
/// for something else or nothing.
fn tagged(line: &str) -> String {
    let (name, value) = line.split_once('!').unwrap_or((line, ""));
    let name = name.trim().trim_start_matches("- ").trim_end();
    let value = value.split(" #").next().unwrap_or_default().trim();
    let is_label = !value.is_empty()
        && value.chars().all(|it| it.is_ascii_alphanumeric() || "-_./".contains(it));
    let meant = match (name.ends_with("elector:"), is_label) {
        (true, true) => format!("!has({value})"),
        _ => format!("!{value}"),
    };
    format!("to YAML a value that starts with ! is a tag; write {name} {meant:?}")
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_one(text: &str) -> Result<Value, String> {
        read_text("f", &Arc::from(text)).remove(0).value
    }

    #[test]
    fn yaml_is_read_as_calicoctl_reads_it() {
        for (text, value) in [
            ("a: yes", serde_json::json!({"a": true})),
            ("a: n", serde_json::json!({"a": false})),
            ("a: 0x50", serde_json::json!({"a": 80})),
            ("a: 1_000", serde_json::json!({"a": 1000})),
            ("a: 017", serde_json::json!({"a": 15})),
            ("a: 2.0", serde_json::json!({"a": 2})),
            ("a: 1e3", serde_json::json!({"a": 1000})),
            ("a: '1'", serde_json::json!({"a": "1"})),
            ("a: 2001-01-01", serde_json::json!({"a": "2001-01-01"})),
            ("a: ~", serde_json::json!({"a": null})),
            ("a: &x {b: 1}\nc: *x", serde_json::json!({"a": {"b": 1}, "c": {"b": 1}})),
        ] {
            assert_eq!(read_one(text), Ok(value), "{text}");
        }
        assert!(
            read_one("a: 1\na: 2").unwrap_err().contains("duplicate mapping key: a; remove one")
        );
    }

    #[test]
    fn a_document_that_grows_without_end_is_refused() {
        let level = |level: usize| match level {
            0 => format!("a0: &a0 [{}]\n", ["x"; 10].join(", ")),
            level => {
                let below = format!("*a{}", level - 1);
                format!("a{level}: &a{level} [{}]\n", vec![below; 10].join(", "))
            }
        };
        let bomb: String = (0..12).map(level).collect();
        assert!(read_one(&bomb).is_err());
        assert!(read_one(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn the_line_of_a_field_is_found_in_lists_and_odd_names() {
        let text = "kind: TierList\nitems:\n- metadata:\n    name: a\n- metadata:\n    labels:\n      x/y.z: 1\n      \"a b\": 2\n";
        let places = Places::of(text, options());
        for (path, line) in [
            ("items[0].metadata.name", Some(4)),
            ("items[1].metadata.labels.x/y.z", Some(7)),
            ("items[1].metadata.labels[\"a b\"]", Some(8)),
            ("items[1].METADATA.labels", Some(6)),
            ("items[7].metadata", Some(2)),
            ("items[1].metadata.nothing", Some(5)),
            ("nothing", None),
        ] {
            assert_eq!(places.line(path), line, "{path}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn nothing_that_is_read_makes_it_panic(
            text in "(apiVersion: projectcalico.org/v3\n|kind: (IPPool|NetworkPolicy|Node|List|NodeList)\n|metadata: ?|spec: ?|  [a-z]{1,4}: ?|- |[{}\\[\\]!&*|>'\"#%@,:~\t]|\n|---\n|[a-zé0-9]){0,20}"
        ) {
            for Document { origin, value, text } in read_text("f", &Arc::from(text.as_str())) {
                let Ok(value) = value else { continue };
                if let Err(Faulty { faults, .. }) = shape::read(&value, text.is_listed) {
                    let mut lines = Lines::default();
                    for fault in &faults {
                        let _ = lines.behind(&origin, Some(&text), &fault.path);
                    }
                }
            }
        }
    }
}
