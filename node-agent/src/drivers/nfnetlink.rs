//! Reading nftables over netlink: what a table holds, without nft's cost of parsing it all.

use std::{collections::BTreeMap, io};

use arcstr::ArcStr;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NlaBuffer, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::Inventory;
use crate::{family::Family, nft::TABLE};

/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's type.
const SUBSYSTEM: u16 = 10 << 8;
const GET_CHAIN: u16 = SUBSYSTEM + 4;
const GET_RULE: u16 = SUBSYSTEM + 7;
const GET_SET: u16 = SUBSYSTEM + 10;
const GET_SET_ELEMENTS: u16 = SUBSYSTEM + 13;
const GET_GENERATION: u16 = SUBSYSTEM + 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Length of a message's own header and of nftables' after it.
const HEADERS: usize = 16 + 4;
/// In every message of a table the first attribute is the table's name.
const ATTR_TABLE: u16 = 1;
const ATTR_CHAIN_NAME: u16 = 3;
const ATTR_RULE_CHAIN: u16 = 2;
const ATTR_SET_NAME: u16 = 2;
const ATTR_SET_FLAGS: u16 = 3;
const ATTR_ELEMENTS: u16 = 3;
const ATTR_ELEMENT_FLAGS: u16 = 3;
const ATTR_GENERATION: u16 = 1;
/// A set that belongs to one rule.
const SET_ANONYMOUS: u32 = 1;
/// The end of an interval, rather than its beginning.
const ELEMENT_END: u32 = 1;
const ENOENT: i32 = 2;
/// How often a dump that changed while it ran is tried again.
const DUMP_TRIES: usize = 5;

/// A request socket to nftables.
pub(crate) struct NfNetlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl NfNetlink {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(1 << 16) })
    }

    /// The number of transactions that nftables took so far in this namespace.
    pub(crate) fn generation(&mut self) -> io::Result<u32> {
        let mut generation = None;
        self.request(GET_GENERATION, 0, 0, &[], |attributes| {
            generation = number(attributes, ATTR_GENERATION);
        })?;
        generation.ok_or_else(|| io::Error::other("no generation in the kernel's answer"))
    }

    /// What our table holds; none: there is no such table.
    pub(crate) fn inventory(&mut self, family: Family) -> io::Result<Option<Inventory>> {
        let mut inventory = Inventory::default();
        let of_table = [(ATTR_TABLE, TABLE)];
        let mut exists = false;
        self.dump(GET_CHAIN, family, &of_table, |attributes| {
            if text(attributes, ATTR_TABLE) == Some(TABLE) {
                exists = true;
                inventory.chains.extend(text(attributes, ATTR_CHAIN_NAME).map(|n| (n.into(), 0)));
            }
        })?;
        if !exists {
            return Ok(None);
        }
        self.dump(GET_RULE, family, &of_table, |attributes| {
            if text(attributes, ATTR_TABLE) == Some(TABLE)
                && let Some(chain) = text(attributes, ATTR_RULE_CHAIN)
            {
                *inventory.chains.entry(chain.into()).or_default() += 1;
            }
        })?;
        let mut sets: BTreeMap<ArcStr, usize> = BTreeMap::new();
        self.dump(GET_SET, family, &of_table, |attributes| {
            let anonymous = number(attributes, ATTR_SET_FLAGS).unwrap_or(0) & SET_ANONYMOUS != 0;
            if text(attributes, ATTR_TABLE) == Some(TABLE) && !anonymous {
                sets.extend(text(attributes, ATTR_SET_NAME).map(|name| (name.into(), 0)));
            }
        })?;
        for (name, count) in &mut sets {
            let of_set = [(ATTR_TABLE, TABLE), (ATTR_SET_NAME, name.as_str())];
            self.dump(GET_SET_ELEMENTS, family, &of_set, |attributes| {
                *count += value(attributes, ATTR_ELEMENTS).map_or(0, beginnings);
            })?;
        }
        inventory.sets = sets;
        Ok(Some(inventory))
    }

    fn dump(
        &mut self,
        kind: u16,
        family: Family,
        filter: &[(u16, &str)],
        mut on: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let family = match family {
            Family::V4 => 2,
            Family::V6 => 10,
        };
        for _ in 0..DUMP_TRIES {
            // What a dump found counts only when nothing changed while it ran.
            let mut found = Vec::new();
            let whole = self.request(kind, NLM_F_DUMP, family, filter, |attributes| {
                found.push(attributes.to_vec());
            })?;
            if whole {
                for attributes in &found {
                    on(attributes);
                }
                return Ok(());
            }
        }
        Err(io::Error::other("nftables changes faster than it can be read"))
    }

    /// Sends a request and hands on the attributes of each answer; whether nothing changed meanwhile.
    fn request(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        attributes: &[(u16, &str)],
        mut on: impl FnMut(&[u8]),
    ) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = vec![0; 4];
        message.extend(kind.to_ne_bytes());
        message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend([family, 0, 0, 0]);
        for (kind, text) in attributes {
            // Its value is the text and a zero byte; the next begins at a multiple of four.
            message.extend((text.len() as u16 + 5).to_ne_bytes());
            message.extend(kind.to_ne_bytes());
            message.extend(text.as_bytes());
            message.push(0);
            message.resize(message.len().next_multiple_of(4), 0);
        }
        let length = message.len() as u32;
        message[..4].copy_from_slice(&length.to_ne_bytes());
        self.socket.send(&message, 0)?;
        let mut whole = true;
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0)?;
            let mut rest = self.buffer.as_slice();
            while let Ok(header) = NetlinkBuffer::new_checked(rest) {
                let length = header.length() as usize;
                let message = &rest[..length];
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
                if header.sequence_number() != self.sequence {
                    continue;
                }
                whole &= header.flags() & NLM_F_DUMP_INTR == 0;
                match header.message_type() {
                    DONE => return Ok(whole),
                    ERROR => {
                        let code = message.get(16..20).and_then(|b| <[u8; 4]>::try_from(b).ok());
                        let code = code.map_or(0, i32::from_ne_bytes).abs();
                        return match code {
                            0 | ENOENT => Ok(whole),
                            code => Err(io::Error::from_raw_os_error(code)),
                        };
                    }
                    _ => on(message.get(HEADERS..).unwrap_or_default()),
                }
                if flags & NLM_F_DUMP == 0 {
                    return Ok(whole);
                }
            }
        }
    }
}

fn find(attributes: &[u8], kind: u16) -> Option<NlaBuffer<&[u8]>> {
    NlasIterator::new(attributes).flatten().find(|attribute| attribute.kind() == kind)
}

fn value(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let found = find(attributes, kind)?;
    let length = found.value_length();
    let inner: &[u8] = found.into_inner();
    inner.get(4..4 + length)
}

fn text(attributes: &[u8], kind: u16) -> Option<&str> {
    let value = value(attributes, kind)?;
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
}

fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(value(attributes, kind)?.try_into().ok()?))
}

/// How many elements of a list are no ends of intervals.
fn beginnings(list: &[u8]) -> usize {
    NlasIterator::new(list)
        .flatten()
        .filter(|element| {
            let flags = number(element.value(), ATTR_ELEMENT_FLAGS).unwrap_or(0);
            flags & ELEMENT_END == 0
        })
        .count()
}

/// Whether a notification is about one of our tables.
pub(crate) fn is_ours(message: &[u8]) -> bool {
    let family = message.get(16);
    let attributes = message.get(HEADERS..).unwrap_or_default();
    matches!(family, Some(2 | 10)) && text(attributes, ATTR_TABLE) == Some(TABLE)
}
