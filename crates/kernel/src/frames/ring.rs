//! Memory that the kernel puts frames into and that this process reads them from (packet(7), PACKET_RX_RING, version 2).
//!
//! A socket's own queue holds some hundred frames, and more only with privileges that whoever answers guests has not. As
//! many guests may ask at once as there are on a bridge.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use super::check;

/// Whole pages of so many bytes are what a ring is made of.
const BLOCK: usize = 64 * 1024;
/// Before a frame, its header and where it came from; the kernel aligns both to 16 bytes.
const HEADER: usize = size_of::<libc::tpacket2_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT);

/// One frame's place belongs to the kernel until there is a frame in it, and to this process until it is given back.
pub(super) struct Ring {
    memory: NonNull<u8>,
    /// Bytes of one place.
    place: usize,
    places: usize,
    /// Where the next frame comes.
    next: usize,
}

// SAFETY: the memory belongs to this value alone, and nothing in it depends on the thread.
unsafe impl Send for Ring {}

impl Ring {
    /// One for so many frames at least, each of so many bytes with its header; both are powers of two.
    pub(super) fn new(socket: &OwnedFd, frames: usize, place: usize) -> io::Result<Self> {
        let places = frames.max(BLOCK / place);
        let version = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
        option(socket, libc::PACKET_VERSION, &version)?;
        let narrow = |value: usize| libc::c_uint::try_from(value).map_err(io::Error::other);
        let request = libc::tpacket_req {
            tp_block_size: narrow(BLOCK)?,
            tp_block_nr: narrow(places * place / BLOCK)?,
            tp_frame_size: narrow(place)?,
            tp_frame_nr: narrow(places)?,
        };
        option(socket, libc::PACKET_RX_RING, &request)?;
        // SAFETY: a new mapping, at a place of the kernel's choice, of what the socket has just been given.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                places * place,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { memory, place, places, next: 0 })
    }

    /// How many frames it holds.
    pub(super) fn places(&self) -> usize {
        self.places
    }

    /// Copies the next frame, cut to the buffer, and gives its place back; with how it was addressed (`sll_pkttype`).
    pub(super) fn take(&mut self, buffer: &mut [u8]) -> Option<(usize, u8)> {
        // SAFETY: `next` is below the number of places.
        let place = unsafe { self.memory.add(self.next * self.place) };
        // SAFETY: a place begins with its status, which is aligned, and which this process and the kernel share.
        let status = unsafe { AtomicU32::from_ptr(place.cast().as_ptr()) };
        // Acquire: what the kernel wrote before it.
        if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the place is this process's now, and begins with a whole header and an address behind it.
        let (header, from) = unsafe {
            (
                place.cast::<libc::tpacket2_hdr>().read(),
                place.add(HEADER).cast::<libc::sockaddr_ll>().read_unaligned(),
            )
        };
        let begin = usize::from(header.tp_mac).min(self.place);
        let captured = usize::try_from(header.tp_snaplen).unwrap_or(usize::MAX);
        let length = captured.min(self.place - begin).min(buffer.len());
        // SAFETY: the frame lies within its place, and the buffer is none of the ring.
        unsafe { place.add(begin).copy_to_nonoverlapping(NonNull::from(&mut *buffer).cast(), length) };
        // Release: the kernel writes there from now on.
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % self.places;
        Some((length, from.sll_pkttype))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nobody uses it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.places * self.place) };
    }
}

fn option<T>(socket: &OwnedFd, name: libc::c_int, value: &T) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the value is valid for the length given with it.
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, name, std::ptr::from_ref(value).cast(), size)
    })
}
