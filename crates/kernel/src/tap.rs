//! Persistent taps.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsRawFd,
};

use viaduct_types::IfName;

/// The file.
pub(crate) const DEVICE: &str = "/dev/net/tun";

// include/uapi/linux/if_tun.h
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
const TUNSETOWNER: libc::c_ulong = 0x4004_54cc;
const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const IFF_TUN_EXCL: u16 = 0x8000;

/// A tap that goes with its descriptor unless it is kept.
pub(crate) struct Tap(File);

/// What taps are made with. Where the module is missing there is no such file, or it has no driver (ENODEV).
pub(crate) fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(DEVICE)
}

/// A tap keeps for ever whether it has several queues, and who opens one cannot use the other kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queues {
    /// As hypervisors take it.
    One,
    /// As many as are opened.
    Several,
}

/// Makes one, down, in the namespace of the thread that opened the file. A device that has the name already is left
/// alone: EBUSY if it is a tap, EINVAL or EEXIST if it is another device.
pub(crate) fn make(file: File, name: &IfName, queues: Queues) -> io::Result<Tap> {
    let several = if queues == Queues::Several { IFF_MULTI_QUEUE } else { 0 };
    // Without a bare IFF_TUN_EXCL this would attach to an existing tap of that name instead.
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL | several;
    // SAFETY: ifreq is plain data, for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // An IfName has at most 15 bytes; the last of the 16 stays NUL.
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = libc::c_short::from_ne_bytes(flags.to_ne_bytes());
    // SAFETY: TUNSETIFF takes a pointer to an ifreq, which lives until the call returns.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &raw mut request) })?;
    Ok(Tap(file))
}

impl Tap {
    /// Lets it outlive its descriptor, and lets `owner` open it without privileges.
    pub(crate) fn keep(self, owner: Option<u32>) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        if let Some(owner) = owner {
            // SAFETY: TUNSETOWNER takes a number.
            check(unsafe { libc::ioctl(fd, TUNSETOWNER as _, libc::c_ulong::from(owner)) })?;
        }
        // SAFETY: TUNSETPERSIST takes a number.
        check(unsafe { libc::ioctl(fd, TUNSETPERSIST as _, 1 as libc::c_ulong) })
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
