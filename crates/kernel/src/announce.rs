//! Telling the neighbours that an address is here.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use viaduct_plan::Sysctl;
use viaduct_types::{IfName, MacAddr};
use viaduct_wire::{arp, nd};

use crate::{
    error::{KernelError, Refusal},
    link,
    socket::Socket,
    sysctl,
};

/// Sends announcements. Its socket is opened when first needed and stays open: closing a packet socket waits for
/// RCU, some 20 ms for each of a thousand addresses.
#[derive(Default)]
pub(crate) struct Announcer {
    socket: Option<OwnedFd>,
}

impl Announcer {
    /// Announces `address` out of `name`, with its own MAC or another. `route` knows the devices.
    pub(crate) fn announce(
        &mut self,
        route: &mut Socket,
        name: &IfName,
        address: IpAddr,
        mac: Option<MacAddr>,
        what: &str,
    ) -> Result<(), KernelError> {
        let device = link::one(route, link::Which::Name(name))
            .map_err(|refusal| KernelError::refused(what, refusal))?
            .ok_or_else(|| KernelError::NoDevice { what: what.to_owned(), name: name.clone() })?;
        let Some(with) = mac.or(device.mac) else {
            let message = Some(format!("{name} has no MAC to tell"));
            return Err(KernelError::refused(what, Refusal { errno: libc::EADDRNOTAVAIL, message }));
        };
        let frames = match address {
            IpAddr::V4(address) => arp::announcements(with, address).into(),
            IpAddr::V6(address) => {
                // Of an address that is announced with another's MAC nobody here knows whether it is a router's.
                let router = mac.is_none()
                    && sysctl::read(&Sysctl::ipv6(name, "forwarding"))?.is_some_and(|value| value != "0");
                Vec::from_iter(nd::announcement(with, address, router))
            }
        };
        self.send(device.index, &frames).map_err(|e| KernelError::system(what, e))
    }

    fn send(&mut self, index: u32, frames: &[Vec<u8>]) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => open()?,
        };
        let outcome = frames.iter().try_for_each(|frame| send(&socket, index, frame));
        self.socket = Some(socket);
        outcome
    }
}

/// Says out of a device that a MAC is here, as the hypervisor of a machine does that has arrived (RARP). Needs CAP_NET_RAW.
///
/// # Errors
/// When there is no such device (ENODEV), or the kernel refuses.
pub fn announce_arrival(name: &IfName, mac: MacAddr) -> io::Result<()> {
    let socket = open()?;
    let index = rustix::net::netdevice::name_to_index(&socket, name.as_str())?;
    send(&socket, index, &arp::arrival(mac))
}

fn open() -> io::Result<OwnedFd> {
    // Protocol 0: this socket receives nothing.
    // SAFETY: socket() takes numbers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn send(socket: &OwnedFd, index: u32, frame: &[u8]) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain data, for which all zeroes are valid.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    to.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    to.sll_halen = 6;
    let size = libc::socklen_t::try_from(size_of_val(&to)).map_err(io::Error::other)?;
    // SAFETY: frame and address are valid for the lengths given with them.
    let sent = unsafe {
        libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, (&raw const to).cast(), size)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
