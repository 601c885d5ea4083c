//! Network namespaces: found by name, path or process, checked, entered, and looked into by sockets that stay there.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    path::Path,
    thread,
};

use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::{
    fs::CWD,
    io::Errno,
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
        mount_change, move_mount, open_tree, unmount,
    },
    net::{AddressFamily, SocketType, netdevice::name_to_index},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use viaduct_types::{IfName, NamespaceName};

use crate::{
    error::{KernelError, NetnsReason},
    socket::Socket,
};

const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// Where `ip netns` keeps its names.
pub(crate) const NAMES: &str = "/run/netns";

/// include/uapi/linux/magic.h
const NSFS_MAGIC: i128 = 0x6e73_6673;

/// What people call a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsRef {
    /// A name under /run/netns.
    Name(NamespaceName),
    /// A file.
    Path(String),
    /// The one that a process is in.
    Process(u32),
}

/// A network namespace that exists.
#[derive(Debug)]
pub struct Netns {
    path: String,
    inode: u64,
    file: File,
}

impl Netns {
    /// Finds it.
    ///
    /// # Errors
    /// When there is none, or what stands there is something else; the text says what to do.
    pub fn find(reference: &NetnsRef) -> Result<Self, KernelError> {
        let (path, missing) = match reference {
            NetnsRef::Name(name) => (format!("{NAMES}/{name}"), NetnsReason::MissingName(name.to_string())),
            NetnsRef::Path(path) => (path.clone(), NetnsReason::MissingPath),
            NetnsRef::Process(pid) => (format!("/proc/{pid}/ns/net"), NetnsReason::MissingProcess(*pid)),
        };
        Self::open_or(&path, missing)
    }

    /// Opens the one at a path.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn open(path: &str) -> Result<Self, KernelError> {
        // A name's file says more about what to do than a path.
        let name = Path::new(path).strip_prefix(NAMES).ok().and_then(Path::to_str);
        Self::open_or(
            path,
            name.map_or(NetnsReason::MissingPath, |name| NetnsReason::MissingName(name.to_owned())),
        )
    }

    fn open_or(path: &str, missing: NetnsReason) -> Result<Self, KernelError> {
        let refused = |e: &io::Error| match e.raw_os_error() {
            // ESRCH: a process that has ended but was not waited for has no namespaces.
            Some(libc::ENOENT | libc::ENOTDIR | libc::ESRCH) => missing.clone(),
            errno => NetnsReason::Refused(errno.unwrap_or(libc::EIO)),
        };
        let error = |reason| KernelError::netns(path, reason);
        // Nothing but a namespace may be opened: a device would act, a pipe would wait.
        let metadata = std::fs::metadata(path).map_err(|e| error(refused(&e)))?;
        let is_nsfs = rustix::fs::statfs(path).is_ok_and(|fs| i128::from(fs.f_type) == NSFS_MAGIC);
        if !is_nsfs {
            return Err(error(NetnsReason::NotNetns));
        }
        // What stands there would be done to the host in another's name.
        if std::fs::metadata("/proc/thread-self/ns/net").is_ok_and(|own| own.ino() == metadata.ino()) {
            return Err(error(NetnsReason::Own));
        }
        let file = File::open(path).map_err(|e| error(refused(&e)))?;
        if !is_network(&file) {
            return Err(error(NetnsReason::NotNetns));
        }
        Ok(Self { path: path.to_owned(), inode: metadata.ino(), file })
    }

    /// Where it was found.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its inode number: tells it from a later one at the same path.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Moves the calling thread there. Sockets that it opens from then on, and /proc/sys/net as it sees it, are that
    /// namespace's; what it opened before stays.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN.
    pub fn enter(&self) -> Result<(), KernelError> {
        enter(&self.file).map_err(|e| {
            KernelError::netns(&self.path, NetnsReason::Refused(e.raw_os_error().unwrap_or(libc::EIO)))
        })
    }

    /// Moves this process there for good, as `ip netns exec` does: it sees the namespace's devices in /sys, and the
    /// files of /etc/netns/NAME in the place of those of /etc. To be called while there is one thread only.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN, or when a file of /etc/netns/NAME cannot stand in another's place.
    pub fn become_inside(&self) -> Result<(), KernelError> {
        self.enter()?;
        let failed = |what: String| move |e: rustix::io::Errno| KernelError::system(what, e);
        // SAFETY: only the mounts are this process's own from here on; no file descriptors are unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
            .map_err(failed("making a mount namespace".to_owned()))?;
        // What is mounted here is nobody else's business, but what others mount is ours.
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
            .map_err(failed("making mounts private".to_owned()))?;
        // Control groups, which lie below /sys, stay: what runs containers needs them.
        let copied =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let groups = open_tree(CWD, CONTROL_GROUPS, copied);
        // Where a container may not mount it, /sys shows the devices of the outside as before.
        let _ = unmount("/sys", UnmountFlags::DETACH);
        if let Err(errno) = mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None) {
            tracing::debug!(%errno, "/sys stays as it was");
        }
        let put = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        if let Err(errno) = groups.and_then(|groups| move_mount(groups, "", CWD, CONTROL_GROUPS, put)) {
            tracing::debug!(%errno, "there are no control groups");
        }
        let Some(name) = Path::new(&self.path).strip_prefix(NAMES).ok() else { return Ok(()) };
        let Ok(files) = std::fs::read_dir(Path::new("/etc/netns").join(name)) else { return Ok(()) };
        for file in files.flatten() {
            let place = Path::new("/etc").join(file.file_name());
            let what = format!("putting {} in the place of {}", file.path().display(), place.display());
            mount_bind(file.path(), &place).map_err(failed(what))?;
        }
        Ok(())
    }

    /// Does something there on a thread of its own, so that the caller's stays where it is.
    ///
    /// # Errors
    /// When it cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, KernelError> {
        thread::scope(|scope| {
            let outcome = scope.spawn(|| self.enter().map(|()| work())).join();
            outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Whether there is a device of that name.
    ///
    /// # Errors
    /// When it cannot be entered, or no socket can be had there.
    pub fn has_link(&self, name: &IfName) -> Result<bool, KernelError> {
        let failed = |e| KernelError::system(format!("looking for {name} in {}", self.path), e);
        self.run(|| {
            let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
            match name_to_index(socket, name.as_str()) {
                Ok(_) => Ok(true),
                Err(Errno::NODEV) => Ok(false),
                Err(errno) => Err(errno),
            }
        })?
        .map_err(failed)
    }

    /// Opens a socket that stays there.
    fn socket(&self) -> Result<Socket, KernelError> {
        let opened = self.run(|| Socket::open(NETLINK_ROUTE))?;
        opened.map_err(|e| KernelError::system(format!("opening a netlink socket in {}", self.path), e))
    }
}

fn enter(file: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

fn is_network(file: &File) -> bool {
    // _IO(0xb7, 3), include/uapi/linux/nsfs.h
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: the file is of nsfs, where this request takes no argument and gives a number.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE as _) };
    kind == libc::CLONE_NEWNET
}

/// Sockets inside guests' namespaces, kept open: opening one costs a thread, closing one a wait. Each keeps its
/// namespace alive, so that [`Self::retain`] is called whenever it is known who is still there.
pub(crate) struct Sockets {
    open: BTreeMap<String, (u64, Socket)>,
    /// How many stay open; more are opened for each use and closed after it.
    room: usize,
}

impl Sockets {
    /// As many as half the file descriptors that this process may have.
    pub(crate) fn new() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let room = usize::try_from(limit.unwrap_or(u64::MAX) / 2).unwrap_or(usize::MAX);
        Self { open: BTreeMap::new(), room }
    }

    /// Does something with the socket in the namespace at `path` as it is now.
    pub(crate) fn with<T>(
        &mut self,
        path: &str,
        work: impl FnOnce(&mut Socket) -> T,
    ) -> Result<T, KernelError> {
        let inode = std::fs::metadata(path).map(|m| m.ino()).ok();
        if let Some((known, socket)) = self.open.get_mut(path)
            && inode == Some(*known)
        {
            return Ok(work(socket));
        }
        // Another namespace stands at this path, or none.
        self.open.remove(path);
        let netns = Netns::open(path)?;
        let mut socket = netns.socket()?;
        let result = work(&mut socket);
        if self.open.len() < self.room {
            self.open.insert(path.to_owned(), (netns.inode(), socket));
        }
        Ok(result)
    }

    /// Takes out the socket in the namespace at `path` as it is now, so that it can be used elsewhere.
    pub(crate) fn take(&mut self, path: &str) -> Result<Socket, KernelError> {
        let inode = std::fs::metadata(path).map(|m| m.ino()).ok();
        match self.open.remove(path) {
            Some((known, socket)) if inode == Some(known) => Ok(socket),
            Some(_) | None => Netns::open(path)?.socket(),
        }
    }

    /// Keeps a socket that somebody opened in the namespace at `path`.
    pub(crate) fn put(&mut self, path: String, inode: u64, socket: Socket) {
        if self.open.len() < self.room {
            self.open.insert(path, (inode, socket));
        }
    }

    /// The addresses of those in namespaces that have a name.
    pub(crate) fn ports(&self) -> BTreeMap<NamespaceName, Vec<u32>> {
        let named = self.open.iter().filter_map(|(path, (_, socket))| {
            let name = path.strip_prefix(NAMES)?.strip_prefix('/')?.parse().ok()?;
            Some((name, vec![socket.port()]))
        });
        named.collect()
    }

    /// Closes the socket in the namespace at `path`.
    pub(crate) fn close(&mut self, path: &str) {
        self.open.remove(path);
    }

    /// Closes the sockets of namespaces that nobody asks for any more, or that have gone from their path.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.open.retain(|path, (inode, _)| {
            wanted(path) && std::fs::metadata(path).is_ok_and(|metadata| metadata.ino() == *inode)
        });
    }
}
