//! The nftables driver: one run of `nft -f -` per transaction.

use std::{
    collections::VecDeque,
    io::{self, Write},
    process::{Command, Stdio},
};

use super::{Inventory, Nft, NftError, nfnetlink::NfNetlink};
use crate::{
    family::Family,
    nft::{Transaction, text},
};

/// How many of our own runs are remembered, to tell their echoes from others' changes.
const REMEMBERED: usize = 64;

/// Runs `nft`.
#[derive(Default)]
pub struct NftCommand {
    /// Process ids of the last runs: nft binds its netlink socket to its process id.
    own: VecDeque<u32>,
    /// For reading; opened at first use.
    netlink: Option<NfNetlink>,
}

impl NftCommand {
    fn read<T>(
        &mut self,
        read: impl FnOnce(&mut NfNetlink) -> io::Result<T>,
    ) -> Result<T, NftError> {
        let socket = match &mut self.netlink {
            Some(socket) => Ok(socket),
            none => NfNetlink::open().map(|socket| none.insert(socket)),
        };
        socket.and_then(read).map_err(|error| {
            // A socket that failed may hold half of an answer.
            self.netlink = None;
            NftError::Unavailable(error.to_string())
        })
    }

    fn run(&mut self, args: &[&str], input: &str) -> Result<Vec<u8>, NftError> {
        let unavailable = |error: io::Error| NftError::Unavailable(error.to_string());
        let mut child = Command::new("nft")
            .args(args)
            // Its complaints are looked into below.
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(unavailable)?;
        if self.own.len() == REMEMBERED {
            self.own.pop_front();
        }
        self.own.push_back(child.id());
        if let Some(mut stdin) = child.stdin.take() {
            // A failure here means that nft ended early; its own words say more.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(unavailable)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let words = String::from_utf8_lossy(&output.stderr);
        if words.contains("Operation not permitted") {
            return Err(NftError::Unavailable("Operation not permitted".into()));
        }
        // nft prints each complaint with the command and a line of carets; the first says enough.
        let first: Vec<&str> = words.lines().take(2).collect();
        Err(NftError::Refused(first.join("; ")))
    }
}

impl Nft for NftCommand {
    fn commit(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        self.run(&["-f", "-"], &text::write(transaction)).map(drop)
    }

    fn check(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        // The whole batch goes to the kernel without its end mark: judged, then forgotten.
        self.run(&["-c", "-f", "-"], &text::write(transaction)).map(drop)
    }

    fn generation(&mut self) -> Result<u32, NftError> {
        self.read(NfNetlink::generation)
    }

    fn inventory(&mut self, family: Family) -> Result<Option<Inventory>, NftError> {
        self.read(|socket| socket.inventory(family))
    }

    fn is_own(&self, port: u32) -> bool {
        self.own.contains(&port)
    }
}
