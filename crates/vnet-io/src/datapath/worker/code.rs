//! The code that a frame goes through.
//!
//! Its functions are in a section of their own (`#[link_section = "frame_path"]`), so that they stand side by side in the program.
//! Who has slept for long finds none of them in the processor's caches, and would wait for the memory hundreds of times,
//! each time it comes to a line that is not there. To ask for all of it at once takes as long as to wait a few times.

use std::{ops::Range, time::Duration};

/// After so long it is not there any more: others have used the processor.
pub(super) const FORGOTTEN: Duration = Duration::from_millis(1);
/// How much of it a processor's cache takes at once.
const LINE: usize = 64;

// Linkers define these for each section whose name is an identifier (ld(1), "Orphan Sections").
unsafe extern "C" {
    #[link_name = "__start_frame_path"]
    static START: u8;
    #[link_name = "__stop_frame_path"]
    static STOP: u8;
}

/// From where to where it stands.
fn place() -> Range<*const u8> {
    &raw const START..&raw const STOP
}

/// Has the processor fetch it, and does not wait for that.
pub(super) fn fetch() {
    let Range { start, end } = place();
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
        fetch();
    }
}
