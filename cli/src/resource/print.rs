//! Resources on paper: tables, YAML, JSON, names.

use std::{
    fmt::{self, Write as _},
    fs,
    io::{self, Write},
    str::FromStr,
};

use anyhow::bail;
use model::{Key, Kind};
use serde_json::{Value, json};

use super::{
    API_VERSION, Object, columns, kinds,
    template::{Results, Template},
    yaml,
};

/// What `-o` takes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Format {
    Table,
    Wide,
    Yaml,
    Json,
    Columns(Vec<String>),
    Template(Template),
}

/// A format that isn't there.
#[derive(Debug)]
pub(crate) struct UnknownFormat(String);

impl std::error::Error for UnknownFormat {}

impl fmt::Display for UnknownFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A format, and the first word of one.
const FORMATS: &[&str] = &[
    "ps",
    "wide",
    "yaml",
    "json",
    "custom-columns=NAME,…",
    "go-template=TEMPLATE",
    "go-template-file=FILE",
];

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        let fault = |text: &str| Err(UnknownFormat(text.to_owned()));
        let template = |text: &str| {
            let template = Template::parse(text);
            template.map(Self::Template).map_err(|fault| UnknownFormat(fault.to_string()))
        };
        match text.split_once('=').unwrap_or((text, "")) {
            ("ps", "") => Ok(Self::Table),
            ("wide", "") => Ok(Self::Wide),
            ("yaml" | "yml", "") => Ok(Self::Yaml),
            ("json", "") => Ok(Self::Json),
            ("custom-columns", "") => fault("need at least one column: custom-columns=NAME,CIDR"),
            ("custom-columns", columns) => {
                Ok(Self::Columns(columns.split(',').map(str::to_owned).collect()))
            }
            ("go-template", "") => {
                fault("need a template: go-template='{{range .}}{{.Name}}{{end}}'")
            }
            ("go-template", text) => template(text),
            ("go-template-file", "") => fault("need a file: go-template-file=FILE"),
            ("go-template-file", file) => match fs::read_to_string(file) {
                Ok(text) => template(&text),
                Err(error) => Err(UnknownFormat(format!("{file}: can't be read: {error}"))),
            },
            (word, _) => {
                let words = FORMATS.iter().map(|it| it.split('=').next().unwrap_or(it));
                Err(UnknownFormat(match kinds::nearest(word, words) {
                    Some(near) => format!("no such format; did you mean {near}?"),
                    None => format!("no such format; there are {}", FORMATS.join(", ")),
                }))
            }
        }
    }
}

/// What was asked for: one object by name, or all of a kind.
pub(crate) enum Found {
    One(Key, Value),
    List { kind: Kind, version: u64, objects: Vec<(Key, Value)> },
}

impl Found {
    fn kind(&self) -> Kind {
        match self {
            Self::One(key, _) => key.kind,
            Self::List { kind, .. } => *kind,
        }
    }

    fn objects(&self) -> Vec<(&Key, &Value)> {
        match self {
            Self::One(key, object) => vec![(key, object)],
            Self::List { objects, .. } => objects.iter().map(|(key, it)| (key, it)).collect(),
        }
    }

    fn document(self) -> Value {
        match self {
            Self::One(_, object) => object,
            Self::List { kind, version, objects } => {
                let mut list = json!({
                    "apiVersion": API_VERSION,
                    "kind": format!("{kind}List"),
                    "metadata": {"resourceVersion": version.to_string()},
                });
                list["items"] = objects.into_iter().map(|(_, object)| object).collect();
                list
            }
        }
    }
}

/// How tables are to be.
pub(crate) struct Tables<'a> {
    /// Whether namespaced kinds show their namespace.
    pub(crate) with_namespace: bool,
    /// The cluster's AS number, for nodes without one.
    pub(crate) as_number: &'a str,
}

/// Whether showing this needs the cluster's AS number.
pub(crate) fn needs_as_number(format: &Format, found: &[Found]) -> bool {
    matches!(format, Format::Template(_)) || found.iter().any(|found| found.kind() == Kind::Node)
}

/// Writes what was found.
pub(crate) fn print(
    out: &mut impl Write,
    format: &Format,
    tables: &Tables<'_>,
    found: Vec<Found>,
) -> anyhow::Result<()> {
    match format {
        Format::Yaml | Format::Json => {
            let document = one_or_all(found);
            let text = match format {
                Format::Yaml => yaml::to_string(&document),
                // No newline at the end, as in calicoctl.
                _ => pretty(&document),
            };
            out.write_all(text.as_bytes())?;
            // The program ends: to give back thousands of objects one by one takes as long as to print them.
            std::mem::forget(document);
        }
        Format::Template(template) => {
            let mut text = String::new();
            template.run(&Results { found: &found, as_number: tables.as_number }, &mut text)?;
            out.write_all(text.as_bytes())?;
        }
        Format::Table | Format::Wide | Format::Columns(_) => {
            for each in &found {
                let kind = each.kind();
                let headings = headings(kind, format, tables.with_namespace)?;
                let rows = each.objects().into_iter().map(|(_, object)| {
                    let cell = |heading| columns::cell(kind, heading, object, tables.as_number);
                    headings.iter().map(|heading| cell(heading)).collect()
                });
                let rows: Vec<Vec<String>> = rows.collect();
                table(out, &headings, &rows)?;
            }
        }
    }
    Ok(())
}

/// One thing as it is, several as a list.
fn one_or_all(mut found: Vec<Found>) -> Value {
    match found.pop() {
        Some(one) if found.is_empty() => one.document(),
        last => found.into_iter().chain(last).map(Found::document).collect(),
    }
}

fn headings(
    kind: Kind,
    format: &Format,
    with_namespace: bool,
) -> anyhow::Result<Vec<&'static str>> {
    let columns = columns::of(kind);
    let chosen = match format {
        Format::Columns(names) => {
            let all = columns.all(kind);
            let mut chosen = Vec::new();
            for name in names {
                let Some(heading) = all.iter().find(|heading| *heading == name) else {
                    bail!("{kind} has no column {name:?}; it has {}", all.join(", "));
                };
                chosen.push(*heading);
            }
            return Ok(chosen);
        }
        Format::Wide => columns.wide,
        _ => columns.plain,
    };
    let namespace = (with_namespace && kind.is_namespaced()).then_some("NAMESPACE");
    Ok(namespace.into_iter().chain(chosen.iter().copied()).collect())
}

/// Columns three blanks apart, the last one padded as well, and an empty line below, as in
/// calicoctl.
fn table(out: &mut impl Write, headings: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let width = |index: usize| {
        let cells = rows.iter().map(|row| row[index].chars().count());
        cells.chain([headings[index].chars().count()]).max().unwrap_or_default() + 3
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let heading_row: Vec<String> = headings.iter().map(|text| (*text).to_owned()).collect();
    for row in std::iter::once(&heading_row).chain(rows) {
        for (cell, width) in row.iter().zip(&widths) {
            write!(out, "{cell:width$}")?;
        }
        writeln!(out)?;
    }
    writeln!(out)
}

/// JSON with the fields of a resource in the order in which people read them.
fn pretty(value: &Value) -> String {
    let mut out = String::new();
    write_pretty(&mut out, value, 0, true);
    out
}

/// `is_resource`: the value may be a resource, a list of some, or an array of these.
fn write_pretty(out: &mut String, value: &Value, depth: usize, is_resource: bool) {
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('{');
            let ordered = in_reading_order(map, is_resource);
            for (index, (key, value)) in ordered.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                newline(out, depth + 1);
                write_text(out, key);
                out.push_str(": ");
                let inner_is_resource = is_resource && matches!(key.as_str(), "items" | "metadata");
                write_pretty(out, value, depth + 1, inner_is_resource);
            }
            newline(out, depth);
            out.push('}');
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                newline(out, depth + 1);
                write_pretty(out, item, depth + 1, is_resource);
            }
            newline(out, depth);
            out.push(']');
        }
        Value::String(text) => write_text(out, text),
        other => {
            // Writing to a String doesn't fail.
            let _ = write!(out, "{other}");
        }
    }
}

fn write_text(out: &mut String, text: &str) {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
        out.extend(["\"", text, "\""]);
    } else {
        let _ = write!(out, "{}", Value::from(text));
    }
}

fn in_reading_order(map: &Object, is_resource: bool) -> Vec<(&String, &Value)> {
    const ORDER: &[&str] = &[
        "kind",
        "apiVersion",
        "metadata",
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "labels",
        "annotations",
        "spec",
        "status",
    ];
    let mut fields: Vec<_> = map.iter().collect();
    if is_resource {
        let place = |key: &str| ORDER.iter().position(|known| *known == key);
        fields.sort_by_key(|(key, _)| place(key).unwrap_or(ORDER.len()));
    }
    fields
}
