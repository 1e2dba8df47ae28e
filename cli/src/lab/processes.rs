//! Processes of a lab: found by the log that they write, or by the namespace that they are in.
//!
//! The kernel is asked each time which processes they are: there is no file of pids, so none that could be stale, and a
//! pid that was reused is never killed. Standard output is the only mark that a process has from its first moment on and
//! keeps through every exec; its environment is gone or another's for a moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::bail;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::network::netns_path;

/// How long processes may take to be gone once killed.
const GONE: Duration = Duration::from_secs(10);

/// Where a part writes its output, by the part's name.
pub(crate) fn log(folder: &Path, part: &str) -> PathBuf {
    folder.join(format!("{part}.log"))
}

/// Every process whose standard output is a log in this folder, by the part's name. A part may have children; a process
/// that has ended and waits for its parent isn't one any more.
pub(crate) fn of_parts(folder: &Path) -> BTreeMap<String, BTreeSet<Pid>> {
    let mut parts: BTreeMap<String, BTreeSet<Pid>> = BTreeMap::new();
    for pid in pids() {
        let Ok(output) = fs::read_link(format!("/proc/{pid}/fd/1")) else { continue };
        let name = output.strip_prefix(folder).ok().and_then(Path::to_str);
        if let Some(part) = name.and_then(|name| name.strip_suffix(".log")) {
            parts.entry(part.to_owned()).or_default().insert(pid);
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

/// Kills what `find` finds until it finds nothing, and returns when all of it has given back what it held, ports among it.
pub(crate) fn kill_all(find: impl Fn() -> BTreeSet<Pid>) -> anyhow::Result<()> {
    let deadline = Instant::now() + GONE;
    let mut ending = BTreeSet::new();
    loop {
        for pid in find() {
            // It may have ended meanwhile.
            let _ = kill(pid, Signal::SIGKILL);
            ending.insert(pid);
        }
        ending.retain(|pid| !has_ended(*pid));
        if ending.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let pids: Vec<String> = ending.iter().map(ToString::to_string).collect();
            bail!("these processes don't end: {}", pids.join(", "));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process is gone, or only waits for its parent. Its files go one by one before that, and with its last
/// thread: that one of them is gone says nothing of the others.
fn has_ended(pid: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // The state comes after the name, which is in parentheses and may contain some.
    let is_zombie = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']));
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    is_zombie && threads <= 1
}
