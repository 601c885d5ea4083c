//! The lab's own process: init of a pid namespace, or its child, with mounts and a network of its own. Whatever it makes lives in
//! namespaces that end with it, so a lab leaves nothing behind however it ends.

use std::{
    fs,
    io::{self, Read},
    os::unix::net::UnixStream,
    sync::Arc,
    thread,
};

use rustix::{
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change},
    process::{Pid, Signal, WaitOptions, set_parent_process_death_signal, setsid, wait, waitpid},
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::{
    LabError,
    event::{Message, Reporter},
};

/// How long a lab lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It ends with the process that starts it, whatever ends that one.
    Tied,
    /// It stays once the one that starts it has said [`RELEASE`]; before, it ends with it.
    Stays,
}

/// The byte by which a lab is let go.
pub(crate) const RELEASE: u8 = b'r';

/// A lab's process, seen from the one that started it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) stream: UnixStream,
    keeper: Pid,
}

impl Sandbox {
    /// Forks; the closure runs as the lab's init, or the child of that, and its end is the lab's.
    pub(crate) fn start(life: Life, work: impl FnOnce(Arc<Reporter>)) -> Result<Self, LabError> {
        let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        if threads != 1 {
            return Err(LabError::Threads(threads));
        }
        let (ours, theirs) =
            UnixStream::pair().map_err(|source| LabError::Sandbox { what: "make a socket", source })?;
        let parent = rustix::process::getpid();
        match fork().map_err(|source| LabError::Sandbox { what: "start a process", source })? {
            Some(keeper) => Ok(Self { stream: ours, keeper }),
            None => {
                drop(ours);
                keep(life, parent, theirs, work)
            }
        }
    }

    /// Waits until nothing of the lab is left.
    pub(crate) fn wait(self) {
        drop(self.stream);
        let _ = waitpid(Some(self.keeper), WaitOptions::empty());
    }
}

/// The process between: only a child can be in a new pid namespace. It gives the child's process id away, and
/// through it the end of the first process is the end of the child.
fn keep(life: Life, parent: Pid, stream: UnixStream, work: impl FnOnce(Arc<Reporter>)) -> ! {
    let reporter = Arc::new(Reporter::new(match stream.try_clone() {
        Ok(stream) => stream,
        Err(_) => leave(1),
    }));
    let result = (|| {
        if life == Life::Tied {
            tie()?;
            if rustix::process::getppid() != Some(parent) {
                // It ended before we were tied to it.
                leave(1);
            }
        } else {
            // Signals of the terminal are not for a lab that stays.
            setsid()?;
        }
        let all = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWNET;
        // SAFETY: no file descriptors are unshared.
        unsafe { unshare_unsafe(all) }?;
        let (told, tell) = io::pipe()?;
        Ok((fork()?, told, tell))
    })();
    let fail = |what: &str, e: io::Error| -> ! {
        let hint = if e.kind() == io::ErrorKind::PermissionDenied { " (a lab needs root)" } else { "" };
        reporter.say(&Message::Failed { what: format!("cannot {what}: {e}{hint}"), output: String::new() });
        leave(1)
    };
    match result {
        Err(e) => fail("make namespaces", e),
        Ok((None, mut told, tell)) => {
            drop(tell);
            // Nothing is said before the process id is.
            let _ = told.read(&mut [0]);
            if life == Life::Tied {
                match tie().and_then(|()| fork()) {
                    Ok(Some(worker)) => {
                        drop((reporter, stream, told));
                        reap(worker)
                    }
                    Ok(None) => {}
                    Err(e) => fail("start a process", e),
                }
            }
            if let Err(e) = settle(life, stream) {
                fail("set up the lab's own mounts", e);
            }
            // A panic must not unwind into what the caller goes on with: that is the other process's.
            let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(reporter)));
            leave(i32::from(worked.is_err()))
        }
        Ok((Some(init), told, tell)) => {
            reporter.say(&Message::Init(init.as_raw_pid().unsigned_abs()));
            drop((reporter, stream, told, tell));
            if life == Life::Tied {
                let _ = waitpid(Some(init), WaitOptions::empty());
            }
            leave(0)
        }
    }
}

/// Which name servers programs ask.
const RESOLVERS: &str = "/etc/resolv.conf";

/// Init of a lab that ends with who started it: collects orphans, as somebody may wait until they are gone, until the one has ended that
/// does the lab's work. All ends with it.
fn reap(worker: Pid) -> ! {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == worker => leave(status.exit_status().unwrap_or(1)),
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => leave(1),
        }
    }
}

fn settle(life: Life, stream: UnixStream) -> io::Result<()> {
    watch(life, stream);
    // Others' mounts still come and go here, so that a lab that stays keeps no disk busy; ours stay ours.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    mount("proc", "/proc", "proc", MountFlags::empty(), None)?;
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None)?;
    // Clients of DHCP write their name servers there, which are not this machine's. Where it is a link, it leads into
    // /run.
    if fs::symlink_metadata(RESOLVERS).is_ok_and(|file| file.is_file()) {
        let own = "/run/resolv.conf";
        fs::copy(RESOLVERS, own)?;
        mount_bind(own, RESOLVERS)?;
    }
    Ok(())
}

fn tie() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Ends the lab when the one that started it is gone without having let it go. The parent's death signal does the
/// same, but not for a parent that died before it was asked for.
fn watch(life: Life, mut stream: UnixStream) {
    thread::spawn(move || {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) if byte[0] == RELEASE && life == Life::Stays => {}
            _ => leave(1),
        }
    });
}

/// Init's rest, of a lab that stays: keeps the namespaces, and lets the kernel collect orphans, until it is killed.
pub(crate) fn rest() -> ! {
    // Whoever reads what the first process writes shall see its end.
    if let Ok(null) = fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    // SAFETY: no handler is installed; ignoring SIGCHLD makes the kernel reap children by itself (wait(2)).
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    loop {
        thread::park();
    }
}

/// Ends a child without the end of the program that it was: what its parent has not written out yet is not ours.
fn leave(status: i32) -> ! {
    // SAFETY: it does not return, and nothing of this process is used after it.
    unsafe { libc::_exit(status) }
}

fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: `Sandbox::start` has checked that there is one thread, so the child finds no lock taken by another; the
    // process in between has not made any since.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid)),
    }
}
