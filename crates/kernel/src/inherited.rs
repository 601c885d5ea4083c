//! What whoever started this process left open for it.

use std::io;

/// From now on, no process that this one starts has what was open here already, unless it is given to it. What the
/// program opens itself is closed in others anyway; this is for what it was started with, and knows nothing of.
///
/// # Errors
/// When the kernel cannot do that (before Linux 5.11).
pub fn keep_open_files_here() -> io::Result<()> {
    /// Standard input, output and error are whose they are told to be.
    const FIRST: libc::c_uint = 3;
    // SAFETY: close_range() takes numbers, and with this flag closes nothing that anybody here has.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
