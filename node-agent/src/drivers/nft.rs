//! The nftables driver: one run of `nft -f -` per transaction, or one netlink batch where only
//! elements change.

use std::{
    collections::VecDeque,
    io::{self, Write},
    process::{Command, Stdio},
};

use super::{
    Inventory, Nft, NftError,
    nfnetlink::{ElementBatch, NfNetlink},
};
use crate::{
    family::Family,
    nft::{Transaction, text},
};

/// How many of our own runs are remembered, to tell their echoes from others' changes.
const REMEMBERED: usize = 64;

/// Runs `nft`, and speaks netlink itself.
pub struct NftCommand {
    program: String,
    /// Process ids of the last runs: nft binds its netlink socket to its process id.
    own: VecDeque<u32>,
    /// Opened at first use.
    netlink: Option<NfNetlink>,
}

impl NftCommand {
    /// A driver that runs this program for what isn't elements alone.
    pub fn new(program: &str) -> Self {
        Self { program: program.to_owned(), own: VecDeque::new(), netlink: None }
    }

    fn netlink<T>(
        &mut self,
        act: impl FnOnce(&mut NfNetlink) -> io::Result<T>,
    ) -> Result<T, NftError> {
        let socket = match &mut self.netlink {
            Some(socket) => Ok(socket),
            none => NfNetlink::open().map(|socket| none.insert(socket)),
        };
        socket.and_then(act).map_err(|error| {
            // A socket that failed may hold half of an answer.
            self.netlink = None;
            NftError::Unavailable(error.to_string())
        })
    }

    fn run(&mut self, args: &[&str], input: &str) -> Result<Vec<u8>, NftError> {
        let unavailable = |error: io::Error| NftError::Unavailable(error.to_string());
        let mut child = Command::new(&self.program)
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
        // No fault of what was asked: another try may go well.
        let trouble = ["Operation not permitted", "Cannot allocate memory", "cache initialization"];
        if output.status.code().is_none() || trouble.iter().any(|text| words.contains(text)) {
            return Err(NftError::Unavailable(format!("{}: {}", output.status, words.trim_end())));
        }
        // nft prints each complaint with the command and a line of carets; the first says enough.
        let first: Vec<&str> = words.lines().take(2).collect();
        Err(NftError::Refused(first.join("; ")))
    }
}

impl Nft for NftCommand {
    fn commit(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        if let Some(batch) = ElementBatch::of(transaction)
            && self.netlink(|socket| socket.commit(&batch)).is_ok()
        {
            return Ok(());
        }
        // What was refused changed nothing, and nft says why in words.
        self.run(&["-f", "-"], &text::write(transaction)).map(drop)
    }

    fn check(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        // The whole batch goes to the kernel without its end mark: judged, then forgotten.
        self.run(&["-c", "-f", "-"], &text::write(transaction)).map(drop)
    }

    fn generation(&mut self) -> Result<u32, NftError> {
        self.netlink(NfNetlink::generation)
    }

    fn inventory(&mut self, family: Family) -> Result<Option<Inventory>, NftError> {
        self.netlink(|socket| socket.inventory(family))
    }

    fn is_own(&self, port: u32) -> bool {
        self.own.contains(&port) || self.netlink.as_ref().is_some_and(|own| own.port() == port)
    }
}
