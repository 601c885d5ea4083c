//! Where MACs are, as the kernel's bridges and VXLAN devices have it (rtnetlink(7); include/uapi/linux/neighbour.h,
//! if_link.h).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket, socket_with};
use viaduct_types::{IfName, MacAddr, Vni};

const RTM_SETLINK: u16 = 19;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWSTATS: u16 = 92;
const RTM_GETSTATS: u16 = 94;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const AF_BRIDGE: u8 = 7;
/// As if it had just been heard.
const NUD_REACHABLE: u16 = 0x02;
/// Static: it does not age.
const NUD_NOARP: u16 = 0x40;
/// As VXLAN has what it was told.
const NUD_PERMANENT: u16 = 0x80;
/// Of the device itself, as VXLAN has it.
const NTF_SELF: u8 = 0x02;
/// Of the bridge that the device is a port of.
const NTF_MASTER: u8 = 0x04;
/// It stays there whatever is heard elsewhere.
const NTF_STICKY: u8 = 0x40;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_VNI: u16 = 7;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const NLA_F_NESTED: u16 = 0x8000;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_LOCKED: u16 = 39;
const IFLA_STATS_LINK_64: u16 = 1;
const HEADER: usize = 16;
const NDMSG: usize = 12;
/// struct if_stats_msg
const STATS: usize = 12;

/// Where frames for everybody go: VXLAN has them under this.
pub(super) const EVERYBODY: MacAddr = MacAddr([0; 6]);

/// Where a VXLAN device sends what is for a MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Far {
    pub(super) mac: MacAddr,
    pub(super) to: IpAddr,
    pub(super) vni: Vni,
}

/// A MAC behind a port of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Near {
    /// The port's number.
    pub(super) port: u32,
    pub(super) mac: MacAddr,
}

/// The device's number; none when it is not there.
pub(super) fn index(device: &IfName) -> Option<u32> {
    let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
    netdevice::name_to_index(&any, device.as_str()).ok()
}

/// How many frames a device has sent; none when it is not there.
pub(super) fn frames_out(device: u32) -> Option<u64> {
    let mut message = Message::new(RTM_GETSTATS, 0);
    message.body.extend([0; 4]);
    message.body.extend(device.to_ne_bytes());
    let wanted = 1_u32 << (IFLA_STATS_LINK_64 - 1);
    message.body.extend(wanted.to_ne_bytes());
    let kernel = message.send().ok()?;
    let mut answer = [0; 1024];
    let count = rustix::io::read(&kernel, &mut answer).ok()?;
    let (RTM_NEWSTATS, body, _) = split(answer.get(..count)?)? else { return None };
    let (IFLA_STATS_LINK_64, counters, _) = attribute(body.get(STATS..)?)? else { return None };
    // struct rtnl_link_stats64: rx_packets, tx_packets.
    Some(u64::from_ne_bytes(*counters.get(8..)?.first_chunk()?))
}

/// A port of a bridge lets in only what comes from MACs that it was told are there, and learns of no others.
pub(super) fn lock(port: u32) -> io::Result<()> {
    let mut message = Message::new(RTM_SETLINK, NLM_F_ACK);
    message.body.extend([AF_BRIDGE, 0, 0, 0]);
    message.body.extend(port.to_ne_bytes());
    message.body.extend([0; 8]);
    let setting = |kind: u16| {
        [&5_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &[u8::from(kind == IFLA_BRPORT_LOCKED), 0, 0, 0]]
            .concat()
    };
    let settings = [setting(IFLA_BRPORT_LEARNING), setting(IFLA_BRPORT_LOCKED)].concat();
    message.attribute(IFLA_PROTINFO | NLA_F_NESTED, &settings);
    message.ask()
}

/// What is for a MAC goes there, whatever was said before; for everybody: there, too.
pub(super) fn send_to(device: u32, far: Far) -> io::Result<()> {
    let how = if far.mac == EVERYBODY { NLM_F_APPEND } else { NLM_F_REPLACE };
    of_device(RTM_NEWNEIGH, NLM_F_CREATE | how, device, far).ask()
}

/// It does not go there.
pub(super) fn send_no_more(device: u32, far: Far) -> io::Result<()> {
    fine(of_device(RTM_DELNEIGH, 0, device, far).ask())
}

fn of_device(kind: u16, how: u16, device: u32, far: Far) -> Message {
    let mut message = neighbour(kind, how, device, NUD_NOARP | NUD_PERMANENT, NTF_SELF, far.mac);
    match far.to {
        IpAddr::V4(to) => message.attribute(NDA_DST, &to.octets()),
        IpAddr::V6(to) => message.attribute(NDA_DST, &to.octets()),
    }
    message.attribute(NDA_VNI, &far.vni.number().to_ne_bytes());
    message
}

/// A MAC is behind a port as if it had just been heard there.
pub(super) fn hear(near: Near) -> io::Result<()> {
    neighbour(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, near.port, NUD_REACHABLE, NTF_MASTER, near.mac)
        .ask()
}

/// A MAC is behind a port; with `stays` also when it is heard elsewhere.
pub(super) fn lead(near: Near, stays: bool) -> io::Result<()> {
    let flags = if stays { NTF_MASTER | NTF_STICKY } else { NTF_MASTER };
    neighbour(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, near.port, NUD_NOARP, flags, near.mac).ask()
}

/// It is not; where it is, shows.
pub(super) fn lead_no_more(near: Near) -> io::Result<()> {
    fine(neighbour(RTM_DELNEIGH, 0, near.port, NUD_NOARP, NTF_MASTER, near.mac).ask())
}

fn fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        // Nothing was known of it.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// What a bridge and its ports know.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// MACs behind ports.
    pub(super) nears: Vec<Near>,
    /// Where VXLAN sends what is for which MAC, each with the number of its device.
    pub(super) fars: Vec<(u32, Far)>,
}

/// All of it.
pub(super) fn known(bridge: u32) -> io::Result<Known> {
    let mut message = Message::new(RTM_GETNEIGH, NLM_F_DUMP);
    // The kernel takes an ifinfomsg here, with the bridge as its attribute (net/core/rtnetlink.c,
    // `valid_fdb_dump_legacy`).
    message.body.extend([AF_BRIDGE, 0, 0, 0]);
    message.body.extend([0; 12]);
    message.attribute(IFLA_MASTER, &bridge.to_ne_bytes());
    let mut known = Known::default();
    let kernel = message.send()?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = rustix::io::read(&kernel, &mut buffer)?;
        let mut rest = buffer.get(..count).unwrap_or_default();
        while let Some((kind, body, after)) = split(rest) {
            match kind {
                NLMSG_DONE => return Ok(known),
                NLMSG_ERROR => return error_of(body).map(|()| known),
                RTM_NEWNEIGH => match entry(body) {
                    Some(Entry::Near(near)) => known.nears.push(near),
                    Some(Entry::Far(device, far)) => known.fars.push((device, far)),
                    None => {}
                },
                _ => {}
            }
            rest = after;
        }
    }
}

enum Entry {
    Near(Near),
    Far(u32, Far),
}

/// None for what is the kernel's own, or means nothing here.
fn entry(body: &[u8]) -> Option<Entry> {
    let [AF_BRIDGE, _, _, _, i0, i1, i2, i3, s0, s1, flags, ..] = *body.get(..NDMSG)? else { return None };
    let (device, state) = (u32::from_ne_bytes([i0, i1, i2, i3]), u16::from_ne_bytes([s0, s1]));
    let (mut mac, mut to, mut vni) = (None, None, None);
    let mut rest = body.get(NDMSG..)?;
    while let Some((kind, value, after)) = attribute(rest) {
        match kind {
            NDA_LLADDR => mac = value.try_into().ok().map(MacAddr),
            NDA_DST => {
                to = match value.len() {
                    4 => value.try_into().ok().map(|v4: [u8; 4]| IpAddr::V4(Ipv4Addr::from(v4))),
                    _ => value.try_into().ok().map(|v6: [u8; 16]| IpAddr::V6(Ipv6Addr::from(v6))),
                }
            }
            NDA_VNI => vni = value.try_into().ok().map(u32::from_ne_bytes),
            _ => {}
        }
        rest = after;
    }
    if flags & NTF_SELF != 0 {
        // Without a number it is the device's own, with which nothing is put there here.
        return Some(Entry::Far(device, Far { mac: mac?, to: to?, vni: Vni::new(vni?)? }));
    }
    // Permanent are those of the ports themselves.
    (state & NUD_PERMANENT == 0).then_some(Entry::Near(Near { port: device, mac: mac? }))
}

/// A netlink message's type, its body, and what follows.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]);
    let value = bytes.get(4..length)?;
    Some((kind, value, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// struct nlmsgerr begins with the error, negative; 0 is well.
fn error_of(body: &[u8]) -> io::Result<()> {
    match body.first_chunk::<4>().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("the kernel's answer is cut off")),
    }
}

fn neighbour(kind: u16, how: u16, device: u32, state: u16, flags: u8, mac: MacAddr) -> Message {
    let mut message = Message::new(kind, NLM_F_ACK | how);
    // struct ndmsg
    message.body.extend([AF_BRIDGE, 0, 0, 0]);
    message.body.extend(device.to_ne_bytes());
    message.body.extend(state.to_ne_bytes());
    message.body.extend([flags, 0]);
    message.attribute(NDA_LLADDR, &mac.0);
    message
}

struct Message {
    body: Vec<u8>,
}

impl Message {
    fn new(kind: u16, how: u16) -> Self {
        let mut body = vec![0; 4];
        body.extend(kind.to_ne_bytes());
        body.extend((NLM_F_REQUEST | how).to_ne_bytes());
        body.extend([0; 8]);
        Self { body }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.body.extend(length.to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.body.extend(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
    }

    fn send(mut self) -> io::Result<rustix::fd::OwnedFd> {
        let length = u32::try_from(self.body.len()).unwrap_or_default();
        self.body[..4].copy_from_slice(&length.to_ne_bytes());
        // Without a protocol it is NETLINK_ROUTE, which is 0.
        let kernel = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        rustix::io::write(&kernel, &self.body)?;
        Ok(kernel)
    }

    fn ask(self) -> io::Result<()> {
        let kernel = self.send()?;
        let mut answer = [0; 512];
        let count = rustix::io::read(&kernel, &mut answer)?;
        match split(answer.get(..count).unwrap_or_default()) {
            Some((NLMSG_ERROR, body, _)) => error_of(body),
            Some(_) | None => Err(io::Error::other("the kernel's answer is cut off")),
        }
    }
}
