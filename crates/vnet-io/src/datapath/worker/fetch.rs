//! Has the processor fetch what a frame needs, before it is needed.
//!
//! Who has slept for long finds nothing of that in the processor's caches, and would wait for the memory hundreds of times: each time
//! it comes to a line that is not there. To ask for all of them at once takes as long as to wait a few times.
//!
//! The functions that frames go through are in a section of their own (`#[link_section = "frame_path"]`), so that they stand side by
//! side in the program.

use std::ops::Range;

/// How much a processor's caches take at once, in bytes.
const LINE: usize = 64;

// Linkers define these for each section whose name is an identifier (ld(1), "Orphan Sections").
unsafe extern "C" {
    #[link_name = "__start_frame_path"]
    static START: u8;
    #[link_name = "__stop_frame_path"]
    static STOP: u8;
}

/// The functions that frames go through.
pub(super) fn code() {
    fetch(place());
}

/// A value, without what it points to.
pub(super) fn value<T: ?Sized>(value: &T) {
    let start = std::ptr::from_ref(value).cast::<u8>();
    fetch(start..start.wrapping_add(size_of_val(value)));
}

fn place() -> Range<*const u8> {
    &raw const START..&raw const STOP
}

fn fetch(Range { start, end }: Range<*const u8>) {
    for line in (start.addr()..end.addr()).step_by(LINE) {
        will_be_needed(start.with_addr(line));
    }
}

#[cfg(target_arch = "x86_64")]
fn will_be_needed(line: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: it is a hint, which reads nothing, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
}

/// There is no such hint for other processors in Rust yet (`core::hint::prefetch_read`).
#[cfg(not(target_arch = "x86_64"))]
fn will_be_needed(_: *const u8) {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::worker::{Worker, outbox::Outbox};

    #[test]
    fn what_frames_go_through_stands_side_by_side() {
        let place = place();
        for function in [Worker::run as *const u8, Outbox::flush as *const u8] {
            assert!(place.contains(&function), "{function:?} is not in {place:?}");
        }
        // With more than a processor's first cache takes, to fetch it would cost more than it saves.
        #[cfg(not(debug_assertions))]
        assert!(place.end.addr() - place.start.addr() < 48 << 10);
        code();
        value(&place);
    }
}
