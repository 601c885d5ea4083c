//! What two hosts say to each other on the control channel: messages on one reliable, ordered stream in each direction.
//!
//! All numbers are in network byte order. A message is its length without these two bytes (2), its type (1), and its
//! fields. Types from 128 on that are not known are passed over, so that later versions can say more; anything else that
//! is not as it should be ends the connection.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};
use viaduct_types::{HostKey, MacAddr, Vni};

use super::{
    Protection,
    suite::{cipher, number},
};
use crate::data::{Spi, esp::Cipher};

/// The version that is spoken here.
pub const VERSION: u8 = 1;
/// No message is longer, with its length.
pub const LONGEST: usize = 2048;
/// So many addresses are told of one MAC; more of them are known to its own host only.
pub const MOST_ADDRESSES: usize = 64;
/// So many workers of one host send at most.
pub const MOST_WORKERS: usize = 64;
/// So many ports a host has at most, beside its first one: one for each worker.
pub const MOST_PORTS: usize = MOST_WORKERS;

/// What protects a vnet's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Nothing: VXLAN.
    None,
    /// Authenticated.
    Auth,
    /// Authenticated and encrypted.
    Conf,
}

/// As files say it.
impl fmt::Display for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Auth => "auth",
            Self::Conf => "conf",
        })
    }
}

/// A vnet's number on a connection, chosen by the host that says it.
pub type Channel = u16;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The first one.
    Hello {
        /// [`VERSION`].
        version: u8,
        /// How many workers send, each with keys of its own.
        workers: u8,
        /// Whether the processor has instructions for AES.
        fast_aes: bool,
    },
    /// This host has a vnet that the other one may belong to.
    Offer {
        /// The vnet's number from now on.
        channel: Channel,
        /// Shows that the vnet's id is known, to those who know it.
        proof: [u8; 16],
        /// What protects its frames here.
        protection: Protection,
        /// Whether machines are behind it here that nobody has told of.
        learning: bool,
    },
    /// It has it no longer, or no longer for the other one.
    Retract {
        /// Which.
        channel: Channel,
    },
    /// Frames of the vnet are taken that are sealed so.
    Keys {
        /// Which vnet.
        channel: Channel,
        /// Counts up for each vnet on a connection.
        epoch: u32,
        /// How.
        cipher: Cipher,
        /// The security association of each worker of the other host.
        spis: Vec<Spi>,
    },
    /// Frames are sealed so from now on.
    Using {
        /// Which vnet, by the sender's number.
        channel: Channel,
        /// The receiver's epoch.
        epoch: u32,
    },
    /// Other keys are needed soon.
    Rekey {
        /// For which vnet.
        channel: Channel,
    },
    /// A NIC is here.
    Claim {
        /// In which vnet.
        channel: Channel,
        /// Its MAC.
        mac: MacAddr,
        /// Raised whenever it arrives on a host.
        sequence: u64,
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// It is not here any more.
    Withdraw {
        /// In which vnet.
        channel: Channel,
        /// Its MAC.
        mac: MacAddr,
    },
    /// All NICs of the vnet that are here have been told since the offer.
    Complete {
        /// Which vnet.
        channel: Channel,
    },
    /// What the vnet's guests on this host may send and are sent, as far as this host's own paths go: a segment has one MTU
    /// on all of its hosts.
    VnetMtu {
        /// Which vnet.
        channel: Channel,
        /// In bytes, of IP packets inside.
        mtu: u16,
    },
    /// Frames of a vnet without security are taken as VXLAN with this number, at the address that the connection leads to.
    Plain {
        /// Which vnet.
        channel: Channel,
        /// The number (RFC 7348, section 5).
        vni: Vni,
    },
    /// The longest IP packet that gets from here to there, in bytes.
    PathMtu {
        /// In bytes.
        mtu: u16,
    },
    /// A group's frames are wanted here, or not any more.
    Listens {
        /// In which vnet.
        channel: Channel,
        /// The group's Ethernet address.
        group: MacAddr,
        /// Whether.
        on: bool,
    },
    /// Of groups, only those are wanted here that have been told since; or all of them again, and what was told is void.
    Prunes {
        /// In which vnet.
        channel: Channel,
        /// Whether.
        on: bool,
    },
    /// This host passes on what the other one and third ones cannot send each other, or does not any more.
    Relays {
        /// Whether it does.
        on: bool,
    },
    /// At these ports frames are taken, too, each by a worker; a whole list takes the place of the one before. Who says none
    /// has one port only, and sends from one.
    Ports {
        /// In the order of their workers: the first worker's, the second's, …
        ports: Vec<u16>,
    },
    /// Frames of the vnet that come to these ports are taken that are sealed so, with the cipher that [`Keys`](Self::Keys) of
    /// the same epoch have said, which went before.
    OwnKeys {
        /// Which vnet.
        channel: Channel,
        /// As in the keys that went before.
        epoch: u32,
        /// The security association of each worker of the other host.
        spis: Vec<Spi>,
    },
    /// What a worker of the other host sent to find out whether its frames arrive, has arrived.
    Arrived {
        /// Which worker.
        worker: u8,
        /// By which number it is told from others.
        number: u32,
    },
    /// The sender's number on segments is this, now ([`Numbers`](crate::data::Numbers)).
    Number {
        /// Which.
        number: u64,
    },
    /// Who hears this does what was said before it, and then says so.
    Heed {
        /// Counts up.
        number: u32,
    },
    /// What was said before [`Heed`](Self::Heed) of this number is done.
    Heeded {
        /// Which; 0 at the beginning of a connection, by which the other end knows that it can ask.
        number: u32,
    },
    /// Whether machines are behind a vnet here that nobody has told of, in place of what was offered.
    Learns {
        /// Which vnet.
        channel: Channel,
        /// Whether.
        on: bool,
    },
    /// What a third host sends to this one is to be passed on.
    Ask {
        /// The third one.
        key: HostKey,
        /// What it is to begin with here; none: not any more.
        spi: Option<Spi>,
    },
    /// A third host has asked to be passed on to the other one.
    Wanted {
        /// The third one.
        key: HostKey,
    },
    /// What the other one sends is passed on to a third.
    Granted {
        /// The third one.
        key: HostKey,
        /// What it has to begin with; none: it is not passed on, or not any more.
        spi: Option<Spi>,
    },
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The length is over what any message has.
    #[error("a message of {0} bytes is longer than any")]
    TooLong(usize),
    /// The end comes before what has to be there.
    #[error("a message of type {0} ends early")]
    Short(u8),
    /// Something follows what there is to it.
    #[error("a message of type {0} is longer than what it says")]
    Surplus(u8),
    /// A type that is not known and must be.
    #[error("there is no message of type {0}")]
    Type(u8),
    /// A field has a value that means nothing.
    #[error("a message of type {0} has a field that means nothing")]
    Value(u8),
}

const HELLO: u8 = 1;
const OFFER: u8 = 2;
const RETRACT: u8 = 3;
const KEYS: u8 = 4;
const USING: u8 = 5;
const REKEY: u8 = 6;
const CLAIM: u8 = 7;
const WITHDRAW: u8 = 8;
const COMPLETE: u8 = 9;
const PATH_MTU: u8 = 10;
const PLAIN: u8 = 16;
// From here on, what is not known is passed over.
const VNET_MTU: u8 = 128;
const RELAYS: u8 = 129;
const ASK: u8 = 130;
const WANTED: u8 = 131;
const GRANTED: u8 = 132;
const LISTENS: u8 = 133;
const PRUNES: u8 = 134;
const PORTS: u8 = 135;
const OWN_KEYS: u8 = 136;
const ARRIVED: u8 = 137;
const NUMBER: u8 = 138;
const HEED: u8 = 139;
const HEEDED: u8 = 140;
const LEARNS: u8 = 141;
/// The last of those that are known.
const LAST: u8 = LEARNS;

impl Message {
    /// Adds the message to bytes that will be sent.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([0, 0]);
        match self {
            Self::Hello { version, workers, fast_aes } => {
                out.extend([HELLO, *version, *workers, u8::from(*fast_aes)]);
            }
            Self::Offer { channel, proof, protection, learning } => {
                head(out, OFFER, *channel);
                out.extend(proof);
                out.extend([protection.number(), u8::from(*learning)]);
            }
            Self::Retract { channel } => head(out, RETRACT, *channel),
            Self::Keys { channel, epoch, cipher, spis } => {
                head(out, KEYS, *channel);
                out.extend(epoch.to_be_bytes());
                out.push(number(*cipher));
                let spis = spis.get(..MOST_WORKERS).unwrap_or(spis);
                out.push(u8::try_from(spis.len()).unwrap_or(0));
                spis.iter().for_each(|spi| out.extend(spi.value().to_be_bytes()));
            }
            Self::Using { channel, epoch } => {
                head(out, USING, *channel);
                out.extend(epoch.to_be_bytes());
            }
            Self::Rekey { channel } => head(out, REKEY, *channel),
            Self::Claim { channel, mac, sequence, addresses } => {
                head(out, CLAIM, *channel);
                out.extend(mac.0);
                out.extend(sequence.to_be_bytes());
                for address in addresses.iter().take(MOST_ADDRESSES) {
                    match address {
                        IpAddr::V4(v4) => {
                            out.push(4);
                            out.extend(v4.octets());
                        }
                        IpAddr::V6(v6) => {
                            out.push(6);
                            out.extend(v6.octets());
                        }
                    }
                }
            }
            Self::Withdraw { channel, mac } => {
                head(out, WITHDRAW, *channel);
                out.extend(mac.0);
            }
            Self::Complete { channel } => head(out, COMPLETE, *channel),
            Self::VnetMtu { channel, mtu } => {
                head(out, VNET_MTU, *channel);
                out.extend(mtu.to_be_bytes());
            }
            Self::Plain { channel, vni } => {
                head(out, PLAIN, *channel);
                out.extend(vni.number().to_be_bytes());
            }
            Self::PathMtu { mtu } => head(out, PATH_MTU, *mtu),
            Self::Listens { channel, group, on } => {
                head(out, LISTENS, *channel);
                out.extend(group.0);
                out.push(u8::from(*on));
            }
            Self::Prunes { channel, on } => {
                head(out, PRUNES, *channel);
                out.push(u8::from(*on));
            }
            Self::Ports { ports } => {
                out.push(PORTS);
                ports.iter().take(MOST_PORTS).for_each(|port| out.extend(port.to_be_bytes()));
            }
            Self::OwnKeys { channel, epoch, spis } => {
                head(out, OWN_KEYS, *channel);
                out.extend(epoch.to_be_bytes());
                spis.iter().take(MOST_PORTS).for_each(|spi| out.extend(spi.value().to_be_bytes()));
            }
            Self::Arrived { worker, number } => {
                out.extend([ARRIVED, *worker]);
                out.extend(number.to_be_bytes());
            }
            Self::Number { number } => {
                out.push(NUMBER);
                out.extend(number.to_be_bytes());
            }
            Self::Heed { number } => numbered(out, HEED, *number),
            Self::Heeded { number } => numbered(out, HEEDED, *number),
            Self::Learns { channel, on } => {
                head(out, LEARNS, *channel);
                out.push(u8::from(*on));
            }
            Self::Relays { on } => out.extend([RELAYS, u8::from(*on)]),
            Self::Ask { key, spi } => about(out, ASK, key, *spi),
            Self::Wanted { key } => {
                out.push(WANTED);
                out.extend(key.0);
            }
            Self::Granted { key, spi } => about(out, GRANTED, key, *spi),
        }
        let length = u16::try_from(out.len() - start - 2).unwrap_or(u16::MAX);
        out[start..start + 2].copy_from_slice(&length.to_be_bytes());
    }

    /// The message at the start of received bytes, with how many it takes; none when more have to come. A message that
    /// is passed over is `None` inside.
    ///
    /// # Errors
    /// When this is no message; nothing after it can be read either.
    pub fn read(bytes: &[u8]) -> Result<Option<(Option<Self>, usize)>, MessageError> {
        let [high, low, rest @ ..] = bytes else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length + 2 > LONGEST {
            return Err(MessageError::TooLong(length + 2));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let Some((&kind, fields)) = body.split_first() else { return Err(MessageError::Short(0)) };
        if kind > LAST {
            return Ok(Some((None, length + 2)));
        }
        let mut fields = Fields { kind, rest: fields };
        let message = fields.message()?;
        if fields.rest.is_empty() {
            Ok(Some((Some(message), length + 2)))
        } else {
            Err(MessageError::Surplus(kind))
        }
    }
}

fn head(out: &mut Vec<u8>, kind: u8, channel: u16) {
    out.push(kind);
    out.extend(channel.to_be_bytes());
}

fn numbered(out: &mut Vec<u8>, kind: u8, number: u32) {
    out.push(kind);
    out.extend(number.to_be_bytes());
}

fn about(out: &mut Vec<u8>, kind: u8, key: &HostKey, spi: Option<Spi>) {
    out.push(kind);
    out.extend(key.0);
    out.extend(spi.map_or(0, Spi::value).to_be_bytes());
}

struct Fields<'b> {
    kind: u8,
    rest: &'b [u8],
}

impl Fields<'_> {
    fn message(&mut self) -> Result<Message, MessageError> {
        Ok(match self.kind {
            HELLO => {
                let [version, workers, fast_aes] = self.take()?;
                if workers == 0 || usize::from(workers) > MOST_WORKERS || fast_aes > 1 {
                    return Err(self.wrong());
                }
                Message::Hello { version, workers, fast_aes: fast_aes == 1 }
            }
            OFFER => Message::Offer {
                channel: self.u16()?,
                proof: self.take()?,
                protection: Protection::of(self.byte()?).ok_or(self.wrong())?,
                learning: self.flag()?,
            },
            RETRACT => Message::Retract { channel: self.u16()? },
            KEYS => {
                let (channel, epoch) = (self.u16()?, u32::from_be_bytes(self.take()?));
                let cipher = cipher(self.byte()?).ok_or(self.wrong())?;
                let count = usize::from(self.byte()?);
                if count == 0 || count > MOST_WORKERS {
                    return Err(self.wrong());
                }
                let spis = (0..count).map(|_| self.spi()).collect::<Result<_, _>>()?;
                Message::Keys { channel, epoch, cipher, spis }
            }
            USING => Message::Using { channel: self.u16()?, epoch: u32::from_be_bytes(self.take()?) },
            REKEY => Message::Rekey { channel: self.u16()? },
            CLAIM => {
                let (channel, mac) = (self.u16()?, self.mac()?);
                let sequence = u64::from_be_bytes(self.take()?);
                let mut addresses = Vec::new();
                while !self.rest.is_empty() {
                    if addresses.len() == MOST_ADDRESSES {
                        return Err(self.wrong());
                    }
                    addresses.push(self.address()?);
                }
                Message::Claim { channel, mac, sequence, addresses }
            }
            WITHDRAW => Message::Withdraw { channel: self.u16()?, mac: self.mac()? },
            COMPLETE => Message::Complete { channel: self.u16()? },
            VNET_MTU => Message::VnetMtu { channel: self.u16()?, mtu: self.u16()? },
            PATH_MTU => Message::PathMtu { mtu: self.u16()? },
            PLAIN => Message::Plain {
                channel: self.u16()?,
                vni: Vni::new(u32::from_be_bytes(self.take()?)).ok_or(self.wrong())?,
            },
            LISTENS => Message::Listens { channel: self.u16()?, group: self.group()?, on: self.flag()? },
            PRUNES => Message::Prunes { channel: self.u16()?, on: self.flag()? },
            PORTS => {
                let mut ports = Vec::new();
                while !self.rest.is_empty() {
                    let port = self.u16()?;
                    // 0 is nobody's; a port that is told twice would have two workers.
                    if ports.len() == MOST_PORTS || port == 0 || ports.contains(&port) {
                        return Err(self.wrong());
                    }
                    ports.push(port);
                }
                Message::Ports { ports }
            }
            OWN_KEYS => {
                let (channel, epoch) = (self.u16()?, u32::from_be_bytes(self.take()?));
                let mut spis = Vec::new();
                while !self.rest.is_empty() {
                    if spis.len() == MOST_PORTS {
                        return Err(self.wrong());
                    }
                    spis.push(self.spi()?);
                }
                if spis.is_empty() {
                    return Err(self.wrong());
                }
                Message::OwnKeys { channel, epoch, spis }
            }
            ARRIVED => Message::Arrived { worker: self.byte()?, number: u32::from_be_bytes(self.take()?) },
            NUMBER => Message::Number { number: u64::from_be_bytes(self.take()?) },
            HEED => Message::Heed { number: u32::from_be_bytes(self.take()?) },
            HEEDED => Message::Heeded { number: u32::from_be_bytes(self.take()?) },
            LEARNS => Message::Learns { channel: self.u16()?, on: self.flag()? },
            RELAYS => Message::Relays { on: self.flag()? },
            ASK => Message::Ask { key: HostKey(self.take()?), spi: self.spi_or_none()? },
            WANTED => Message::Wanted { key: HostKey(self.take()?) },
            GRANTED => Message::Granted { key: HostKey(self.take()?), spi: self.spi_or_none()? },
            other => return Err(MessageError::Type(other)),
        })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(MessageError::Short(self.kind))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, MessageError> {
        self.take().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Result<bool, MessageError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.wrong()),
        }
    }

    fn u16(&mut self) -> Result<u16, MessageError> {
        self.take().map(u16::from_be_bytes)
    }

    /// Somebody's own.
    fn mac(&mut self) -> Result<MacAddr, MessageError> {
        let mac = MacAddr(self.take()?);
        if mac.is_multicast() || mac.is_zero() { Err(self.wrong()) } else { Ok(mac) }
    }

    fn group(&mut self) -> Result<MacAddr, MessageError> {
        let mac = MacAddr(self.take()?);
        if mac.is_multicast() { Ok(mac) } else { Err(self.wrong()) }
    }

    fn spi(&mut self) -> Result<Spi, MessageError> {
        Spi::new(u32::from_be_bytes(self.take()?)).ok_or(self.wrong())
    }

    fn spi_or_none(&mut self) -> Result<Option<Spi>, MessageError> {
        match u32::from_be_bytes(self.take()?) {
            0 => Ok(None),
            number => Spi::new(number).map(Some).ok_or(self.wrong()),
        }
    }

    fn address(&mut self) -> Result<IpAddr, MessageError> {
        match self.byte()? {
            4 => Ok(IpAddr::V4(Ipv4Addr::from(self.take::<4>()?))),
            6 => Ok(IpAddr::V6(Ipv6Addr::from(self.take::<16>()?))),
            _ => Err(self.wrong()),
        }
    }

    fn wrong(&self) -> MessageError {
        MessageError::Value(self.kind)
    }
}
