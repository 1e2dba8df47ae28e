//! In-memory twins of the drivers: they hold state, refuse what the kernel would refuse, and record
//! what was asked of them, so that reconcilers are tested without root.

mod nft;
mod rtnl;

use std::{collections::BTreeMap, io};

pub use self::{
    nft::{MemoryNft, MemoryTable, NftRefusal},
    rtnl::{MemoryRtnl, RtnlRefusal},
};
use super::{Kernel, Nft, Rtnl, Sysctl};

/// A kernel in memory.
#[derive(Default)]
pub struct MemoryKernel {
    /// Its nftables.
    pub nft: MemoryNft,
    /// Its links and routes.
    pub rtnl: MemoryRtnl,
    /// Its sysctls.
    pub sysctl: MemorySysctl,
}

impl Kernel for MemoryKernel {
    fn nft(&mut self) -> &mut dyn Nft {
        &mut self.nft
    }

    fn network(&mut self) -> (&mut dyn Rtnl, &mut dyn Sysctl) {
        (&mut self.rtnl, &mut self.sysctl)
    }
}

/// Sysctls in memory: what was set.
#[derive(Default)]
pub struct MemorySysctl {
    /// Value by path.
    pub values: BTreeMap<String, String>,
}

impl Sysctl for MemorySysctl {
    fn get(&mut self, path: &str) -> io::Result<String> {
        self.values.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn set(&mut self, path: &str, value: &str) -> io::Result<()> {
        self.values.insert(path.to_owned(), value.to_owned());
        Ok(())
    }
}
