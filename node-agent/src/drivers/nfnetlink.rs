//! Nftables over netlink: what a table holds, and changes of set elements.
//!
//! `nft` reads every interval set of the machine before it changes one element: 0.7 s beside a
//! foreign set of 100,000 networks. A message of our own costs what changes.

use std::{collections::BTreeMap, io, net::IpAddr};

use arcstr::ArcStr;
use netlink_packet_core::{
    NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NetlinkBuffer, NlaBuffer, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::Inventory;
use crate::{
    family::Family,
    nft::{Element, ElementAndVerdict, Step, TABLE, Transaction, Verdict},
};

/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's type.
const SUBSYSTEM: u16 = 10 << 8;
const GET_CHAIN: u16 = SUBSYSTEM + 4;
const GET_RULE: u16 = SUBSYSTEM + 7;
const GET_SET: u16 = SUBSYSTEM + 10;
const GET_SET_ELEMENTS: u16 = SUBSYSTEM + 13;
const GET_GENERATION: u16 = SUBSYSTEM + 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const NEW_SET_ELEMENTS: u16 = SUBSYSTEM + 12;
const DELETE_SET_ELEMENTS: u16 = SUBSYSTEM + 14;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// A batch must fit the socket's send buffer: above this many elements, text serves as well.
const MOST_ELEMENTS: usize = 1024;
/// Elements per message: an attribute has at most 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 256;
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
/// A set whose elements have values.
const SET_MAP: u32 = 8;
/// The end of an interval, rather than its beginning.
const ELEMENT_END: u32 = 1;
const ENOENT: i32 = 2;
/// How often a dump that changed while it ran is tried again.
const DUMP_TRIES: usize = 5;

/// Messages (type, flags, family, attributes) that change elements.
pub(crate) struct ElementBatch(Vec<(u16, u16, u8, Vec<u8>)>);

impl ElementBatch {
    /// The batch for a transaction that only changes elements of hashes, and not too many.
    pub(crate) fn of(transaction: &Transaction) -> Option<Self> {
        let mut messages = Vec::new();
        let mut count = 0;
        for (family, step) in &transaction.steps {
            let (kind, flags, set, elements) = match step {
                Step::AddElements(set, elements) => (NEW_SET_ELEMENTS, NLM_F_CREATE, set, elements),
                Step::DeleteElements(set, elements) => (DELETE_SET_ELEMENTS, 0, set, elements),
                _ => return None,
            };
            count += elements.len();
            // Intervals are pairs of elements whose ends neighbours may share: nft knows how.
            if count > MOST_ELEMENTS || elements.iter().any(|(e, _)| matches!(e, Element::Net(_))) {
                return None;
            }
            for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
                messages.push((kind, flags, family_number(*family), element_list(set, chunk)));
            }
        }
        (!messages.is_empty()).then_some(Self(messages))
    }
}

/// A request socket to nftables.
pub(crate) struct NfNetlink {
    socket: Socket,
    /// The address that notifications of our changes carry.
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl NfNetlink {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, port, sequence: 0, buffer: Vec::with_capacity(1 << 16) })
    }

    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Does all of a batch or nothing.
    pub(crate) fn commit(&mut self, batch: &ElementBatch) -> io::Result<()> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        self.message(&mut bytes, BATCH_BEGIN, 0, 0, &[]);
        for (n, (kind, flags, family, attributes)) in batch.0.iter().enumerate() {
            // One answer is enough; what fails answers anyhow.
            let ack = if n + 1 == batch.0.len() { NLM_F_ACK } else { 0 };
            self.message(&mut bytes, *kind, flags | ack, *family, attributes);
        }
        let last = self.sequence;
        self.message(&mut bytes, BATCH_END, 0, 0, &[]);
        self.socket.send(&bytes, 0)?;
        let mut result = Ok(());
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0)?;
            let mut rest = self.buffer.as_slice();
            while let Ok(header) = NetlinkBuffer::new_checked(rest) {
                let length = header.length() as usize;
                let message = &rest[..length];
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
                let place = header.sequence_number().wrapping_sub(first);
                if header.message_type() != ERROR || place > last.wrapping_sub(first) {
                    continue;
                }
                let code = error_code(message);
                if code != 0 && result.is_ok() {
                    result = Err(io::Error::from_raw_os_error(code));
                }
                // An error of the batch as a whole is told of its begin, and ends it.
                if place == last.wrapping_sub(first) || (place == 0 && code != 0) {
                    return result;
                }
            }
        }
    }

    /// Appends a message with its headers.
    fn message(&mut self, out: &mut Vec<u8>, kind: u16, flags: u16, family: u8, attributes: &[u8]) {
        self.sequence = self.sequence.wrapping_add(1);
        let length = (HEADERS + attributes.len()) as u32;
        out.extend(length.to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        out.extend(self.sequence.to_ne_bytes());
        out.extend(0_u32.to_ne_bytes());
        // The begin and end of a batch name the subsystem that it is for.
        let resource = if kind <= BATCH_END { SUBSYSTEM >> 8 } else { 0 };
        out.extend([family, 0]);
        out.extend(resource.to_be_bytes());
        out.extend(attributes);
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
            let flags = number(attributes, ATTR_SET_FLAGS).unwrap_or(0);
            if text(attributes, ATTR_TABLE) == Some(TABLE)
                && flags & SET_ANONYMOUS == 0
                && let Some(name) = text(attributes, ATTR_SET_NAME)
            {
                sets.insert(name.into(), 0);
                if flags & SET_MAP != 0 {
                    inventory.maps.insert(name.into());
                }
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
        let family = family_number(family);
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
        let mut list = Vec::new();
        for (kind, text) in attributes {
            put_text(&mut list, *kind, text);
        }
        let mut message = Vec::new();
        self.message(&mut message, kind, flags, family, &list);
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
                        return match error_code(message) {
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

fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// The error number of an answer; 0: it went well.
fn error_code(message: &[u8]) -> i32 {
    let code = message.get(16..20).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    code.map_or(0, i32::from_ne_bytes).abs()
}

/// Appends an attribute; the next begins at a multiple of four.
fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend((value.len() as u16 + 4).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn put_text(out: &mut Vec<u8>, kind: u16, text: &str) {
    put(out, kind, &[text.as_bytes(), &[0]].concat());
}

/// The attributes of a message about elements of a set.
fn element_list(set: &str, elements: &[ElementAndVerdict]) -> Vec<u8> {
    const LIST_ELEMENT: u16 = 1 | NLA_F_NESTED;
    let mut list = Vec::new();
    for (element, verdict) in elements {
        let mut one = Vec::new();
        let mut key = Vec::new();
        put(&mut key, 1, &key_bytes(element));
        put(&mut one, 1 | NLA_F_NESTED, &key);
        if let Some(verdict) = verdict {
            let (mut inner, mut data) = (Vec::new(), Vec::new());
            put_verdict(&mut inner, verdict);
            put(&mut data, 2 | NLA_F_NESTED, &inner);
            put(&mut one, 2 | NLA_F_NESTED, &data);
        }
        put(&mut list, LIST_ELEMENT, &one);
    }
    let mut out = Vec::new();
    put_text(&mut out, ATTR_TABLE, TABLE);
    put_text(&mut out, ATTR_SET_NAME, set);
    put(&mut out, ATTR_ELEMENTS | NLA_F_NESTED, &list);
    out
}

/// An element as the kernel compares it; each part of a concatenation takes a multiple of four.
fn key_bytes(element: &Element) -> Vec<u8> {
    let address = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    match element {
        Element::Host(host) => address(host),
        Element::Net(net) => address(&net.network()),
        Element::AddressPort(host, protocol, port) => {
            let port = port.to_be_bytes();
            [address(host), vec![*protocol, 0, 0, 0], vec![port[0], port[1], 0, 0]].concat()
        }
        Element::Interface(name) => {
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize(16, 0);
            bytes
        }
    }
}

fn put_verdict(out: &mut Vec<u8>, verdict: &Verdict) {
    let (code, chain) = match verdict {
        // A map can't answer a packet's sender: what would be told is dropped.
        Verdict::Drop | Verdict::Reject => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5_i32, None),
    };
    put(out, 1, &code.to_be_bytes());
    if let Some(chain) = chain {
        put_text(out, 2, chain);
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
