//! Frames for the bridge: joined as far as they go together, each run written with one call from where it was received.

use std::{os::fd::AsRawFd, sync::Arc};

use viaduct_vnet_proto::data::{OFFLOAD_HEADER, Offload, Run};

use super::vnet::Vnet;
use crate::datapath::{counters::LiveHost, mailbox::Slot};

/// How many parts a run has at most; the kernel takes 1,024 (UIO_MAXIOV).
const PARTS: usize = 512;

/// See the module.
pub(super) struct Deliver {
    host: Arc<LiveHost>,
    pending: Option<Pending>,
    /// Where the pending run's parts stand in what was received, and how long they are: the first frame, and the payloads of those
    /// after it.
    parts: Vec<(usize, usize)>,
    vectors: Vec<libc::iovec>,
}

#[derive(Clone, Copy)]
struct Pending {
    slot: Slot,
    /// Of the tap.
    queue: usize,
    run: Run,
    /// Of all frames, with their headers.
    bytes: usize,
}

// SAFETY: the pointers in the vectors are made and followed by the kernel within one call of `write`.
unsafe impl Send for Deliver {}

impl Deliver {
    pub(super) fn new(host: Arc<LiveHost>) -> Self {
        Self { host, pending: None, parts: Vec::with_capacity(PARTS), vectors: Vec::with_capacity(PARTS + 1) }
    }

    /// Takes a frame that stands there in what was received.
    #[unsafe(link_section = "frame_path")]
    pub(super) fn add(
        &mut self,
        vnets: &[Option<Vnet>],
        (slot, queue): (Slot, usize),
        received: &mut [u8],
        (begin, length): (usize, usize),
    ) {
        if let Some(pending) = &mut self.pending
            && (pending.slot, pending.queue) == (slot, queue)
            && self.parts.len() < PARTS
            && let Some((first, first_length)) = self.parts.first()
        {
            let first = &received[*first..first + first_length];
            if let Some(payload) = pending.run.push(first, &received[begin..begin + length]) {
                self.parts.push((begin + payload, length - payload));
                pending.bytes += length;
                return;
            }
        }
        self.flush(vnets, received);
        let Some(Some(vnet)) = vnets.get(slot) else { return };
        let run = Run::start(&received[begin..begin + length], vnet.joins);
        self.pending = Some(Pending { slot, queue, run, bytes: length });
        self.parts.push((begin, length));
    }

    /// Writes what waits.
    #[unsafe(link_section = "frame_path")]
    pub(super) fn flush(&mut self, vnets: &[Option<Vnet>], received: &mut [u8]) {
        let Some(Pending { slot, queue, run, bytes }) = self.pending.take() else { return };
        if let (Some(Some(vnet)), Some((first, length))) = (vnets.get(slot), self.parts.first()) {
            let offload = run.finish(&mut received[*first..first + length]);
            self.vectors.clear();
            let mut header = offload.write();
            self.vectors.push(vector(&mut header));
            for (begin, length) in &self.parts {
                self.vectors.push(vector(&mut received[*begin..begin + length]));
            }
            self.write(vnet, queue, (run.count() as u64, bytes as u64));
        }
        self.parts.clear();
    }

    /// Writes a frame of a peer's that is not among what was received.
    pub(super) fn one(&mut self, vnet: &Vnet, queue: usize, frame: &mut [u8]) {
        let mut header = Run::start(frame, vnet.joins).finish(frame).write();
        self.vectors.clear();
        self.vectors.push(vector(&mut header));
        self.vectors.push(vector(frame));
        self.write(vnet, queue, (1, frame.len() as u64));
    }

    /// Writes a frame that is not among what was received.
    pub(super) fn whole(&mut self, vnet: &Vnet, frame: &[u8]) {
        let mut header: [u8; OFFLOAD_HEADER] = Offload::NONE.write();
        self.vectors.clear();
        self.vectors.push(vector(&mut header));
        let bytes = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
        self.vectors.push(bytes);
        self.write(vnet, 0, (1, frame.len() as u64));
    }

    fn write(&self, vnet: &Vnet, queue: usize, (frames, bytes): (u64, u64)) {
        self.host.tap_writes.one();
        let count = libc::c_int::try_from(self.vectors.len()).unwrap_or_default();
        // SAFETY: the vectors point to bytes that the callers hold until this returns; writing only reads them.
        let written = unsafe { libc::writev(vnet.queue(queue).as_raw_fd(), self.vectors.as_ptr(), count) };
        if written < 0 {
            vnet.counters.tap_refused.add(frames);
        } else {
            vnet.counters.frames_in.add(frames);
            vnet.counters.bytes_in.add(bytes);
        }
    }
}

fn vector(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}
