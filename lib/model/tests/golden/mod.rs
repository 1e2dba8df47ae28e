//! The golden cases: where they are, and which disagreements with Calico are deliberate.

#![allow(dead_code, reason = "each test binary that includes this uses a part of it")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

/// The folder of the cases: `BULRUSH_GOLDEN`, else `../shared/golden` beside the checkout. None:
/// it isn't there, the caller returns, and the log says so.
pub(crate) fn folder() -> Option<PathBuf> {
    let root = repository();
    let folder =
        env::var_os("BULRUSH_GOLDEN").map_or_else(|| root.join("../shared/golden"), Into::into);
    if folder.is_dir() {
        return Some(folder);
    }
    let skipped = format!("SKIPPED: no golden cases in {} (BULRUSH_GOLDEN)", folder.display());
    let required = env::var("BULRUSH_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|item| item.trim() == "golden"), "{skipped}");
    println!("{skipped}");
    None
}

fn repository() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = crate_folder.ancestors().find(|folder| folder.join("Cargo.lock").is_file());
    root.expect("a crate of the workspace").to_owned()
}

/// One deliberate difference of `tests/golden/differences.md`.
pub(crate) struct Difference {
    pub(crate) class: String,
    pub(crate) calico: String,
    pub(crate) ours: String,
}

/// The entries for one file of cases, by case id.
fn differences(file: &str) -> BTreeMap<String, Difference> {
    let path = repository().join("tests/golden/differences.md");
    let text = fs::read_to_string(&path).expect("the list of deliberate differences");
    let mut class = String::new();
    let mut in_file = false;
    let mut found = BTreeMap::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            in_file = heading.starts_with(&format!("`{file}`"));
        } else if let Some(heading) = line.strip_prefix("### ") {
            heading.clone_into(&mut class);
        } else if let Some(row) = line.strip_prefix("- ").filter(|_| in_file) {
            let mut parts = row.split(" → ");
            let mut part =
                || parts.next().unwrap_or_else(|| panic!("{line:?}: id → Calico → ours"));
            let id = part().trim_matches('`').to_owned();
            let [calico, ours] = [part(), part()].map(|text| text.trim_matches('`').to_owned());
            let difference = Difference { class: class.clone(), calico, ours };
            assert!(found.insert(id, difference).is_none(), "listed twice: {line:?}");
        }
    }
    found
}

/// Collects what one file's cases say, then judges: every disagreement is printed, a deliberate
/// one must be listed with both results, and a listed one must be a disagreement.
pub(crate) struct Verdicts {
    file: &'static str,
    listed: BTreeMap<String, Difference>,
    agreed: BTreeSet<String>,
    deliberate: BTreeMap<String, usize>,
    wrong: Vec<String>,
}

impl Verdicts {
    pub(crate) fn new(file: &'static str) -> Self {
        Self {
            file,
            listed: differences(file),
            agreed: BTreeSet::new(),
            deliberate: BTreeMap::new(),
            wrong: Vec::new(),
        }
    }

    /// What is listed for a case that differs on purpose.
    pub(crate) fn listed(&self, id: &str) -> Option<&Difference> {
        self.listed.get(id)
    }

    /// A case and what disagrees in it; none: it agrees.
    pub(crate) fn agree(&mut self, id: &str, disagreements: &[String]) {
        if disagreements.is_empty() {
            self.agreed.insert(id.to_owned());
        }
        self.wrong.extend(disagreements.iter().map(|text| format!("{id}: {text}")));
    }

    /// A case that differs exactly as listed.
    pub(crate) fn differs_as_listed(&mut self, id: &str) {
        let class = self.listed[id].class.clone();
        *self.deliberate.entry(class).or_default() += 1;
    }

    pub(crate) fn finish(self) {
        let deliberate: usize = self.deliberate.values().sum();
        for (class, count) in &self.deliberate {
            println!("{}: {count} deliberate differences: {class}", self.file);
        }
        println!("{}: {} agree, {} wrong", self.file, self.agreed.len(), self.wrong.len());
        for wrong in &self.wrong {
            println!("{wrong}");
        }
        assert!(self.wrong.is_empty(), "{} disagreements in {}", self.wrong.len(), self.file);
        assert!(!self.agreed.is_empty(), "{} has no cases", self.file);
        let all = self.agreed.len() + deliberate;
        assert!(deliberate * 20 <= all, "{deliberate} of {all} differ: above 5%");
    }
}
