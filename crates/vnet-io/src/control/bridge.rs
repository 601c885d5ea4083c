//! What the kernel's bridge is told of where MACs are (rtnetlink(7); include/uapi/linux/neighbour.h).

use std::io;

use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket, socket_with};
use viaduct_types::{IfName, MacAddr};

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const AF_BRIDGE: u8 = 7;
/// As if it had just been heard.
const NUD_REACHABLE: u16 = 0x02;
/// Static: it does not age.
const NUD_NOARP: u16 = 0x40;
/// Of the bridge that the device is a port of.
const NTF_MASTER: u8 = 0x04;
/// It stays there whatever is heard elsewhere.
const NTF_STICKY: u8 = 0x40;
const NDA_LLADDR: u16 = 2;
const HEADER: usize = 16;

/// The MAC is behind this port until something else is heard.
pub(super) fn lead(port: &IfName, mac: MacAddr) -> io::Result<()> {
    ask(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, port, mac, (NUD_REACHABLE, NTF_MASTER))
}

/// The MAC is behind this port, whatever is heard from another one.
pub(super) fn pin(port: &IfName, mac: MacAddr) -> io::Result<()> {
    ask(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, port, mac, (NUD_NOARP, NTF_MASTER | NTF_STICKY))
}

/// The MAC is behind this port no longer; where it is, shows.
pub(super) fn forget(port: &IfName, mac: MacAddr) -> io::Result<()> {
    match ask(RTM_DELNEIGH, 0, port, mac, (NUD_NOARP, NTF_MASTER)) {
        // Nothing was known of it.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn ask(kind: u16, how: u16, port: &IfName, mac: MacAddr, (state, flags): (u16, u8)) -> io::Result<()> {
    let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    let index = netdevice::name_to_index(&any, port.as_str())?;
    let mut message = vec![0; 4];
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK | how).to_ne_bytes());
    message.extend([0; 8]);
    // struct ndmsg
    message.extend([AF_BRIDGE, 0, 0, 0]);
    message.extend(index.to_ne_bytes());
    message.extend(state.to_ne_bytes());
    message.extend([flags, 0]);
    // struct rtattr, with the MAC, to a multiple of four bytes
    message.extend(10_u16.to_ne_bytes());
    message.extend(NDA_LLADDR.to_ne_bytes());
    message.extend(mac.0);
    message.extend([0; 2]);
    let length = u32::try_from(message.len()).unwrap_or_default();
    message[..4].copy_from_slice(&length.to_ne_bytes());
    // Without a protocol it is NETLINK_ROUTE, which is 0.
    let kernel = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    rustix::io::write(&kernel, &message)?;
    let mut answer = [0; 256];
    let count = rustix::io::read(&kernel, &mut answer)?;
    // struct nlmsgerr begins with the error, negative; 0 is well.
    let code = answer[..count].get(HEADER..).and_then(|rest| rest.first_chunk::<4>());
    match code.map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("the kernel's answer is cut off")),
    }
}
