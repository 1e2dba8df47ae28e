//! Processes and folders that end with the test binary, however it ends: a value in a static is never dropped, and a
//! killed binary drops nothing.
//!
//! Each has a shell beside it that reads from a pipe whose other end only we hold. When that closes, the shell cleans up.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Runs the command, tells its pid, and kills it at the end of the input.
const KEEP_PROCESS: &str = r#"log=$1; shift; "$@" >"$log" 2>&1 </dev/null & echo $!; read -r _; kill -9 $! 2>/dev/null; wait"#;
/// Removes the folder at the end of the input, after the processes that write into it.
const KEEP_FOLDER: &str = r#"read -r _; sleep 0.5; rm -rf "$1"; sleep 1; rm -rf "$1""#;

/// A process that ends at the latest when we do.
#[derive(Debug)]
pub(crate) struct Process {
    keeper: Child,
    pid: u32,
    log: PathBuf,
}

impl Process {
    /// Starts it with its output in the file `log`.
    pub(crate) fn spawn(program: &Path, arguments: &[&str], log: &Path) -> Self {
        let mut command = keeper(KEEP_PROCESS);
        command.arg(log).arg(program).args(arguments).stdout(Stdio::piped());
        let mut keeper = command.spawn().expect("a shell");
        let mut line = String::new();
        let output = keeper.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("the pid");
        let pid = line.trim().parse().expect("the shell tells a pid");
        Self { keeper, pid, log: log.to_owned() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it is gone, or waits for its shell as a zombie.
    pub(crate) fn has_ended(&mut self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.starts_with(" Z"))
    }

    /// The end of what it wrote.
    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(4000)..]).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// A new folder that is removed at the latest when we end.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Its input closes with us; nobody waits for it.
    _keeper: Child,
}

impl Folder {
    pub(crate) fn new() -> Self {
        let path = tempfile::Builder::new()
            .prefix("bulrush-test-")
            .tempdir()
            .expect("a temporary folder")
            .keep();
        let keeper = keeper(KEEP_FOLDER).arg(&path).stdout(Stdio::null()).spawn().expect("a shell");
        Self { path, _keeper: keeper }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// In a process group of its own: an interrupt from the keyboard isn't for it.
fn keeper(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]);
    command.stdin(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    command
}
