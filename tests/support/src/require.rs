//! When a test may be skipped, and when a skip is a failure.

use std::io::Write;

/// The environment variable with the needs that must be met: words separated by commas, for example `etcd,netns,golden`.
const REQUIRE: &str = "BULRUSH_REQUIRE";

/// Says that the calling test does nothing because `need` (one word: `etcd`, `netns`, `golden`) isn't met, and `why`,
/// with the way to meet it. The test should then return.
///
/// # Panics
/// When `BULRUSH_REQUIRE` names the need: there, a skip is a failure.
pub fn skipped(need: &str, why: &str) {
    let required = std::env::var(REQUIRE).unwrap_or_default();
    assert!(!names(&required, need), "{REQUIRE} names {need}, and it is missing: {why}");
    // Straight to the stream: the test harness swallows what `println!` writes in a test that passes.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: {}: {why}",
        std::thread::current().name().unwrap_or("a test")
    );
}

fn names(required: &str, need: &str) -> bool {
    required.split(',').any(|word| word.trim() == need)
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn a_need_is_a_whole_word_of_the_list() {
        assert!(names("etcd", "etcd"));
        assert!(names("netns, etcd", "etcd"));
        assert!(!names("", "etcd"));
        assert!(!names("etcd-old", "etcd"));
    }
}
