//! The table of bad input, `tests/bad-input.md`: what goes wrong, which test makes it go wrong, and the exact words
//! that a person then reads.

use std::path::Path;

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What goes wrong.
    pub case: String,
    /// The function that makes it go wrong.
    pub test: String,
    /// The words; `…` stands for whatever differs from run to run.
    pub message: String,
}

/// The rows of the table.
///
/// # Panics
/// When the table can't be read, or a row has another form.
pub fn rows() -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bad-input.md");
    let text = std::fs::read_to_string(&path).expect("tests/bad-input.md can be read");
    text.lines().filter(|line| line.starts_with('|')).skip(2).map(row).collect()
}

fn row(line: &str) -> Row {
    let inner = line.trim().trim_matches('|').replace("\\|", "\u{0}");
    let mut cells =
        inner.split('|').map(|cell| cell.trim().trim_matches('`').replace('\u{0}', "|"));
    match (cells.next(), cells.next(), cells.next(), cells.next()) {
        (Some(case), Some(test), Some(message), None) => Row { case, test, message },
        _ => panic!("tests/bad-input.md: a row is `| case | test | message |`, not {line}"),
    }
}

/// Asserts that the words for a case are those of the table.
///
/// # Panics
/// When they are not, or the table has no such case.
pub fn assert_bad_input(case: &str, message: &str) {
    let rows = rows();
    let row = rows.iter().find(|row| row.case == case);
    let row = row.unwrap_or_else(|| panic!("tests/bad-input.md has no case {case:?}"));
    assert!(
        matches(&row.message, message.trim_end()),
        "case {case:?}\n  table:  {}\n  really: {message}",
        row.message
    );
}

/// Whether `text` is `pattern`, where each `…` of the pattern stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ellipsis_stands_for_any_text_and_nothing_else_does() {
        assert!(matches("a … b", "a 1 b"));
        assert!(matches("…b", "b"));
        assert!(matches("a…b…c", "a1b2c"));
        assert!(!matches("a … b", "a 1 c"));
        assert!(!matches("a", "ab"));
        assert!(!matches("a…", "b"));
    }

    #[test]
    fn every_case_of_the_table_has_a_test_that_looks_at_its_message() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut sources = Vec::new();
        for folder in ["lib", "typha", "node-agent", "loadtest", "cli", "tests", "proto"] {
            collect(&root.join(folder), &mut sources);
        }
        let mut seen = std::collections::BTreeSet::new();
        for row in rows() {
            assert!(seen.insert(row.case.clone()), "twice in the table: {}", row.case);
            let function = format!("fn {}(", row.test);
            let call = format!("\"{}\"", row.case);
            let found = sources.iter().any(|text| text.contains(&function) && text.contains(&call));
            assert!(found, "no file has {function}…) and the case {call}");
        }
    }

    fn collect(folder: &Path, sources: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                collect(&path, sources);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(std::fs::read_to_string(&path).unwrap());
            }
        }
    }
}
