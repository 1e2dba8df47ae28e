//! The lab's folder: what was made, so that later commands find it and `down` leaves nothing.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::{
    parts::{Part, TyphaPorts},
    plan::Plan,
};

/// Where the folders of labs are: gone after a reboot, as namespaces are.
const ROOT: &str = "/run/bulrush-lab";
const FILE: &str = "lab.json";

/// A lab, as its file holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lab {
    pub(crate) plan: Plan,
    /// What the identifiers of its objects are made from.
    pub(crate) seed: String,
    /// The store's URL; empty without agents.
    pub(crate) store: String,
    /// Whether the lab's objects are in the store, or some of them.
    pub(crate) wrote_objects: bool,
    pub(crate) typha: TyphaPorts,
    /// Its processes, in the order in which they start. Without `store`, the store isn't the lab's own.
    pub(crate) parts: Vec<Part>,
}

impl Lab {
    /// A lab of which nothing has been made.
    pub(crate) fn new(plan: Plan, seed: String) -> Self {
        Self {
            plan,
            seed,
            store: String::new(),
            wrote_objects: false,
            typha: TyphaPorts::default(),
            parts: Vec::new(),
        }
    }

    /// One of its processes.
    pub(crate) fn part(&self, name: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.name == name)
    }

    /// Where agents find typha.
    pub(crate) fn typha_address(&self) -> String {
        format!("{}:{}", self.plan.host.addr(), self.typha.agents)
    }

    /// Where the status page is.
    pub(crate) fn page(&self) -> String {
        format!("http://127.0.0.1:{}", self.typha.status)
    }
}

/// A lab's folder.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    name: String,
    path: PathBuf,
}

impl Folder {
    /// The folder of the lab `name`, which may not exist.
    pub(crate) fn of(name: &str) -> Self {
        Self { name: name.to_owned(), path: Path::new(ROOT).join(name) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the folder. That is also what keeps a second lab of this name away.
    pub(crate) fn create(&self) -> anyhow::Result<()> {
        let try_once = || {
            // The end of another lab may remove the root in between.
            fs::create_dir_all(ROOT)?;
            fs::create_dir(&self.path)
        };
        let first = try_once();
        let again = matches!(&first, Err(error) if error.kind() == io::ErrorKind::NotFound);
        match if again { try_once() } else { first } {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(
                "the lab {0:?} is up already: end it with `bulrush lab --name {0} down`, or choose another --name",
                self.name
            ),
            result => result.with_context(|| format!("making {}", self.path.display())),
        }
    }

    /// Keeps other labs from choosing addresses and ports until the file is dropped. This folder must exist.
    pub(crate) fn choosing() -> anyhow::Result<File> {
        let lock = || {
            let root = File::open(ROOT)?;
            root.lock()?;
            Ok::<_, io::Error>(root)
        };
        lock().with_context(|| format!("locking {ROOT}"))
    }

    /// Writes the lab's file, whole or not at all.
    pub(crate) fn save(&self, lab: &Lab) -> anyhow::Result<()> {
        let new = self.path.join("lab.json.new");
        let write = || {
            fs::write(&new, serde_json::to_vec_pretty(lab)?)?;
            fs::rename(&new, self.path.join(FILE))
        };
        write().with_context(|| format!("writing {}", self.path.join(FILE).display()))
    }

    /// The lab; an error that says how to get one if there is none.
    pub(crate) fn load(&self) -> anyhow::Result<Lab> {
        self.find()?.with_context(|| {
            format!("there is no lab {0:?}: `bulrush lab --name {0} up` starts one", self.name)
        })
    }

    /// The lab; none if there is none, or if it went down before anything was made.
    pub(crate) fn find(&self) -> anyhow::Result<Option<Lab>> {
        let path = self.path.join(FILE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("reading {}", path.display()))?,
        };
        let lab = serde_json::from_slice(&text).with_context(|| {
            format!("{} is not what this version of bulrush writes", path.display())
        })?;
        Ok(Some(lab))
    }

    /// A number that no earlier probe of this lab had.
    pub(crate) fn next_probe(&self) -> anyhow::Result<u64> {
        let path = self.path.join("probes");
        let next = || {
            let mut file =
                File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
            // Another probe may be at the same place. The lock goes with the file.
            file.lock()?;
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            let number: u64 = text.parse().unwrap_or_default();
            file.rewind()?;
            write!(file, "{}", number + 1)?;
            Ok::<_, io::Error>(number)
        };
        next().with_context(|| format!("counting probes in {}", path.display()))
    }

    /// Removes the folder, and that of all labs after the last.
    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", self.path.display()));
            }
            _ => {}
        }
        // Another lab may still be there.
        let _ = fs::remove_dir(ROOT);
        Ok(())
    }

    /// Every lab of this machine whose file can be read.
    pub(crate) fn all() -> Vec<Lab> {
        let folders = fs::read_dir(ROOT).into_iter().flatten().flatten();
        folders
            .filter_map(|entry| Self::of(entry.file_name().to_str()?).find().ok().flatten())
            .collect()
    }
}
