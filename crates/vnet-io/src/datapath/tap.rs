//! Taps that give and take super-frames.

use std::{
    fs::OpenOptions,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use viaduct_types::IfName;

// include/uapi/linux/if_tun.h
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNGETIFF: libc::c_ulong = 0x8004_54d2;
const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_PERSIST: u16 = 0x0800;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO4: libc::c_ulong = 0x02;
const TUN_F_TSO6: libc::c_ulong = 0x04;
const TUN_F_TSO_ECN: libc::c_ulong = 0x08;
const TUN_F_USO4: libc::c_ulong = 0x20;
const TUN_F_USO6: libc::c_ulong = 0x40;

/// How many frames may wait for a worker. A super-frame has up to 64 KiB, so that a queue of the usual 1,000 would hold
/// frames for tens of milliseconds; with this many, TCP finds its rate, others' packets do not wait behind it, and small ones
/// have room for some milliseconds.
const QUEUE: u32 = 256;

/// Why there is no tap.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} the tap {name}{}", hint(source))]
pub struct TapError {
    /// What was tried.
    pub what: &'static str,
    /// On which.
    pub name: IfName,
    /// What the kernel said.
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => " (another process has all of its queues)",
        Some(libc::EINVAL) => " (a device of that name is another kind: delete it, or choose another name)",
        Some(libc::ENODEV) => " (there is none yet)",
        Some(libc::ENOENT) => " (the kernel has no module tun)",
        _ => "",
    }
}

/// A tap device with a queue for each worker.
#[derive(Debug)]
pub struct Tap {
    name: IfName,
    queues: Vec<OwnedFd>,
    cuts_udp: bool,
}

impl Tap {
    /// Makes one, or opens what is there. A new one is down, belongs to no bridge, and goes with its descriptors.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn make(name: &IfName, queues: usize) -> Result<Self, TapError> {
        let queues: io::Result<Vec<OwnedFd>> = (0..queues).map(|_| queue(name)).collect();
        Self::of(name, queues.map_err(failed("open", name))?)
    }

    /// Opens one that is kept (TUNSETPERSIST): it stays, a port of its bridge, until somebody deletes the link, and whoever opens it
    /// next goes on with it. None is made.
    ///
    /// # Errors
    /// When there is none that is kept, and when the kernel refuses.
    pub fn open(name: &IfName, queues: usize) -> Result<Self, TapError> {
        // A port that has been there gets its carrier with the first queue. Were its length set between that and the
        // kernel's look at it, the kernel would take its time for the look, a second at most, and the bridge drop all
        // until then (net/core/link_watch.c, `linkwatch_urgent_event`). Where none is there, this fails.
        set_queue_length(name, QUEUE).map_err(failed("open", name))?;
        let mut opened = Vec::new();
        for _ in 0..queues {
            let queue = queue(name).map_err(failed("open", name))?;
            // It may have gone since, and the kernel has made one for this process: that goes with its descriptors.
            if !is_kept(&queue).map_err(failed("ask about", name))? {
                return Err(failed("open", name)(io::Error::from_raw_os_error(libc::ENODEV)));
            }
            opened.push(queue);
        }
        Self::of(name, opened)
    }

    fn of(name: &IfName, queues: Vec<OwnedFd>) -> Result<Self, TapError> {
        let mut tap = Self { name: name.clone(), queues, cuts_udp: false };
        let Some(first) = tap.queues.first() else { return Ok(tap) };
        // Offloads are the device's, not a queue's. USO came with Linux 6.2.
        let without_uso = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
        tap.cuts_udp = ioctl(first, TUNSETOFFLOAD, without_uso | TUN_F_USO4 | TUN_F_USO6).is_ok();
        if !tap.cuts_udp {
            ioctl(first, TUNSETOFFLOAD, without_uso).map_err(failed("set the offloads of", name))?;
        }
        set_queue_length(name, QUEUE).map_err(failed("set the queue length of", name))?;
        Ok(tap)
    }

    /// Its name.
    pub fn name(&self) -> &IfName {
        &self.name
    }

    /// Whether UDP comes in super-frames, too (Linux 6.2 and newer).
    pub fn cuts_udp(&self) -> bool {
        self.cuts_udp
    }

    pub(super) fn into_parts(self) -> (IfName, Vec<OwnedFd>) {
        (self.name, self.queues)
    }
}

fn queue(name: &IfName) -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let mut request = request(name);
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
    request.ifr_ifru.ifru_flags = libc::c_short::from_ne_bytes(flags.to_ne_bytes());
    // SAFETY: TUNSETIFF takes a pointer to an ifreq, which lives until the call returns.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &raw mut request) })?;
    Ok(file.into())
}

fn failed(what: &'static str, name: &IfName) -> impl FnOnce(io::Error) -> TapError {
    move |source| TapError { what, name: name.clone(), source }
}

/// Whether its device outlives its descriptors.
fn is_kept(queue: &OwnedFd) -> io::Result<bool> {
    // SAFETY: ifreq is plain data, for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF takes a pointer to an ifreq, which lives until the call returns.
    check(unsafe { libc::ioctl(queue.as_raw_fd(), TUNGETIFF as _, &raw mut request) })?;
    // SAFETY: the kernel has filled in the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(u16::from_ne_bytes(flags.to_ne_bytes()) & IFF_PERSIST != 0)
}

fn ioctl(queue: &OwnedFd, number: libc::c_ulong, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: this is called with requests of tun's only that take a number.
    check(unsafe { libc::ioctl(queue.as_raw_fd(), number as _, value) })
}

fn set_queue_length(name: &IfName, length: u32) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))
        .or_else(|_| std::net::UdpSocket::bind((std::net::Ipv6Addr::UNSPECIFIED, 0)))?;
    let mut request = request(name);
    request.ifr_ifru.ifru_metric = length.cast_signed();
    // SAFETY: SIOCSIFTXQLEN takes a pointer to an ifreq, which lives until the call returns.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFTXQLEN as _, &raw mut request) })
}

fn request(name: &IfName) -> libc::ifreq {
    // SAFETY: ifreq is plain data, for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // An IfName has at most 15 bytes; the last of the 16 stays NUL.
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
