//! DHCP messages (RFC 2131) and their options (RFC 2132).

use std::{collections::BTreeMap, net::Ipv4Addr, ops::Range};

use viaduct_types::{Ipv4Net, MacAddr};

use crate::boot::Booting;

/// Where servers listen.
pub const SERVER: u16 = 67;
/// Where clients listen.
pub const CLIENT: u16 = 68;

/// The numbers of options.
pub mod option {
    /// Subnet mask.
    pub const MASK: u8 = 1;
    /// Routers.
    pub const ROUTER: u8 = 3;
    /// Name servers.
    pub const DNS: u8 = 6;
    /// Host name.
    pub const HOST_NAME: u8 = 12;
    /// Domain name.
    pub const DOMAIN: u8 = 15;
    /// MTU of the interface, in bytes.
    pub const MTU: u8 = 26;
    /// The address that a client wants.
    pub const REQUESTED: u8 = 50;
    /// For how long, in seconds.
    pub const LEASE: u8 = 51;
    /// Which of the fields `sname` (2) and `file` (1) hold options.
    pub const OVERLOAD: u8 = 52;
    /// What the message is.
    pub const TYPE: u8 = 53;
    /// The server's own address.
    pub const SERVER: u8 = 54;
    /// Which options a client wants.
    pub const WANTED: u8 = 55;
    /// How long a message the client takes, in bytes with the IP header.
    pub const LARGEST: u8 = 57;
    /// When to renew, in seconds.
    pub const RENEW: u8 = 58;
    /// When to ask any server, in seconds.
    pub const REBIND: u8 = 59;
    /// What the client's vendor calls it.
    pub const VENDOR_CLASS: u8 = 60;
    /// What the client calls itself.
    pub const CLIENT_ID: u8 = 61;
    /// Who has the file to boot, as text.
    pub const BOOT_SERVER: u8 = 66;
    /// The file to boot, or its URL.
    pub const BOOT_FILE: u8 = 67;
    /// What the client's user calls it (RFC 3004).
    pub const USER_CLASS: u8 = 77;
    /// What a relay agent adds (RFC 3046).
    pub const RELAY: u8 = 82;
    /// What the client's firmware is (RFC 4578).
    pub const ARCHITECTURE: u8 = 93;
    /// Domains to search names in (RFC 3397).
    pub const SEARCH: u8 = 119;
    /// Classless static routes (RFC 3442).
    pub const ROUTES: u8 = 121;
}

const PAD: u8 = 0;
const END: u8 = 255;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// What comes before the cookie.
const HEADER: usize = 236;
/// Where in it the file to boot stands, with a zero behind it.
pub const FILE: Range<usize> = 108..236;
/// BOOTP's own size, which old clients insist on.
const SMALLEST: usize = 300;
/// What every client takes, in bytes with the IP header (RFC 2131, section 2).
const LARGEST: u16 = 576;
const BROADCAST_FLAG: u16 = 0x8000;

/// What a message is (option 53).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client looks for servers.
    Discover,
    /// A server offers an address.
    Offer,
    /// A client takes, or keeps, an address.
    Request,
    /// A client found the address in use.
    Decline,
    /// The server says yes.
    Ack,
    /// The server says no.
    Nak,
    /// A client gives its address back.
    Release,
    /// A client has its address from elsewhere and wants to know the rest.
    Inform,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Discover,
        Self::Offer,
        Self::Request,
        Self::Decline,
        Self::Ack,
        Self::Nak,
        Self::Release,
        Self::Inform,
    ];

    fn number(self) -> u8 {
        match self {
            Self::Discover => 1,
            Self::Offer => 2,
            Self::Request => 3,
            Self::Decline => 4,
            Self::Ack => 5,
            Self::Nak => 6,
            Self::Release => 7,
            Self::Inform => 8,
        }
    }
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it is.
    pub kind: Kind,
    /// The transaction; answers repeat it.
    pub xid: u32,
    /// Whether it cannot take answers to an address that it does not have yet.
    pub broadcast: bool,
    /// The address that it has; 0.0.0.0 when it has none.
    pub ciaddr: Ipv4Addr,
    /// The relay agent in between; 0.0.0.0 without one.
    pub giaddr: Ipv4Addr,
    /// Its MAC.
    pub chaddr: MacAddr,
    /// Its options, joined where they came in parts (RFC 3396).
    pub options: BTreeMap<u8, Vec<u8>>,
}

impl Request {
    /// Reads a message; none when it is no client's on Ethernet, or is damaged.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
        // BOOTREQUEST from an Ethernet address.
        let [1, 1, 6, _hops, xid @ ..] = header else { return None };
        let (xid, _) = xid.split_first_chunk::<4>()?;
        let field = rest.strip_prefix(&COOKIE)?;
        let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
        let mut options = BTreeMap::new();
        read_options(field, &mut options)?;
        let overload = options.get(&option::OVERLOAD).and_then(|value| value.first()).copied().unwrap_or(0);
        if overload & 1 != 0 {
            read_options(&header[FILE], &mut options)?;
        }
        if overload & 2 != 0 {
            read_options(&header[44..108], &mut options)?;
        }
        let [kind] = options.get(&option::TYPE)?[..] else { return None };
        Some(Self {
            kind: Kind::ALL.into_iter().find(|k| k.number() == kind)?,
            xid: u32::from_be_bytes(*xid),
            broadcast: u16::from_be_bytes([header[10], header[11]]) & BROADCAST_FLAG != 0,
            ciaddr: address(12),
            giaddr: address(24),
            chaddr: MacAddr(*header[28..].first_chunk()?),
            options,
        })
    }

    /// An option that is an address.
    pub fn address(&self, number: u8) -> Option<Ipv4Addr> {
        self.options.get(&number)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
    }

    /// Whether it wants to know an option.
    pub fn wants(&self, number: u8) -> bool {
        self.options.get(&option::WANTED).is_some_and(|wanted| wanted.contains(&number))
    }

    /// What it says of how it boots.
    pub fn booting(&self) -> Booting {
        let mut booting = Booting::default();
        booting.asks = self.wants(option::BOOT_FILE) || self.wants(option::BOOT_SERVER);
        if let Some(architectures) = self.options.get(&option::ARCHITECTURE) {
            booting.architectures(architectures);
        }
        if let Some(class) = self.options.get(&option::VENDOR_CLASS) {
            booting.vendor(class);
        }
        if let Some(user) = self.options.get(&option::USER_CLASS) {
            // As it is, which iPXE says, or in parts, each after its length.
            booting.user(user);
            let mut rest = user.as_slice();
            while let Some((class, more)) =
                rest.split_first().and_then(|(length, rest)| rest.split_at_checked(usize::from(*length)))
            {
                booting.user(class);
                rest = more;
            }
        }
        booting
    }

    /// How many bytes an answer may have, from DHCP's first one on.
    pub fn room(&self) -> usize {
        let told = self.options.get(&option::LARGEST).and_then(|value| value.first_chunk::<2>());
        let packet = told.map_or(LARGEST, |bytes| u16::from_be_bytes(*bytes)).max(LARGEST);
        // More than fits a frame would be cut into fragments.
        usize::from(packet.min(1500)) - 28
    }
}

/// Adds the options of a field; none when one of them is longer than the field.
fn read_options(mut field: &[u8], options: &mut BTreeMap<u8, Vec<u8>>) -> Option<()> {
    while let [number, rest @ ..] = field {
        match *number {
            PAD => field = rest,
            END => break,
            number => {
                let [length, rest @ ..] = rest else { return None };
                let (value, rest) = rest.split_at_checked(usize::from(*length))?;
                options.entry(number).or_default().extend(value);
                field = rest;
            }
        }
    }
    Some(())
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What it is.
    pub kind: Kind,
    /// The client's address as it will be; 0.0.0.0 in a refusal.
    pub yiaddr: Ipv4Addr,
    /// Who has the file to boot; 0.0.0.0 without one.
    pub siaddr: Ipv4Addr,
    /// The file to boot, or its URL: in the message's own field for it, when it is not too long for that.
    pub file: Option<String>,
    /// The other options, most important first: what does not fit is left out.
    pub options: Vec<(u8, Vec<u8>)>,
}

impl Reply {
    /// The message's bytes, as an answer to a request.
    pub fn encode(&self, request: &Request) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        // BOOTREPLY to an Ethernet address.
        bytes[..4].copy_from_slice(&[2, 1, 6, 0]);
        bytes[4..8].copy_from_slice(&request.xid.to_be_bytes());
        if request.broadcast {
            bytes[10..12].copy_from_slice(&BROADCAST_FLAG.to_be_bytes());
        }
        if self.kind == Kind::Ack {
            bytes[12..16].copy_from_slice(&request.ciaddr.octets());
        }
        bytes[16..20].copy_from_slice(&self.yiaddr.octets());
        bytes[20..24].copy_from_slice(&self.siaddr.octets());
        bytes[24..28].copy_from_slice(&request.giaddr.octets());
        bytes[28..34].copy_from_slice(&request.chaddr.0);
        if let Some(file) = self.file.as_ref().filter(|file| file.len() < FILE.len()) {
            bytes[FILE.start..FILE.start + file.len()].copy_from_slice(file.as_bytes());
        }
        bytes.extend(COOKIE);
        bytes.extend([option::TYPE, 1, self.kind.number()]);
        // A client may not know its answer without this one (RFC 6842).
        let repeated = [option::CLIENT_ID, option::RELAY];
        let last: Vec<u8> =
            repeated.iter().filter_map(|n| Some((*n, request.options.get(n)?))).flat_map(written).collect();
        let room = request.room().saturating_sub(last.len() + 1);
        for (number, value) in &self.options {
            let option = written((*number, value));
            if bytes.len() + option.len() <= room {
                bytes.extend(option);
            }
        }
        bytes.extend(last);
        bytes.push(END);
        if bytes.len() < SMALLEST {
            bytes.resize(SMALLEST, PAD);
        }
        bytes
    }
}

/// An option as it is sent, in parts when it is long (RFC 3396).
fn written((number, value): (u8, &Vec<u8>)) -> Vec<u8> {
    let part = |part: &[u8]| {
        let length = u8::try_from(part.len()).unwrap_or(u8::MAX);
        [&[number, length], part].concat()
    };
    value.chunks(255).flat_map(part).collect()
}

/// Routes as option 121 has them: the destination's length, as many of its octets as that needs, the router.
pub fn routes(routes: &[(Ipv4Net, Ipv4Addr)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (to, router) in routes {
        let length = to.prefix_len();
        bytes.push(length);
        bytes.extend(&to.network().octets()[..usize::from(length.div_ceil(8))]);
        bytes.extend(router.octets());
    }
    bytes
}

#[cfg(test)]
mod tests;
