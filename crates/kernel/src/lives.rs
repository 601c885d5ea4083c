//! Hears when namespaces come and go: of names in a directory by inotify, of processes by their pidfd.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    fs::inotify,
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::error::KernelError;

/// The epoll data of inotify; a process has its id.
const NAMES: EventData = EventData::new_u64(u64::MAX);

/// Follows the places where namespaces are. Its file descriptor is readable when one of them may have come or gone.
pub struct Lives {
    ready: OwnedFd,
    names: OwnedFd,
    directories: BTreeMap<PathBuf, i32>,
    processes: BTreeMap<i32, OwnedFd>,
}

impl Lives {
    /// Follows nothing yet.
    ///
    /// # Errors
    /// When a descriptor cannot be made.
    pub fn open() -> Result<Self, KernelError> {
        let failed = |errno: Errno| KernelError::system("following namespaces", errno);
        let names =
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).map_err(failed)?;
        let ready = epoll::create(CreateFlags::CLOEXEC).map_err(failed)?;
        epoll::add(&ready, &names, NAMES, EventFlags::IN).map_err(failed)?;
        Ok(Self { ready, names, directories: BTreeMap::new(), processes: BTreeMap::new() })
    }

    /// Follows exactly these, as attachments name them: `/run/netns/NAME`, another path, or `/proc/PID/ns/net`. What
    /// cannot be followed is as if it never came or went.
    pub fn follow<'a>(&mut self, paths: impl Iterator<Item = &'a str>) {
        let (mut directories, mut processes) = (BTreeSet::new(), BTreeSet::new());
        for path in paths {
            match process(path) {
                Some(process) => {
                    processes.insert(process);
                }
                None => directories.extend(Path::new(path).parent()),
            }
        }
        self.directories.retain(|directory, watch| {
            let wanted = directories.contains(directory.as_path());
            if !wanted {
                // It went by itself when the directory did.
                let _ = inotify::remove_watch(&self.names, *watch);
            }
            wanted
        });
        // Closing one ends that epoll listens to it.
        self.processes.retain(|process, _| processes.contains(process));
        directories.into_iter().for_each(|directory| self.follow_directory(directory));
        processes.into_iter().for_each(|process| self.follow_process(process));
    }

    /// Follows this one as well.
    pub fn follow_also(&mut self, path: &str) {
        match process(path) {
            Some(process) => self.follow_process(process),
            None => {
                Path::new(path).parent().into_iter().for_each(|directory| self.follow_directory(directory))
            }
        }
    }

    fn follow_directory(&mut self, directory: &Path) {
        let flags = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVE
            | inotify::WatchFlags::ONLYDIR;
        if !self.directories.contains_key(directory)
            && let Ok(watch) = inotify::add_watch(&self.names, directory, flags)
        {
            self.directories.insert(directory.to_owned(), watch);
        }
    }

    fn follow_process(&mut self, process: i32) {
        if let std::collections::btree_map::Entry::Vacant(entry) = self.processes.entry(process)
            && let Some(pid) = Pid::from_raw(process)
            && let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty())
            && epoll::add(
                &self.ready,
                &descriptor,
                EventData::new_u64(process.unsigned_abs().into()),
                EventFlags::IN,
            )
            .is_ok()
        {
            entry.insert(descriptor);
        }
    }

    /// Whether one of them may have come or gone since the last time.
    pub fn changed(&mut self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.names, &mut buffer);
        let mut changed = false;
        while let Ok(event) = reader.next() {
            changed = true;
            // The directory itself went; the next time, it may be there again.
            if event.events().contains(inotify::ReadFlags::IGNORED) {
                self.directories.retain(|_, watch| *watch != event.wd());
            }
        }
        let ended = |descriptor: &OwnedFd| {
            use rustix::event::{PollFd, PollFlags, Timespec, poll};
            let mut one = [PollFd::new(descriptor, PollFlags::IN)];
            poll(&mut one, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|n| n > 0)
        };
        let before = self.processes.len();
        self.processes.retain(|_, descriptor| !ended(descriptor));
        changed || self.processes.len() < before
    }
}

impl AsFd for Lives {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

/// The process of a path like `/proc/PID/ns/net`.
fn process(path: &str) -> Option<i32> {
    path.strip_prefix("/proc/")?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    #[test]
    fn names_and_processes_are_heard_of() {
        let directory = std::env::temp_dir().join(format!("viaduct-lives-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a temporary directory");
        let mut child = Command::new("sleep").arg("100").spawn().expect("sleep");
        let (name, pid) = (directory.join("web"), format!("/proc/{}/ns/net", child.id()));
        let mut lives = Lives::open().expect("descriptors");
        lives.follow([name.to_str().expect("text"), pid.as_str()].into_iter());
        assert!(!lives.changed());
        fs::write(&name, "").expect("a file");
        assert!(lives.changed());
        assert!(!lives.changed());
        child.kill().expect("killed");
        child.wait().expect("waited for");
        assert!(lives.changed());
        assert!(!lives.changed());
        fs::remove_dir_all(&directory).expect("removed");
        assert!(lives.changed());
        // Nobody is attached any more.
        lives.follow(std::iter::empty());
        assert!(!lives.changed());
    }
}
