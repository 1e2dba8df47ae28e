//! Which resources a command is about: those of files, or those that its arguments name.

use anyhow::bail;
use model::Kind;

use super::{
    kinds,
    manifest::{self, Contents, Manifest, Origin},
    shape::Written,
};

/// The resources that a command is about.
#[derive(clap::Args)]
pub(crate) struct SourceArgs {
    /// The kind, in any case: ippool, ippools, pool, networkpolicy, np, ...
    #[arg(conflicts_with = "files")]
    kind: Option<String>,

    /// Their names
    names: Vec<String>,

    /// Files, folders, or - for standard input: YAML documents or JSON
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<String>,

    /// Also read the folders in folders
    #[arg(short = 'R', long)]
    recursive: bool,

    /// Succeed when a file holds no resources
    #[arg(long)]
    skip_empty: bool,

    /// The namespace of resources that need one and name none [default: default]
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
}

/// What the arguments say.
pub(crate) enum Source {
    /// These resources. A name may be empty.
    Resources(Vec<Manifest>),
    /// Files in which not everything is a resource.
    Faulty(Contents),
    /// A kind without a name.
    Kind(Kind),
    /// Files without any resource, which is fine with `--skip-empty`.
    Nothing,
}

impl SourceArgs {
    /// Reads the files, or the arguments. Anything in the files that is no resource refuses all of
    /// them.
    pub(crate) fn read(&self) -> anyhow::Result<Source> {
        match self.read_all()? {
            Source::Faulty(contents) => contents.sound().map(Source::Resources),
            source => Ok(source),
        }
    }

    /// As [`Self::read`], with the faults beside the resources.
    pub(crate) fn read_all(&self) -> anyhow::Result<Source> {
        let Some(kind) = &self.kind else {
            if self.files.is_empty() {
                bail!("which resources? Give a kind and names, or -f FILE");
            }
            let contents = manifest::read(&self.files, self.recursive, self.skip_empty)?;
            if !contents.faults.is_empty() {
                return Ok(Source::Faulty(contents));
            }
            return Ok(match contents.manifests {
                none if none.is_empty() && self.skip_empty => Source::Nothing,
                none if none.is_empty() => {
                    bail!("no resources in {}; or pass --skip-empty", self.files.join(", "))
                }
                manifests => Source::Resources(manifests),
            });
        };
        let kind = kinds::parse(kind).map_err(anyhow::Error::msg)?;
        if self.names.iter().any(String::is_empty) {
            bail!("a name must not be empty");
        }
        if self.names.is_empty() {
            return Ok(Source::Kind(kind));
        }
        let manifests = self.names.iter().map(|name| Manifest {
            origin: Origin::arguments(),
            written: Written::named(kind, name),
            text: None,
        });
        Ok(Source::Resources(manifests.collect()))
    }

    /// As [`Self::read`], for commands that need a name. None: there is nothing to do, which was
    /// said.
    pub(crate) fn read_named(&self) -> anyhow::Result<Option<Vec<Manifest>>> {
        self.read()?.named()?.map(Contents::sound).transpose()
    }
}

impl Source {
    /// What has names. None: there is nothing to do, which was said.
    pub(crate) fn named(self) -> anyhow::Result<Option<Contents>> {
        match self {
            Self::Resources(manifests) => Ok(Some(Contents { manifests, faults: Vec::new() })),
            Self::Faulty(contents) => Ok(Some(contents)),
            Self::Kind(kind) => bail!("which {kind}? Give its name, or -f FILE"),
            Self::Nothing => {
                say!("No resources specified");
                Ok(None)
            }
        }
    }
}
