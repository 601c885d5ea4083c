//! Looks whether somebody on a link has an address already: ARP probes (RFC 5227, section 2.1) and neighbour
//! solicitations as for duplicate address detection (RFC 4862, section 5.4). Neither claims anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use viaduct_types::{IfName, MacAddr};
use viaduct_wire::{arp, nd};

use crate::{
    Kernel,
    error::KernelError,
    frames::{Frames, Listen, Trouble},
    link,
};

/// So often it is asked, as one frame may be lost ...
const QUESTIONS: u32 = 3;
/// ... and this long an answer is waited for, each time. RFC 5227 asks for seconds, for links that come up slowly; this
/// one is up, and somebody waits.
const PATIENCE: Duration = Duration::from_millis(250);

impl Kernel {
    /// Asks on a link who has these addresses, for most of a second; those that somebody has, or looks for at the same
    /// time, with the MAC that says so. On a link that is down nobody can be asked.
    ///
    /// # Errors
    /// When there is no such link, or the kernel refuses.
    pub fn probe(
        &mut self,
        name: &IfName,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<BTreeMap<IpAddr, MacAddr>, KernelError> {
        let what = format!("asking who has an address on {name}");
        let device = link::one(&mut self.route, link::Which::Name(name))
            .map_err(|refusal| KernelError::refused(&*what, refusal))?
            .ok_or_else(|| KernelError::NoDevice { what: what.clone(), name: name.clone() })?;
        let Some(own) = device.mac.filter(|_| device.up) else { return Ok(BTreeMap::new()) };
        match ask(name, own, addresses) {
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => Ok(BTreeMap::new()),
            asked => asked.map_err(|error| KernelError::system(what, error)),
        }
    }
}

fn ask(name: &IfName, own: MacAddr, addresses: &BTreeSet<IpAddr>) -> io::Result<BTreeMap<IpAddr, MacAddr>> {
    let waiting = addresses.len();
    let open = |listen| Frames::open(name, listen, waiting);
    let mut sockets = [open(Listen::Arp)?, open(Listen::Neighbours)?];
    let mut found = BTreeMap::new();
    let mut buffer = [0; 2048];
    for _ in 0..QUESTIONS {
        for address in addresses.iter().filter(|address| !found.contains_key(*address)) {
            match address {
                IpAddr::V4(address) => sockets[0].send([&arp::probe(own, *address)[..]])?,
                IpAddr::V6(address) => {
                    nd::probe(own, *address).map_or(Ok(()), |frame| sockets[1].send([&frame[..]]))?;
                }
            }
        }
        let end = Instant::now() + PATIENCE;
        while found.len() < addresses.len() {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(limit) = Timespec::try_from(left) else { break };
            let mut waiting = sockets.each_ref().map(|socket| PollFd::new(socket, PollFlags::IN));
            match poll(&mut waiting, Some(&limit)) {
                Ok(0) => break,
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            for socket in &mut sockets {
                while let Some(frame) = socket.receive(&mut buffer, Trouble::Possible)? {
                    let v4 = arp::claim(frame).map(|(address, mac)| (address.into(), mac));
                    let v6 = || nd::claim(frame).map(|(address, mac)| (address.into(), mac));
                    if let Some((address, mac)) = v4.or_else(v6)
                        && mac != own
                        && addresses.contains(&address)
                    {
                        found.insert(address, mac);
                    }
                }
            }
        }
    }
    Ok(found)
}
