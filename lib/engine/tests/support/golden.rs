//! Where the golden cases are, and which of them differ on purpose.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{env, fs, path::PathBuf};

/// The folder of the cases: `BULRUSH_GOLDEN`, else `../shared/golden` beside the checkout. None:
/// it isn't there, the caller returns, and the log says so.
pub(crate) fn folder() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/golden");
    let folder = env::var_os("BULRUSH_GOLDEN").map_or_else(|| beside.into(), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    let skipped = format!("SKIPPED: no golden cases in {} (BULRUSH_GOLDEN)", folder.display());
    let required = env::var("BULRUSH_REQUIRE").unwrap_or_default();
    assert!(!required.contains("golden"), "{skipped}");
    println!("{skipped}");
    None
}

/// A case that `tests/golden/differences.md` lists.
pub(crate) struct Difference {
    pub(crate) id: String,
    /// The heading above it.
    pub(crate) class: String,
    /// Only what contains one of these differs.
    pub(crate) at: Vec<String>,
}

/// The cases of a file, or of files, that differ on purpose: lines
/// ``- `id` at `part`, … → `Calico's` → `ours` ``.
pub(crate) fn differences(file: &str) -> Vec<Difference> {
    let list = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/differences.md");
    let text = fs::read_to_string(list).expect("a list of known differences");
    let (mut found, mut class, mut is_ours) = (Vec::new(), "", false);
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            is_ours = title == format!("`{file}`");
        } else if let Some(title) = line.strip_prefix("### ") {
            class = title;
        } else if let Some(row) = line.strip_prefix("- ").filter(|_| is_ours) {
            let parts: Vec<_> = row.split(" → ").collect();
            let [case, _, _] = parts[..] else {
                panic!("{row:?} must be `id` at `part` → `Calico's` → `ours`")
            };
            let (id, at) = case.split_once(" at ").expect("where it differs");
            let name = |text: &str| text.trim_matches('`').to_owned();
            let at = at.split(", ").map(name).collect();
            found.push(Difference { id: name(id), class: class.to_owned(), at });
        }
    }
    assert!(!found.is_empty(), "nothing about {file} in {list}");
    found
}
