//! Where the real servers are: `KUBEBUILDER_ASSETS`, the folder that `.ci/servers` fills, then `PATH`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Every etcd found, newest first, with a label such as `etcd-3.6.6`; one per version. To get one, run `.ci/servers`
/// or install Debian's `etcd-server`.
pub fn etcd_binaries() -> Vec<(String, PathBuf)> {
    found("etcd", &["--version"], [0; 3])
}

/// Every etcdctl found, newest first, with a label such as `etcdctl-3.6.6`; one per version.
pub fn etcdctl_binaries() -> Vec<(String, PathBuf)> {
    found("etcdctl", &["version"], [0; 3])
}

/// The etcdctl of this etcd's version, if it can also restore what it saves: up to 3.5.
pub(crate) fn snapshot_restorer(etcd: &Path) -> Option<PathBuf> {
    let of = version(etcd, &["--version"]).filter(|version| *version < [3, 6, 0])?;
    candidates("etcdctl").into_iter().find(|path| version(path, &["version"]) == Some(of))
}

/// The programs of Kubernetes without which no test can use it.
const KUBERNETES: [&str; 2] = ["kube-apiserver", "kubectl"];

/// The first `program` of Kubernetes found, for example `kubectl`.
pub fn kubernetes(program: &str) -> Option<PathBuf> {
    candidates(program).into_iter().next()
}

/// An etcd that is new enough for an API server.
pub(crate) fn etcd_for_kubernetes() -> Option<(String, PathBuf)> {
    found("etcd", &["--version"], [3, 5, 0]).into_iter().next()
}

/// What an API server needs and this machine lacks.
pub(crate) fn missing_of_kubernetes() -> Vec<&'static str> {
    let mut missing: Vec<&str> =
        KUBERNETES.into_iter().filter(|program| kubernetes(program).is_none()).collect();
    if etcd_for_kubernetes().is_none() {
        missing.push("etcd 3.5 or newer");
    }
    missing
}

fn found(program: &str, arguments: &[&str], oldest: [u32; 3]) -> Vec<(String, PathBuf)> {
    let mut found: Vec<([u32; 3], PathBuf)> = Vec::new();
    for path in candidates(program) {
        let Some(version) = version(&path, arguments) else { continue };
        if version >= oldest && found.iter().all(|(known, _)| *known != version) {
            found.push((version, path));
        }
    }
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let label = |[major, minor, patch]: [u32; 3]| format!("{program}-{major}.{minor}.{patch}");
    found.into_iter().map(|(version, path)| (label(version), path)).collect()
}

fn candidates(program: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    folders.extend(std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from));
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    if let Some(servers) = cache.and_then(|cache| cache.join("bulrush/servers").read_dir().ok()) {
        // One that is being built has a name with a dot in front.
        let is_whole = |path: &PathBuf| {
            path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
        };
        folders.extend(servers.flatten().map(|entry| entry.path()).filter(is_whole));
    }
    folders.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    folders.into_iter().map(|folder| folder.join(program)).filter(|path| path.is_file()).collect()
}

/// The first `N.N.N` in what the program says about itself; none when it can't run.
fn version(program: &Path, arguments: &[&str]) -> Option<[u32; 3]> {
    let said = Command::new(program).args(arguments).env("ETCDCTL_API", "3").output().ok()?;
    String::from_utf8_lossy(&said.stdout).split_whitespace().find_map(three_numbers)
}

fn three_numbers(word: &str) -> Option<[u32; 3]> {
    let numbers: Vec<u32> = word.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::three_numbers;

    #[test]
    fn a_version_is_three_numbers() {
        assert_eq!(three_numbers("3.10.23"), Some([3, 10, 23]));
        assert_eq!(three_numbers("go1.19.8"), None);
        assert_eq!(three_numbers("3.4"), None);
    }
}
