//! The golden cases: where they are, and which disagreements with Calico are known.
//!
//! `tests/golden/differences.md` lists those that are meant, `tests/golden/pending.md` those that
//! aren't done. A disagreement outside both is red, and so is a listed case that agrees.

#![allow(dead_code, reason = "each test binary that includes this uses a part of it")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

/// The folder of the cases: `BULRUSH_GOLDEN`, else `../shared/golden` beside the checkout. None:
/// it isn't there, the caller returns, and the log says so.
pub(crate) fn folder() -> Option<PathBuf> {
    let folder = env::var_os("BULRUSH_GOLDEN")
        .map_or_else(|| repository().join("../shared/golden"), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    support::skipped(
        "golden",
        &format!("no cases in {}; BULRUSH_GOLDEN names their folder", folder.display()),
    );
    None
}

fn repository() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = crate_folder.ancestors().find(|folder| folder.join("Cargo.lock").is_file());
    root.expect("a crate of the workspace").to_owned()
}

/// A case that differs on purpose: under which heading, what Calico does, what we do.
struct Difference {
    class: String,
    calico: String,
    ours: String,
}

/// Judges the cases of one file.
pub(crate) struct Verdicts {
    file: &'static str,
    differences: BTreeMap<String, Difference>,
    pending: BTreeSet<String>,
    agreed: usize,
    deliberate: BTreeMap<String, usize>,
    unfinished: usize,
    wrong: Vec<String>,
}

impl Verdicts {
    /// `file` is the path below the folder of the cases.
    pub(crate) fn new(file: &'static str) -> Self {
        let mut differences = BTreeMap::new();
        for (class, row) in rows("differences.md", file) {
            let parts: Vec<_> = row.split(" → ").map(|part| part.trim_matches('`')).collect();
            let [id, calico, ours] = parts[..] else {
                panic!("{row:?} must be `id` → `Calico's` → `ours`")
            };
            let difference = Difference { class, calico: calico.to_owned(), ours: ours.to_owned() };
            let listed = differences.insert(id.to_owned(), difference);
            assert!(listed.is_none(), "{id} is listed twice");
        }
        let pending = rows("pending.md", file).into_iter().flat_map(|(_, row)| {
            row.split(", ").map(|id| id.trim_matches('`').to_owned()).collect::<Vec<_>>()
        });
        Self {
            file,
            differences,
            pending: pending.collect(),
            agreed: 0,
            deliberate: BTreeMap::new(),
            unfinished: 0,
            wrong: Vec::new(),
        }
    }

    /// One case: what disagrees in it (none: it agrees), and in a word what Calico does and what
    /// we do, as the list of deliberate differences has it.
    pub(crate) fn judge(&mut self, id: &str, disagreements: &[String], calico: &str, ours: &str) {
        if let Some(listed) = self.differences.get(id) {
            if disagreements.is_empty() {
                self.wrong.push(format!("{id}: agrees, take it off differences.md"));
            } else if listed.calico != calico || listed.ours != ours {
                self.wrong.push(format!("{id}: differs as {calico:?} → {ours:?}, not as listed"));
            } else {
                *self.deliberate.entry(listed.class.clone()).or_default() += 1;
            }
        } else if self.pending.contains(id) {
            if disagreements.is_empty() {
                self.wrong.push(format!("{id}: agrees, take it off pending.md"));
            }
            self.unfinished += 1;
        } else if disagreements.is_empty() {
            self.agreed += 1;
        } else {
            self.wrong.extend(disagreements.iter().map(|text| format!("{id}: {text}")));
        }
    }

    /// Something that no list excuses.
    pub(crate) fn wrong(&mut self, id: &str, text: &str) {
        self.wrong.push(format!("{id}: {text}"));
    }

    /// Prints every disagreement, and fails if there is one.
    pub(crate) fn finish(self) {
        let deliberate: usize = self.deliberate.values().sum();
        for (class, count) in &self.deliberate {
            println!("{}: {count} deliberate differences: {class}", self.file);
        }
        let Self { file, agreed, unfinished, wrong, .. } = self;
        println!("{file}: {agreed} agree, {unfinished} are pending, {} are wrong", wrong.len());
        for wrong in &wrong {
            println!("{wrong}");
        }
        assert!(wrong.is_empty(), "{} disagreements in {file}", wrong.len());
        assert!(agreed > 0, "{file} has no cases");
        let all = agreed + deliberate + unfinished;
        let may_be_many =
            || lines("differences.md", file).iter().any(|it| it.1.starts_with(GROWTH));
        assert!(
            deliberate * 20 <= all || may_be_many(),
            "{deliberate} of {all} differ: above 5%, and no line {GROWTH:?} says why"
        );
    }
}

/// What starts the line of `differences.md` that says why a file has more than 5% of them.
const GROWTH: &str = "Growth: ";

/// The list items for a file of cases, each with the `###` heading above it.
fn rows(list: &str, file: &str) -> Vec<(String, String)> {
    let items = lines(list, file).into_iter();
    items
        .filter_map(|(heading, line)| Some((heading, line.strip_prefix("- ")?.to_owned())))
        .collect()
}

/// The lines about a file of cases, each with the `###` heading above it.
fn lines(list: &str, file: &str) -> Vec<(String, String)> {
    let path = repository().join("tests/golden").join(list);
    let text = fs::read_to_string(&path).expect("a list of known differences");
    let mut heading = String::new();
    let mut is_ours = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            is_ours = title == format!("`{file}`");
        } else if let Some(title) = line.strip_prefix("### ") {
            title.clone_into(&mut heading);
        } else if is_ours {
            lines.push((heading.clone(), line.to_owned()));
        }
    }
    lines
}
