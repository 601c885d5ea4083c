//! Writes under /proc/sys/net, by fanotify on the whole of procfs: watching single files would not do, because each
//! has to be found again for every device that comes, and forgets its watch when the kernel forgets its name.
//!
//! It hears of what goes through the same instance of procfs. One that was mounted by itself, such as a container's,
//! is another.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
};

use rustix::io::Errno;
use viaduct_plan::Sysctl;

use super::listener::Heard;

const ROOT: &str = "/proc/sys";
/// struct fanotify_event_metadata (include/uapi/linux/fanotify.h): its own length (4 bytes), version, a byte, length
/// of the fixed part (2), what happened (8), file descriptor (4), process id (4).
const HEADER: usize = 24;
/// At most so many files are open at a time.
const EVENTS: usize = 32;
/// More than the queue holds (16,384); see [`super::listener`].
const MOST: usize = 1 << 15;

/// Hears of writes.
pub(super) struct Files(OwnedFd);

impl Files {
    /// Needs CAP_SYS_ADMIN on the machine.
    pub(super) fn open() -> io::Result<Self> {
        let how = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
        let files = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK).unsigned_abs();
        // SAFETY: it takes numbers.
        let group = unsafe { libc::fanotify_init(how, files) };
        if group < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made, and nobody else has it.
        let group = unsafe { OwnedFd::from_raw_fd(group) };
        let what = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
        // SAFETY: the path is a C string that lives as long as the program.
        let marked = unsafe {
            libc::fanotify_mark(
                group.as_raw_fd(),
                what,
                libc::FAN_MODIFY,
                libc::AT_FDCWD,
                c"/proc/sys".as_ptr(),
            )
        };
        if marked < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(group)) }
    }

    /// Hands over each setting of the thread's network namespace that was written to, with the id of the process, 0
    /// when it has none here.
    pub(super) fn hear(&self, mut each: impl FnMut(Sysctl, u32)) -> io::Result<Heard> {
        let mut heard = Heard::All;
        let mut buffer = [0; HEADER * EVENTS];
        for _ in 0..MOST {
            match rustix::io::read(&self.0, &mut buffer) {
                Ok(length) => {
                    for event in Events(buffer.get(..length).unwrap_or_default()) {
                        match (&event.file, event.lost) {
                            (_, true) => heard = Heard::Lost,
                            (Some(file), false) => {
                                setting(file).into_iter().for_each(|key| each(key, event.pid));
                            }
                            (None, false) => {}
                        }
                    }
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => heard = Heard::Lost,
                Err(error @ (Errno::BADF | Errno::FAULT | Errno::INVAL)) => return Err(error.into()),
                // A file that cannot be opened; its event is gone. The device is gone, or it was no setting of ours.
                Err(_) => {}
            }
        }
        Ok(heard)
    }
}

impl AsFd for Files {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Which setting of the thread's namespace a file is. The file is the same under whatever path it was written, and
/// another in each network namespace.
fn setting(file: &OwnedFd) -> Option<Sysctl> {
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    let (_, rest) = path.to_str()?.rsplit_once("/sys/net/")?;
    let key = Sysctl::from_path(format!("net/{rest}"));
    let theirs = rustix::fs::fstat(file).ok()?;
    let ours = rustix::fs::stat(Path::new(ROOT).join(key.path())).ok()?;
    ((theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)).then_some(key)
}

struct Event {
    file: Option<OwnedFd>,
    pid: u32,
    lost: bool,
}

/// The events that one read gave; ends at the first that does not fit.
struct Events<'a>(&'a [u8]);

impl Iterator for Events<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let &h = self.0.first_chunk::<HEADER>()?;
        let length = usize::try_from(u32::from_ne_bytes([h[0], h[1], h[2], h[3]])).ok()?;
        self.0 = self.0.get(length.max(HEADER)..).unwrap_or_default();
        let mask = u64::from_ne_bytes([h[8], h[9], h[10], h[11], h[12], h[13], h[14], h[15]]);
        let file = i32::from_ne_bytes([h[16], h[17], h[18], h[19]]);
        let pid = i32::from_ne_bytes([h[20], h[21], h[22], h[23]]);
        // SAFETY: the kernel made the descriptor for this event, which is read once, and nobody else has it.
        let file = (file >= 0).then(|| unsafe { OwnedFd::from_raw_fd(file) });
        Some(Event { file, pid: pid.try_into().unwrap_or(0), lost: mask & libc::FAN_Q_OVERFLOW != 0 })
    }
}
