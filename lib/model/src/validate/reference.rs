//! The description of a kind as a page for people, in Markdown.

use std::fmt::Write;

use super::{
    crd, format,
    schema::{Check, Field, Literal, Object, Schema, Shape, Type},
};

/// The page of a kind.
pub fn page(schema: &Schema) -> String {
    let kind = schema.kind;
    let mut out = format!("# {kind}\n\n{}\n\n", schema.doc);
    let place = if kind.is_namespaced() { "in a namespace" } else { "of the whole cluster" };
    let _ = writeln!(out, "Objects of this kind are {place}. {}\n", names(schema));
    if schema.name.says != format::NAME.says {
        let _ = writeln!(out, "Its name must be {}.\n", schema.name.says);
    }
    for (object, paths) in objects(schema) {
        let paths: Vec<_> = paths.iter().map(|path| format!("`{path}`")).collect();
        let _ = writeln!(out, "## {}\n", paths.join(", "));
        table(&mut out, object);
        let rules = object.rules.iter().map(|rule| rule.says);
        list(&mut out, "Rules:", rules);
    }
    let mut rules: Vec<_> = schema.object.rules.iter().map(|rule| rule.says).collect();
    rules.extend(schema.on_server.iter().map(|rule| rule.says));
    list(&mut out, "Of the whole object:", rules.into_iter());
    out.trim_end().to_owned() + "\n"
}

/// The page that lists all others.
pub fn index<'a>(schemas: impl Iterator<Item = &'a Schema>) -> String {
    let mut out = INTRODUCTION.to_owned();
    for schema in schemas {
        let kind = schema.kind;
        let short = crd::short_names(kind).join(", ");
        let file = kind.name().to_lowercase();
        let _ = writeln!(out, "| [{kind}]({file}.md) | {short} | {} |", schema.doc);
    }
    out
}

const INTRODUCTION: &str = "\
# Kinds

The objects that Bulrush reads, as Calico's API has them. `apiVersion` is `projectcalico.org/v3`; \
`crd.projectcalico.org/v1` is read too. `metadata` is that of Kubernetes.

These pages, the CRDs in `deploy/crds` and `bulrush validate` are made from one description of each field. That a \
field is read and checked doesn't mean that something acts on it yet: the README's table of status says what does.

**Unknown fields.** An API server leaves them out without a word; `kubectl` refuses them first, unless it is told \
`--validate=false`. `bulrush` refuses them with their path, because a rule without a condition that its author wrote \
allows more than was meant.

**What an API server doesn't check** and `bulrush` does: parentheses of selectors; host bits of networks in lists; \
ranges of ports without a protocol; names of BGP communities; regular expressions and labels in lists; AS numbers \
that are written as texts. Objects that break such a rule are read as strictly as they can be: what can't be \
understood allows nothing.

**null** is the same as absent. An API server refuses it as an item of a list.

| kind | short | |
|---|---|---|
";

fn names(schema: &Schema) -> String {
    let (plural, short) = (schema.kind.plural(), crd::short_names(schema.kind));
    if crd::definition(schema).is_none() {
        return "A Kubernetes cluster keeps no objects of this kind: they are made from its own."
            .to_owned();
    }
    let short: Vec<_> = short.iter().map(|name| format!("`{name}`")).collect();
    let short = if short.is_empty() { String::new() } else { format!(", or {}", short.join(", ")) };
    format!("`kubectl` knows them as `{plural}.projectcalico.org`{short}.")
}

/// Every object of the kind, with the paths at which it is.
fn objects(schema: &Schema) -> Vec<(&'static Object, Vec<String>)> {
    let mut found: Vec<(&'static Object, Vec<String>)> = Vec::new();
    // Metadata is no business of the kind.
    let fields = schema.object.fields.iter().filter(|field| field.name != "metadata");
    for field in fields {
        visit(&field.shape, field.name.to_owned(), &mut found);
    }
    found
}

fn visit(shape: &Shape, path: String, found: &mut Vec<(&'static Object, Vec<String>)>) {
    match shape.ty {
        Type::Object(object) => {
            let known = found.iter_mut().find(|(known, _)| std::ptr::eq(*known, object));
            if let Some((_, paths)) = known {
                paths.push(path);
                return;
            }
            found.push((object, vec![path.clone()]));
            for field in object.fields {
                visit(&field.shape, format!("{path}.{}", field.name), found);
            }
        }
        Type::List(items) => visit(items, format!("{path}[]"), found),
        Type::Map(values) => visit(values, format!("{path}.*"), found),
        _ => {}
    }
}

fn table(out: &mut String, object: &Object) {
    out.push_str("| field | type | if absent | meaning |\n|---|---|---|---|\n");
    for field in object.fields {
        let mut meaning = vec![field.doc.to_owned()];
        meaning.extend(limits(&field.shape));
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} |",
            field.name,
            type_name(&field.shape.ty),
            absent(field),
            cell(&meaning.join(" ")),
        );
    }
    out.push('\n');
}

fn absent(field: &Field) -> String {
    match field.default {
        Some(Literal::Text(text)) => format!("`{text}`"),
        Some(Literal::Int(number)) => format!("`{number}`"),
        Some(Literal::Bool(value)) => format!("`{value}`"),
        None if crd::is_required(field) => "refused".to_owned(),
        None => cell(field.absent),
    }
}

/// Text that doesn't end its cell.
fn cell(text: &str) -> String {
    text.trim().replace('|', "\\|")
}

fn type_name(ty: &Type) -> String {
    match ty {
        Type::Bool => "true or false".to_owned(),
        Type::Int(..) | Type::MaybeInt(..) => "whole number".to_owned(),
        Type::Float => "number".to_owned(),
        Type::Text => "text".to_owned(),
        Type::Duration => "duration".to_owned(),
        Type::Time => "time".to_owned(),
        Type::Port => "port".to_owned(),
        Type::NameOrByte => "name or number".to_owned(),
        Type::AsNumber => "AS number".to_owned(),
        Type::IntOrText => "number or text".to_owned(),
        Type::Any => "anything".to_owned(),
        Type::List(items) => format!("list: {}", type_name(&items.ty)),
        Type::Map(values) => format!("map: {}", type_name(&values.ty)),
        Type::Object(_) => "object".to_owned(),
    }
}

/// What must hold for the value, and for its items, as sentences.
fn limits(shape: &Shape) -> Vec<String> {
    let mut limits: Vec<_> = shape.checks.iter().filter_map(limit).collect();
    if let Type::List(items) | Type::Map(items) = shape.ty {
        limits.extend(items.checks.iter().filter_map(limit).map(|text| format!("Each: {text}")));
    }
    limits
}

fn limit(check: &Check) -> Option<String> {
    Some(match check {
        Check::OneOf(choices) => {
            let choices: Vec<_> = choices
                .iter()
                .map(
                    |choice| {
                        if choice.is_empty() { "empty".to_owned() } else { format!("`{choice}`") }
                    },
                )
                .collect();
            format!("One of {}.", choices.join(", "))
        }
        Check::Pattern(pattern) => format!("Matches `{}`.", pattern.text),
        Check::MaxLength(max) => format!("At most {max} characters."),
        Check::Range(min, i64::MAX) => format!("At least {min}."),
        Check::Range(min, max) => format!("From {min} to {max}."),
        Check::MinItems(min) => format!("At least {min} items."),
        Check::MaxItems(max) => format!("At most {max} items."),
        Check::Unique => "No item twice.".to_owned(),
        // It belongs to a rule that says so.
        Check::Is(format) if format.says == "of one IP version" => return None,
        Check::Is(format) => format!("Must be {}.", format.says),
    })
}

fn list<'a>(out: &mut String, title: &str, items: impl Iterator<Item = &'a str>) {
    let mut items = items.peekable();
    if items.peek().is_none() {
        return;
    }
    let _ = writeln!(out, "{title}\n");
    for item in items {
        let _ = writeln!(out, "- {item}");
    }
    out.push('\n');
}
