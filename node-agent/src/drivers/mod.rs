//! The edges to the kernel: traits, their drivers, and their in-memory twins.
//!
//! | trait | driver | what it reaches |
//! |---|---|---|
//! | [`Nft`] | [`nft::NftCommand`] | the tables `calico` |
//! | [`Rtnl`] | [`netlink::Netlink`] | links, addresses, routes, neighbours, FDB |
//! | [`Sysctl`] | [`sysctl::ProcSys`] | `/proc/sys/net` |
//!
//! Drivers are synchronous and act in the network namespace of the thread that made them and calls
//! them. [`memory`] holds the twins; [`monitor`] turns kernel notifications into events.

pub mod memory;
pub mod monitor;
pub mod netlink;
mod nfnetlink;
pub mod nft;
pub mod sysctl;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::IpAddr,
    str::FromStr,
};

use arcstr::ArcStr;
use ipnet::IpNet;

use crate::{family::Family, nft::Transaction};

/// Everything a [`crate::Reconciler`] acts on.
pub trait Kernel {
    /// The nftables edge.
    fn nft(&mut self) -> &mut dyn Nft;
    /// The edges to links and routes, and to sysctls.
    fn network(&mut self) -> (&mut dyn Rtnl, &mut dyn Sysctl);
}

/// The kernel of the calling thread's network namespace.
pub struct LinuxKernel {
    nft: nft::NftCommand,
    rtnl: netlink::Netlink,
    sysctl: sysctl::ProcSys,
}

impl LinuxKernel {
    /// Opens it. Use it from this thread only, or from threads of the same network namespace.
    ///
    /// # Errors
    /// When no netlink socket can be opened.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            nft: nft::NftCommand::new("nft"),
            rtnl: netlink::Netlink::open()?,
            sysctl: sysctl::ProcSys,
        })
    }
}

impl Kernel for LinuxKernel {
    fn nft(&mut self) -> &mut dyn Nft {
        &mut self.nft
    }

    fn network(&mut self) -> (&mut dyn Rtnl, &mut dyn Sysctl) {
        (&mut self.rtnl, &mut self.sysctl)
    }
}

/// Why a transaction didn't happen.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The kernel, or nft itself, refuses a part of it: trying again as it is won't help.
    #[error("nftables refuses it: {0}")]
    Refused(String),
    /// It wasn't judged at all.
    #[error("nft doesn't run ({0}): is nftables installed, and do we have CAP_NET_ADMIN?")]
    Unavailable(String),
}

/// How many rules each chain holds, and how many elements each set or map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Rules by chain.
    pub chains: BTreeMap<ArcStr, usize>,
    /// Elements by set or map.
    pub sets: BTreeMap<ArcStr, usize>,
    /// Which of these are maps.
    pub maps: BTreeSet<ArcStr>,
}

/// The tables `calico`.
pub trait Nft {
    /// Does all of it or nothing.
    fn commit(&mut self, transaction: &Transaction) -> Result<(), NftError>;

    /// Whether the kernel would take it; changes nothing.
    fn check(&mut self, transaction: &Transaction) -> Result<(), NftError>;

    /// A number that moves with every transaction of anybody's in this network namespace.
    fn generation(&mut self) -> Result<u32, NftError>;

    /// What the table holds; none: there is no table.
    fn inventory(&mut self, family: Family) -> Result<Option<Inventory>, NftError>;

    /// Whether a notification with this netlink port is the echo of a commit of ours.
    fn is_own(&self, port: u32) -> bool;
}

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, byte) in self.0.iter().enumerate() {
            let colon = if n == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that isn't six hexadecimal bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no MAC: expected such as 66:00:00:00:00:01")]
pub struct BadMac(pub String);

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| (1..=2).contains(&part.len()));
            let value = part.and_then(|part| u8::from_str_radix(part, 16).ok());
            *byte = value.ok_or_else(|| BadMac(text.to_owned()))?;
        }
        if parts.next().is_some() { Err(BadMac(text.to_owned())) } else { Ok(Self(mac)) }
    }
}

/// A VXLAN device as it should be or is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// The network's number.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Source of the outer packets.
    pub local: Option<IpAddr>,
    /// Index of the device that carries the outer packets; 0: none.
    pub parent: u32,
    /// Whether it learns where MACs are from packets.
    pub learning: bool,
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A VXLAN device.
    Vxlan(Vxlan),
    /// An IP-in-IP device without endpoints of its own.
    Ipip,
    /// Anything else.
    Other,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number; a device that is made anew gets another.
    pub index: u32,
    /// Its name.
    pub name: ArcStr,
    /// What it is.
    pub kind: LinkKind,
    /// Its hardware address; none: it has none.
    pub mac: Option<Mac>,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
}

/// A device that we make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSpec {
    /// Its name.
    pub name: ArcStr,
    /// What it is.
    pub kind: LinkKind,
    /// Its hardware address, where that is ours to choose.
    pub mac: Option<Mac>,
    /// The largest packet, in bytes.
    pub mtu: u32,
}

/// A route's place in the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// Where it leads.
    pub destination: IpNet,
    /// Lower wins among equal destinations.
    pub metric: u32,
}

impl RouteKey {
    /// The place that our routes take: the kernel's default metric of the family.
    pub fn ours(destination: IpNet) -> Self {
        let metric = match Family::of_net(destination) {
            Family::V4 => 0,
            Family::V6 => 1024,
        };
        Self { destination, metric }
    }
}

/// How a packet goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// The address is on this link.
    Link {
        /// The device.
        index: u32,
    },
    /// By this gateway, taken to be on this link.
    Gateway {
        /// The device.
        index: u32,
        /// The gateway.
        gateway: IpAddr,
    },
    /// Nowhere: what no longer route catches is dropped, rather than sent to the default gateway.
    Blackhole,
    /// Something that we never write.
    Other,
}

/// A route's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteValue {
    /// How a packet goes on.
    pub next: NextHop,
    /// Who wrote it: [`PROTOCOL`] for ours.
    pub protocol: u8,
}

impl RouteValue {
    /// A route of ours.
    pub fn ours(next: NextHop) -> Self {
        Self { next, protocol: PROTOCOL }
    }

    /// The device that it uses; none: none, or not known.
    pub fn device(&self) -> Option<u32> {
        match self.next {
            NextHop::Link { index } | NextHop::Gateway { index, .. } => Some(index),
            NextHop::Blackhole | NextHop::Other => None,
        }
    }
}

/// The protocol number of our routes; also Felix's, so that either agent takes over the other's.
pub const PROTOCOL: u8 = 80;

/// One change over rtnetlink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RtnlOp {
    /// Makes a device, set up.
    AddLink(LinkSpec),
    /// Changes a device in place, and sets it up.
    ChangeLink(u32, LinkSpec),
    /// Removes a device.
    DeleteLink(u32),
    /// Adds an address to a device.
    AddAddress(u32, IpNet),
    /// Removes an address from a device.
    DeleteAddress(u32, IpNet),
    /// Adds a route; fails where one has its place.
    AddRoute(RouteKey, RouteValue),
    /// Adds a route in the place of the one that may be there.
    ReplaceRoute(RouteKey, RouteValue),
    /// Removes a route; it is enough that place, protocol and device are right.
    DeleteRoute(RouteKey, RouteValue),
    /// Sets the permanent neighbour entry of an address.
    SetNeighbour(u32, IpAddr, Mac),
    /// Removes a neighbour entry.
    DeleteNeighbour(u32, IpAddr),
    /// Sets the VXLAN peer behind a MAC.
    SetFdb(u32, Mac, IpAddr),
    /// Removes the VXLAN peer behind a MAC.
    DeleteFdb(u32, Mac, IpAddr),
}

/// In a few words, for messages.
impl fmt::Display for RtnlOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddLink(spec) => write!(f, "adding device {}", spec.name),
            Self::ChangeLink(_, spec) => write!(f, "changing device {}", spec.name),
            Self::DeleteLink(index) => write!(f, "removing device {index}"),
            Self::AddAddress(_, net) => write!(f, "adding address {net}"),
            Self::DeleteAddress(_, net) => write!(f, "removing address {net}"),
            Self::AddRoute(key, _) => write!(f, "adding route {}", key.destination),
            Self::ReplaceRoute(key, _) => write!(f, "changing route {}", key.destination),
            Self::DeleteRoute(key, _) => write!(f, "removing route {}", key.destination),
            Self::SetNeighbour(_, address, _) => write!(f, "setting neighbour {address}"),
            Self::DeleteNeighbour(_, address) => write!(f, "removing neighbour {address}"),
            Self::SetFdb(_, mac, _) => write!(f, "setting VXLAN peer {mac}"),
            Self::DeleteFdb(_, mac, _) => write!(f, "removing VXLAN peer {mac}"),
        }
    }
}

/// Why the kernel didn't do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RtnlError {
    /// Something has that place already.
    #[error("something else is in its place")]
    Exists,
    /// Device, route or entry isn't there.
    #[error("not there")]
    Missing,
    /// The kernel knows no such thing: its module is missing.
    #[error("the kernel doesn't support it")]
    Unsupported,
    /// Anything else, in the kernel's words.
    #[error("{0}")]
    Other(String),
}

/// Links, addresses, routes, neighbours and FDB.
pub trait Rtnl {
    /// All devices.
    fn links(&mut self) -> Result<Vec<Link>, RtnlError>;
    /// All addresses: device, address with its prefix.
    fn addresses(&mut self) -> Result<Vec<(u32, IpNet)>, RtnlError>;
    /// The routes of the main table that are of [`PROTOCOL`].
    fn routes(&mut self, family: Family) -> Result<Vec<(RouteKey, RouteValue)>, RtnlError>;
    /// The routes of the main table, whoever wrote them. Slow: for conflicts only.
    fn all_routes(&mut self, family: Family) -> Result<Vec<(RouteKey, RouteValue)>, RtnlError>;
    /// The permanent neighbour entries of a device.
    fn neighbours(&mut self, index: u32) -> Result<Vec<(IpAddr, Mac)>, RtnlError>;
    /// The VXLAN peers of a device.
    fn fdb(&mut self, index: u32) -> Result<Vec<(Mac, IpAddr)>, RtnlError>;
    /// Makes changes in order, many in flight; one result each, and a failure stops none.
    fn apply(&mut self, ops: &[RtnlOp]) -> Vec<Result<(), RtnlError>>;
}

/// `/proc/sys`.
pub trait Sysctl {
    /// Reads a value, without its line end; the path is as in `net/ipv4/ip_forward`.
    fn get(&mut self, path: &str) -> io::Result<String>;
    /// Writes a value.
    fn set(&mut self, path: &str, value: &str) -> io::Result<()>;
}
