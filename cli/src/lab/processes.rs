//! Processes of a lab: found by a mark in their environment, or by the namespace that they are in.
//!
//! The kernel is asked each time which processes they are: there is no file of pids, so none that could be stale, and a
//! pid that was reused is never killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::bail;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::network::netns_path;

/// The environment variable whose value is the lab's folder, a slash, and the part's name.
pub(crate) const MARK: &str = "BULRUSH_LAB_PART";

/// How long processes may take to be gone once killed.
const GONE: Duration = Duration::from_secs(10);

/// Every process with a mark below this folder, by the rest of the mark, which is the part's name. A part may have
/// children; a process that has ended and waits for its parent has no mark.
pub(crate) fn of_parts(folder: &Path) -> BTreeMap<String, BTreeSet<Pid>> {
    let prefix = format!("{MARK}={}/", folder.display());
    let mut parts: BTreeMap<String, BTreeSet<Pid>> = BTreeMap::new();
    for pid in pids() {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut entries = environment.split(|byte| *byte == 0);
        if let Some(part) = entries.find_map(|entry| entry.strip_prefix(prefix.as_bytes())) {
            parts.entry(String::from_utf8_lossy(part).into_owned()).or_default().insert(pid);
        }
    }
    parts
}

/// The processes inside any of these namespaces.
pub(crate) fn inside(namespaces: &[String]) -> BTreeSet<Pid> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let namespaces: BTreeSet<_> =
        namespaces.iter().filter_map(|netns| identity(&netns_path(netns))).collect();
    let inside = |pid: &Pid| {
        let own = identity(Path::new(&format!("/proc/{pid}/ns/net")));
        own.is_some_and(|own| namespaces.contains(&own))
    };
    pids().filter(inside).collect()
}

/// Every process but this one.
fn pids() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .filter(|pid| *pid != Pid::this())
}

/// Kills what `find` finds until it finds nothing.
pub(crate) fn kill_all(find: impl Fn() -> BTreeSet<Pid>) -> anyhow::Result<()> {
    let deadline = Instant::now() + GONE;
    loop {
        let found = find();
        if found.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let pids: Vec<String> = found.iter().map(ToString::to_string).collect();
            bail!("these processes don't end: {}", pids.join(", "));
        }
        for pid in found {
            // It may have ended meanwhile.
            let _ = kill(pid, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
