//! Where the golden cases are.

use std::{env, path::PathBuf};

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
