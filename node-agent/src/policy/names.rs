//! Names of chains and sets: hashes, since policy names are longer than the kernel takes and some
//! (`fwd`, `log`) are words of nft's language.

use std::fmt::Write as _;

use arcstr::ArcStr;
use sha2::{Digest, Sha256};

/// `prefix` tells people what it is; `parts` tell one thing from another.
pub(crate) fn name<'a>(prefix: &str, parts: impl IntoIterator<Item = &'a str>) -> ArcStr {
    let mut hasher = Sha256::new();
    for part in parts {
        // A length before each part, so that ("ab", "c") and ("a", "bc") differ.
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut out = format!("{prefix}-");
    for byte in &hasher.finalize()[..10] {
        let _ = write!(out, "{byte:02x}");
    }
    out.into()
}
