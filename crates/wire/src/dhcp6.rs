//! DHCP for IPv6 (RFC 8415): what clients say, and what a server answers.

use std::net::Ipv6Addr;

use viaduct_types::{Ipv6Net, MacAddr};

use crate::{
    boot::{Booting, HTTP_CLIENT},
    dns_names,
};

/// Where servers listen.
pub const SERVER: u16 = 547;
/// Where clients listen.
pub const CLIENT: u16 = 546;
/// ff02::1:2, where clients look for servers.
pub const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// So many associations of a message are looked at.
const ASSOCIATIONS: usize = 4;
/// So many addresses, or prefixes, of an association.
const MEMBERS: usize = 16;
/// Whose number UEFI has its vendor class under (UEFI specification, section 24.7).
const INTEL: [u8; 4] = 343u32.to_be_bytes();
/// The longest identifier (RFC 8415, section 11.1).
const LONGEST_DUID: usize = 130;

/// The numbers of options.
pub mod option {
    /// What a client is known by.
    pub const CLIENT_ID: u16 = 1;
    /// What a server is known by.
    pub const SERVER_ID: u16 = 2;
    /// An association of addresses.
    pub const IA_NA: u16 = 3;
    /// One of its addresses.
    pub const ADDRESS: u16 = 5;
    /// Which options a client wants.
    pub const WANTED: u16 = 6;
    /// How much a server wants to be chosen.
    pub const PREFERENCE: u16 = 7;
    /// How it went.
    pub const STATUS: u16 = 13;
    /// Two messages instead of four.
    pub const RAPID_COMMIT: u16 = 14;
    /// What a client's user calls it.
    pub const USER_CLASS: u16 = 15;
    /// What a client's vendor calls it.
    pub const VENDOR_CLASS: u16 = 16;
    /// Name servers (RFC 3646).
    pub const DNS: u16 = 23;
    /// Domains to search names in.
    pub const SEARCH: u16 = 24;
    /// An association of prefixes.
    pub const IA_PD: u16 = 25;
    /// One of its prefixes.
    pub const PREFIX: u16 = 26;
    /// When to ask again for what is no address.
    pub const REFRESH: u16 = 32;
    /// Where to load what to boot from (RFC 5970).
    pub const BOOT_FILE: u16 = 59;
    /// What is told to what is booted (RFC 5970).
    pub const BOOT_PARAMETERS: u16 = 60;
    /// What the client's firmware is (RFC 5970).
    pub const ARCHITECTURE: u16 = 61;
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client looks for servers.
    Solicit,
    /// A server says what it would give.
    Advertise,
    /// A client takes it.
    Request,
    /// A client asks whether it is still where it was.
    Confirm,
    /// A client wants to keep what it has of this server.
    Renew,
    /// The same, of any server.
    Rebind,
    /// A server's answer.
    Reply,
    /// A client gives back.
    Release,
    /// A client found an address in use.
    Decline,
    /// A client wants to know what is no address.
    Information,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Solicit,
        Self::Advertise,
        Self::Request,
        Self::Confirm,
        Self::Renew,
        Self::Rebind,
        Self::Reply,
        Self::Release,
        Self::Decline,
        Self::Information,
    ];

    fn number(self) -> u8 {
        match self {
            Self::Solicit => 1,
            Self::Advertise => 2,
            Self::Request => 3,
            Self::Confirm => 4,
            Self::Renew => 5,
            Self::Rebind => 6,
            Self::Reply => 7,
            Self::Release => 8,
            Self::Decline => 9,
            Self::Information => 11,
        }
    }
}

/// Addresses, or prefixes, that a client keeps together under a number of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Association<T> {
    /// The client's number for it.
    pub id: [u8; 4],
    /// What it has, or would like.
    pub members: Vec<T>,
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it is.
    pub kind: Kind,
    /// The transaction; answers repeat it.
    pub transaction: [u8; 3],
    /// What the client is known by.
    pub client: Option<Vec<u8>>,
    /// Which server it speaks to.
    pub server: Option<Vec<u8>>,
    /// Its associations of addresses.
    pub addresses: Vec<Association<Ipv6Addr>>,
    /// Its associations of prefixes.
    pub prefixes: Vec<Association<Ipv6Net>>,
    /// Which options it wants.
    pub wanted: Vec<u16>,
    /// Whether it takes two messages instead of four.
    pub rapid: bool,
    /// What it says of how it boots.
    pub booting: Booting,
}

impl Request {
    /// Reads a message; none when it is no client's, or is damaged.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let ([kind, transaction @ ..], options) = bytes.split_first_chunk::<4>()?;
        let mut request = Self {
            kind: Kind::ALL.into_iter().find(|k| k.number() == *kind)?,
            transaction: *transaction,
            client: None,
            server: None,
            addresses: Vec::new(),
            prefixes: Vec::new(),
            wanted: Vec::new(),
            rapid: false,
            booting: Booting::default(),
        };
        each(options, |number, value| {
            match number {
                option::CLIENT_ID => request.client = Some(duid(value)?),
                option::SERVER_ID => request.server = Some(duid(value)?),
                option::IA_NA if request.addresses.len() < ASSOCIATIONS => {
                    request.addresses.push(association(value, option::ADDRESS, |address| {
                        let (octets, rest) = address.split_first_chunk::<16>()?;
                        (rest.len() >= 8).then(|| Ipv6Addr::from(*octets))
                    })?);
                }
                option::IA_PD if request.prefixes.len() < ASSOCIATIONS => {
                    request.prefixes.push(association(value, option::PREFIX, |prefix| {
                        let (_lifetimes, rest) = prefix.split_first_chunk::<8>()?;
                        let (length, rest) = rest.split_first()?;
                        let octets = rest.first_chunk::<16>()?;
                        Ipv6Net::new(Ipv6Addr::from(*octets), *length).ok()
                    })?);
                }
                option::WANTED => {
                    let (pairs, _) = value.as_chunks::<2>();
                    request.wanted = pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
                    request.booting.asks |= request.wanted.contains(&option::BOOT_FILE);
                }
                option::RAPID_COMMIT => request.rapid = true,
                option::ARCHITECTURE => request.booting.architectures(value),
                option::USER_CLASS => each_class(value, |class| request.booting.user(class)),
                option::VENDOR_CLASS => {
                    // Behind the vendor's number.
                    let classes = value.split_first_chunk::<4>().map_or(&[][..], |(_, classes)| classes);
                    each_class(classes, |class| request.booting.vendor(class));
                }
                _ => {}
            }
            Some(())
        })?;
        Some(request)
    }
}

/// Looks at each option; none when one is longer than what is left, or `look` says so.
fn each<'a>(mut bytes: &'a [u8], mut look: impl FnMut(u16, &'a [u8]) -> Option<()>) -> Option<()> {
    while !bytes.is_empty() {
        let ([a, b, c, d], rest) = bytes.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*c, *d])))?;
        look(u16::from_be_bytes([*a, *b]), value)?;
        bytes = rest;
    }
    Some(())
}

/// Looks at each part of a class, as far as their lengths can be right.
fn each_class(mut bytes: &[u8], mut look: impl FnMut(&[u8])) {
    while let Some((class, rest)) = bytes
        .split_first_chunk::<2>()
        .and_then(|(length, rest)| rest.split_at_checked(usize::from(u16::from_be_bytes(*length))))
    {
        look(class);
        bytes = rest;
    }
}

fn duid(value: &[u8]) -> Option<Vec<u8>> {
    (3..=LONGEST_DUID).contains(&value.len()).then(|| value.to_vec())
}

/// Reads what IA_NA and IA_PD have in common: a number, two times, and options.
fn association<T>(value: &[u8], member: u16, read: impl Fn(&[u8]) -> Option<T>) -> Option<Association<T>> {
    let (id, rest) = value.split_first_chunk::<4>()?;
    let (_times, options) = rest.split_first_chunk::<8>()?;
    let mut members = Vec::new();
    each(options, |number, value| {
        if number == member && members.len() < MEMBERS {
            members.push(read(value)?);
        }
        Some(())
    })?;
    Some(Association { id: *id, members })
}

/// How it went (RFC 8415, section 21.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Well.
    Success,
    /// There is no address for the client.
    NoAddress,
    /// The client is not where it was.
    NotOnLink,
    /// There is no prefix for the client.
    NoPrefix,
}

impl Status {
    fn option(self) -> Vec<u8> {
        let (number, text) = match self {
            Self::Success => (0u16, ""),
            Self::NoAddress => (2, "no address is configured for this NIC"),
            Self::NotOnLink => (4, "the address is not this NIC's"),
            Self::NoPrefix => (6, "no prefix is configured for this NIC"),
        };
        written(option::STATUS, &[&number.to_be_bytes(), text.as_bytes()].concat())
    }
}

/// Seconds that something is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// For new connections.
    pub preferred: u32,
    /// At all; half of the preferred time is when to renew, eight tenths when to ask any server.
    pub valid: u32,
}

impl Lifetime {
    /// Over.
    pub const NONE: Self = Self { preferred: 0, valid: 0 };

    fn bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.preferred.to_be_bytes());
        bytes[4..].copy_from_slice(&self.valid.to_be_bytes());
        bytes
    }
}

/// What becomes of an association.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given<T> {
    /// The client's number for it.
    pub id: [u8; 4],
    /// What is in it, and for how long.
    pub members: Vec<(T, Lifetime)>,
    /// Why there is nothing in it.
    pub status: Option<Status>,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What it is.
    pub kind: Kind,
    /// What the server is known by.
    pub server: Vec<u8>,
    /// How the whole went.
    pub status: Option<Status>,
    /// Whether it is all that there is to say.
    pub rapid: bool,
    /// Associations of addresses.
    pub addresses: Vec<Given<Ipv6Addr>>,
    /// Associations of prefixes.
    pub prefixes: Vec<Given<Ipv6Net>>,
    /// Name servers.
    pub dns: Vec<Ipv6Addr>,
    /// Domains to search names in.
    pub search: Vec<String>,
    /// Seconds after which to ask again for what is no address.
    pub refresh: Option<u32>,
    /// Where to load what to boot from.
    pub boot_file: Option<String>,
    /// What is told to what is booted.
    pub boot_parameters: Vec<String>,
}

impl Reply {
    /// The message's bytes, as an answer to a request.
    pub fn encode(&self, request: &Request) -> Vec<u8> {
        let mut bytes = vec![self.kind.number()];
        bytes.extend(request.transaction);
        if let Some(client) = &request.client {
            bytes.extend(written(option::CLIENT_ID, client));
        }
        bytes.extend(written(option::SERVER_ID, &self.server));
        if self.kind == Kind::Advertise {
            // There is no better one: the client need not wait for others.
            bytes.extend(written(option::PREFERENCE, &[255]));
        }
        if self.rapid {
            bytes.extend(written(option::RAPID_COMMIT, &[]));
        }
        if let Some(status) = self.status {
            bytes.extend(status.option());
        }
        for given in &self.addresses {
            let member = |address: &Ipv6Addr, lifetime: Lifetime| {
                let body = [&address.octets()[..], &lifetime.bytes()].concat();
                written(option::ADDRESS, &body)
            };
            bytes.extend(written(option::IA_NA, &association_body(given, member)));
        }
        for given in &self.prefixes {
            let member = |prefix: &Ipv6Net, lifetime: Lifetime| {
                let octets = prefix.network().octets();
                written(option::PREFIX, &[&lifetime.bytes()[..], &[prefix.prefix_len()], &octets].concat())
            };
            bytes.extend(written(option::IA_PD, &association_body(given, member)));
        }
        if !self.dns.is_empty() {
            let servers: Vec<u8> = self.dns.iter().flat_map(Ipv6Addr::octets).collect();
            bytes.extend(written(option::DNS, &servers));
        }
        let search = dns_names(self.search.iter().map(String::as_str));
        if !search.is_empty() {
            bytes.extend(written(option::SEARCH, &search));
        }
        if let Some(seconds) = self.refresh {
            bytes.extend(written(option::REFRESH, &seconds.to_be_bytes()));
        }
        if let Some(url) = &self.boot_file {
            bytes.extend(written(option::BOOT_FILE, url.as_bytes()));
            let parameters: Vec<u8> =
                self.boot_parameters.iter().flat_map(|word| class(word.as_bytes())).collect();
            if !parameters.is_empty() {
                bytes.extend(written(option::BOOT_PARAMETERS, &parameters));
            }
            if request.booting.is_http {
                bytes.extend(written(option::VENDOR_CLASS, &[&INTEL[..], &class(HTTP_CLIENT)].concat()));
            }
        }
        bytes
    }
}

fn association_body<T>(given: &Given<T>, member: impl Fn(&T, Lifetime) -> Vec<u8>) -> Vec<u8> {
    let shortest = given.members.iter().map(|(_, lifetime)| lifetime.preferred).filter(|&s| s > 0).min();
    let (renew, rebind) = shortest.map_or((0, 0), |seconds| (seconds / 2, seconds / 10 * 8));
    let mut body = given.id.to_vec();
    body.extend(renew.to_be_bytes());
    body.extend(rebind.to_be_bytes());
    for (value, lifetime) in &given.members {
        body.extend(member(value, *lifetime));
    }
    if let Some(status) = given.status {
        body.extend(status.option());
    }
    body
}

/// A part of a list, after its length.
fn class(value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], &value[..usize::from(length)]].concat()
}

fn written(number: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    [&number.to_be_bytes()[..], &length.to_be_bytes(), &value[..usize::from(length)]].concat()
}

/// What a server is known by that has this MAC (DUID-LL, RFC 8415, section 11.4).
pub fn duid_of(mac: MacAddr) -> Vec<u8> {
    [&[0, 3, 0, 1][..], &mac.0].concat()
}

#[cfg(test)]
mod tests;
