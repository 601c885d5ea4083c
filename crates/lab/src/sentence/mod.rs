//! What an expectation says, as a value. The grammar stands in docs/lab.md; [`parse`] reads it.

mod parse;
mod words;

use std::{net::IpAddr, ops::Range};

use viaduct_types::{MacAddr, Proto};

pub use parse::parse;

use crate::file::Name;

/// One expectation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sentence {
    /// `client reaches web at 203.0.113.10:80/tcp as 198.51.100.7`
    Reach(Reach),
    /// `frames of 203.0.113.28 on internet carry 00:16:3e:00:00:28`, `… in VLAN 2`
    Frames(Frames),
    /// `client resolves 203.0.113.28 to 00:16:3e:00:00:28`, `nobody answers for 203.0.113.29 on internet`
    Resolve(Resolve),
    /// `mallory sending as 192.168.1.4 is heard by nobody`
    Forge(Forge),
    /// `host runs "ip route" and sees "via 203.0.113.1"`
    Run(Run),
}

/// Whether packets get from one machine to another and back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Who asks.
    pub from: Name,
    /// The source address it binds; none: what its routes choose.
    pub source: Option<IpAddr>,
    /// `reaches`, or `cannot reach`.
    pub reaches: bool,
    /// Who must answer; none: whoever has the address.
    pub to: Option<Name>,
    /// Where to; none: a ping to the first address of each family that both have.
    pub at: Option<Target>,
    /// The client's address as the answering side must see it.
    pub seen_as: Option<IpAddr>,
}

/// What a connection or a ping goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The address.
    pub address: IpAddr,
    /// The port; none: ping.
    pub service: Option<(u16, Proto)>,
}

/// Which MAC address an address's frames leave with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames {
    /// The sender in the IP header or as ARP's sender.
    pub of: IpAddr,
    /// The switch, or the receiving machine, where they are looked at.
    pub on: Name,
    /// The only source MAC address that they may have.
    pub carry: MacAddr,
    /// The only 802.1Q tag that they may have; none: tags are not looked at.
    pub vlan: Option<u16>,
}

/// Who answers for an address in ARP or neighbour discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolve {
    /// Who asks.
    pub asker: Asker,
    /// What for.
    pub address: IpAddr,
    /// The only answer there may be; none: there must be no answer.
    pub to: Option<MacAddr>,
}

/// Who asks for an address's MAC address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A machine, on all of its interfaces.
    Machine(Name),
    /// An outside machine on that switch.
    SomebodyOn(Name),
}

/// Frames that a machine makes up, and who may notice them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forge {
    /// Who sends.
    pub from: Name,
    /// What.
    pub what: Forgery,
    /// How it is packed.
    pub wrap: Wrap,
    /// Who may.
    pub heard: Heard,
}

/// Who may notice a made-up frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// No one.
    ByNobody,
    /// All of these, maybe others.
    By(Vec<Name>),
    /// None of these, maybe others.
    NotBy(Vec<Name>),
}

/// What is made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgery {
    /// Packets to everybody.
    Packets {
        /// The source address; none: an own one.
        address: Option<IpAddr>,
        /// The source MAC address; none: the own one.
        mac: Option<MacAddr>,
    },
    /// ARP replies and gratuitous ARP, or unsolicited neighbour advertisements and solicitations, that claim an
    /// address.
    Claim(IpAddr),
    /// ARP requests or solicitations by which a machine asks whether somebody has an address before it takes it (RFC 5227,
    /// section 2.1.1; RFC 4862, section 5.4).
    Probe(IpAddr),
    /// DHCP offers and DHCPv6 advertisements.
    DhcpServer,
    /// Router advertisements.
    Router,
}

/// How a made-up packet is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrap {
    /// As it is.
    Plain,
    /// Cut in two fragments.
    Fragments,
    /// In an 802.1Q tag.
    Vlan(u16),
    /// In an 802.1ad tag and in an 802.1Q tag.
    DoubleTags,
}

/// A command on a machine and what comes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where.
    pub machine: Name,
    /// A line for `sh`; `viaduct` is the host's own.
    pub command: String,
    /// What comes of it.
    pub then: Then,
}

/// What a command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// Exits with status 0.
    Succeeds,
    /// Exits with another status.
    Fails,
    /// Succeeds and its output holds the text.
    Sees(String),
    /// Succeeds and its output does not hold the text.
    DoesNotSee(String),
}

/// Why a text is no sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentenceError {
    /// The bytes of the text that are wrong.
    pub at: Range<usize>,
    /// What is wrong with them.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

impl Sentence {
    /// Whether checking it sends what others could be misled by; such ones wait until the rest is done.
    pub fn forges(&self) -> bool {
        matches!(self, Self::Forge(_))
    }
}
