//! What is made from the descriptions of the kinds and kept in the repository is what they say now,
//! and what is written by hand beside it leaves nothing out.

#![allow(clippy::expect_used, reason = "in a test a panic is a failure with its place")]

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use bulrush_model::validate::{
    crd, reference,
    schema::{Object, Shape, Type},
    schemas, yaml,
};

/// Set, it writes the files instead of comparing them.
const WRITE: &str = "BULRUSH_WRITE";

fn repository() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = crate_folder.ancestors().find(|folder| folder.join("Cargo.lock").is_file());
    root.expect("a crate of the workspace").to_owned()
}

/// Holds a folder of the repository to these files: no other content, no more, no fewer.
fn assert_folder(folder: &str, files: &BTreeMap<String, String>) {
    let path = repository().join(folder);
    if env::var_os(WRITE).is_some() {
        fs::create_dir_all(&path).expect("a folder");
        for (name, text) in files {
            fs::write(path.join(name), text).expect("a file can be written");
        }
    }
    let mut wrong = Vec::new();
    for (name, text) in files {
        if fs::read_to_string(path.join(name)).ok().as_ref() != Some(text) {
            wrong.push(format!("{folder}/{name} is another one"));
        }
    }
    for entry in fs::read_dir(&path).into_iter().flatten() {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        if !files.contains_key(&name) {
            wrong.push(format!("{folder}/{name} is made from nothing: remove it"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{wrong:#?}\nmake them anew: {WRITE}=1 cargo test -p bulrush-model --test generated"
    );
}

#[test]
fn the_crds_are_what_the_schemas_say() {
    let files = schemas().filter_map(|schema| {
        let definition = crd::definition(schema)?;
        Some((format!("{}.yaml", schema.kind.plural()), yaml::document(&definition)))
    });
    assert_folder("deploy/crds", &files.collect());
}

#[test]
fn the_reference_pages_are_what_the_schemas_say() {
    let pages = schemas()
        .map(|schema| (schema.kind.name().to_lowercase() + ".md", reference::page(schema)))
        .chain([("README.md".to_owned(), reference::index(schemas()))]);
    assert_folder("docs/reference", &pages.collect());
}

/// Paths of fields that nobody says anything about.
fn mute(object: &Object, path: &str) -> Vec<String> {
    fn inner(shape: &Shape, path: &str) -> Vec<String> {
        match shape.ty {
            Type::Object(object) => mute(object, path),
            Type::List(items) => inner(items, path),
            Type::Map(values) => inner(values, path),
            _ => Vec::new(),
        }
    }
    let fields = object.fields.iter().flat_map(|field| {
        let path = format!("{path}.{}", field.name);
        let mut found = inner(&field.shape, &path);
        if field.doc.is_empty() {
            found.push(path);
        }
        found
    });
    fields.collect()
}

#[test]
fn every_kind_and_every_field_says_what_it_means() {
    let mut found = Vec::new();
    for schema in schemas() {
        assert!(!schema.doc.is_empty(), "{}", schema.kind);
        for field in schema.object.fields.iter().filter(|field| field.name != "metadata") {
            if let Type::Object(object) = field.shape.ty {
                found.extend(mute(object, &format!("{} {}", schema.kind, field.name)));
            }
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn users_are_told_of_every_class_of_differences() {
    let read = |path: &str| fs::read_to_string(repository().join(path)).expect("a page");
    let (list, page) = (read("tests/golden/differences.md"), read("docs/differences.md"));
    let classes = list.lines().filter_map(|line| line.strip_prefix("### ")?.split_once(": "));
    let untold: Vec<_> =
        classes.filter(|(_, title)| !page.contains(&format!("| {title} |"))).collect();
    assert_eq!(untold, [], "docs/differences.md has no row for them");
}
