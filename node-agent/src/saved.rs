//! The saved view: a file that tells a restarted agent what it held.
//!
//! It is written beside the agent's work, at most every few seconds and at the end, under another
//! name first: what stands under its name is whole. Where it can't be written or read the agent runs
//! all the same; a restart then takes a whole first sync, and waits for a server.

use std::{
    fs::{self, File},
    future,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use sync::{ClientSession, SavedError};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use tracing::{info, warn};

/// The file's name in the agent's folder.
const FILE: &str = "view";
/// It is written at most so often.
const PAUSE: Duration = Duration::from_secs(5);
/// How long the last write may take at the end.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why the saved view can't be used. Nothing is lost but time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The file.
    #[error("{path}: {error}; the agent starts without it", path = .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's word.
        error: io::Error,
    },
    /// What is in it.
    #[error("{path}: {error}; it is ignored, and the first sync is whole", path = .path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        error: SavedError,
    },
}

/// What an earlier run held; none: there was none, or it saved nothing.
pub(crate) fn load(folder: &Path, node: &str) -> Result<Option<ClientSession>, LoadError> {
    let path = folder.join(FILE);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LoadError::Read { path, error }),
        Ok(bytes) => bytes,
    };
    let restored = ClientSession::restore(node, &bytes);
    restored.map(Some).map_err(|error| LoadError::Unusable { path, error })
}

/// Writes the file, one write after the other.
pub(crate) struct Saver {
    folder: PathBuf,
    changed: bool,
    /// The next write not before.
    earliest: Instant,
    writing: Option<JoinHandle<io::Result<()>>>,
    /// Why the last write failed, as it was logged.
    problem: Option<String>,
}

impl Saver {
    pub(crate) fn new(folder: PathBuf) -> Self {
        let earliest = Instant::now();
        Self { folder, changed: false, earliest, writing: None, problem: None }
    }

    /// What is held has changed.
    pub(crate) fn changed(&mut self) {
        self.changed = true;
    }

    /// Waits until it is time for [`Self::write`]. Dropping the future loses nothing.
    pub(crate) async fn due(&mut self) {
        self.written().await;
        if !self.changed {
            future::pending::<()>().await;
        }
        sleep_until(self.earliest).await;
    }

    /// Starts to write; none: there is nothing to save yet.
    pub(crate) fn write(&mut self, view: Option<Bytes>) {
        self.changed = false;
        self.earliest = Instant::now() + PAUSE;
        let Some(view) = view else { return };
        let folder = self.folder.clone();
        self.writing = Some(tokio::task::spawn_blocking(move || write(&folder, &view)));
    }

    /// Writes what has changed since the last write, if the disk doesn't take too long.
    pub(crate) async fn finish(mut self, view: Option<Bytes>) {
        let last = async {
            self.written().await;
            if self.changed {
                self.write(view);
                self.written().await;
            }
        };
        if timeout(FAREWELL, last).await.is_err() {
            warn!("the view could not be saved in time");
        }
    }

    /// Waits for the write that is under way.
    async fn written(&mut self) {
        let Some(writing) = &mut self.writing else { return };
        let result = writing.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        self.writing = None;
        let problem = result.err().map(|error| error.to_string());
        if problem != self.problem {
            let path = self.folder.join(FILE);
            if let Some(problem) = &problem {
                warn!(path = %path.display(), problem, "the view can't be saved");
            } else {
                info!(path = %path.display(), "the view is saved again");
            }
        }
        // What could not be written is tried again.
        self.changed |= problem.is_some();
        self.problem = problem;
    }
}

fn write(folder: &Path, view: &[u8]) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let new = folder.join(format!("{FILE}.new"));
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(view)?;
    file.sync_all()?;
    fs::rename(new, folder.join(FILE))?;
    // The name is safe when its folder is.
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proto::v1::{AgentHello, Commit, ServerHello, ServerMessage, server_message::Message};

    use super::*;

    fn view() -> Bytes {
        let mut session = ClientSession::new();
        session.hello(AgentHello::default(), false);
        let hello =
            ServerHello { epoch: "e".into(), digest_key: vec![0; 16], ..Default::default() };
        for message in [Message::Hello(hello), Message::Commit(Commit::default())] {
            session.receive(ServerMessage { message: Some(message) }).unwrap();
        }
        session.save("n").unwrap()
    }

    fn files(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_view_is_replaced_whole_and_only_the_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("deep/inside");
        assert!(load(&folder, "n").unwrap().is_none(), "there was no earlier run");
        write(&folder, b"an older one").unwrap();
        write(&folder, &view()).unwrap();
        assert_eq!(load(&folder, "n").unwrap().unwrap().epoch(), "e");
        let mode = fs::metadata(folder.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(files(&folder), [FILE]);
    }

    #[test]
    fn a_saved_view_that_cannot_be_used_is_named_and_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let said = |bytes: &[u8]| {
            write(folder.path(), bytes).unwrap();
            load(folder.path(), "n").map(drop).unwrap_err().to_string()
        };
        let view = view();
        support::assert_bad_input("agent: a torn saved view", &said(&view[..view.len() - 1]));
        support::assert_bad_input(
            "agent: a saved view of another version",
            &said(b"bulrush view 2\n"),
        );
        write(folder.path(), &view).unwrap();
        let other = load(folder.path(), "m").map(drop).unwrap_err().to_string();
        support::assert_bad_input("agent: a saved view of another node", &other);
        fs::remove_file(folder.path().join(FILE)).unwrap();
        fs::create_dir(folder.path().join(FILE)).unwrap();
        let unreadable = load(folder.path(), "n").map(drop).unwrap_err().to_string();
        support::assert_bad_input("agent: a saved view that can't be read", &unreadable);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_written_at_most_every_five_seconds_and_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut saver = Saver::new(folder.path().to_owned());
        let begin = Instant::now();
        let mut at = Vec::new();
        for _ in 0..3 {
            saver.changed();
            saver.due().await;
            at.push(begin.elapsed().as_secs());
            saver.write(Some(view()));
        }
        assert_eq!(at, [0, 5, 10]);
        let unchanged = timeout(Duration::from_mins(1), saver.due()).await;
        assert!(unchanged.is_err(), "nothing has changed");
        fs::remove_file(folder.path().join(FILE)).unwrap();
        saver.changed();
        saver.finish(Some(view())).await;
        assert_eq!(files(folder.path()), [FILE]);
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_is_tried_again() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("folder");
        fs::write(&folder, "in the way").unwrap();
        let mut saver = Saver::new(folder.clone());
        saver.changed();
        saver.due().await;
        saver.write(Some(view()));
        saver.written().await;
        assert!(saver.problem.is_some() && saver.changed);
        fs::remove_file(&folder).unwrap();
        saver.finish(Some(view())).await;
        assert_eq!(files(&folder), [FILE]);
    }
}
