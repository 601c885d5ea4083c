//! Namespaces that guests share: made and taken away under /run/netns, where `ip netns` sees them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, BufRead as _, BufReader},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
};

use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::{
    fs::{AtFlags, CWD, StatxFlags, statx},
    io::Errno,
    mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_change, unmount},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use viaduct_plan::{InnerDevice, ObservedNamespace};
use viaduct_types::NamespaceName;

use crate::{
    address,
    error::{KernelError, NetnsReason, Refusal},
    link::{self, LOOPBACK, Settings},
    netns::NAMES,
    observe::is_link_local,
    route, rule,
    socket::Socket,
};

/// The alias of the loopback device in a namespace that we made.
const ALIAS: &str = "viaduct:namespace";

/// What the aliases of our devices in shared namespaces begin with.
pub(crate) const INNER: &str = viaduct_plan::INNER;

/// Where a namespace's name is.
pub(crate) fn path(name: &NamespaceName) -> String {
    format!("{NAMES}/{name}")
}

/// The names of the namespaces in which something of ours may be, as files in a directory beside the journal. It says
/// only where to look; whose a namespace and its devices are, they say themselves. It goes with a reboot, as they do.
pub(crate) struct Index {
    directory: PathBuf,
}

impl Index {
    pub(crate) fn open(run_dir: &Path) -> Self {
        Self { directory: run_dir.join("namespaces") }
    }

    pub(crate) fn names(&self) -> BTreeSet<NamespaceName> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    pub(crate) fn remember(&self, name: &NamespaceName) -> Result<(), KernelError> {
        let written = fs::create_dir_all(&self.directory)
            .and_then(|()| fs::write(self.directory.join(name.as_str()), ""));
        written.map_err(|e| KernelError::system(format!("writing into {}", self.directory.display()), e))
    }

    pub(crate) fn forget(&self, name: &NamespaceName) {
        // One name too many only costs a look.
        let _ = fs::remove_file(self.directory.join(name.as_str()));
    }

    /// A second place for a namespace, so that it and the devices of the host in it stay when it loses its name.
    pub(crate) fn held(&self, name: &NamespaceName) -> String {
        self.directory.join(name.as_str()).display().to_string()
    }

    /// Keeps the namespace, unless that is done already.
    pub(crate) fn hold(&self, name: &NamespaceName) -> Result<(), KernelError> {
        self.remember(name)?;
        let (there, held) = (path(name), self.held(name));
        let inode = |path: &str| fs::metadata(path).map(|data| data.ino()).ok();
        if inode(&there) == inode(&held) {
            return Ok(());
        }
        mount_bind(&there, &held)
            .map_err(|errno| KernelError::system(format!("keeping the namespace {name} at {held}"), errno))
    }

    /// Lets go of it.
    pub(crate) fn release(&self, name: &NamespaceName) {
        // One over the other, when another had the name in between.
        while unmount(self.held(name), UnmountFlags::DETACH).is_ok() {}
    }
}

/// The names to look at: those that are `asked` for, each of which has to be another namespace, and those `known` that are no
/// second names of these.
pub(crate) fn distinct<'a>(
    asked: impl IntoIterator<Item = &'a NamespaceName>,
    known: &'a BTreeSet<NamespaceName>,
) -> Result<BTreeSet<&'a NamespaceName>, KernelError> {
    let inode = |name: &NamespaceName| fs::metadata(path(name)).map(|data| data.ino()).ok();
    let mut names = BTreeSet::new();
    let mut owners = BTreeMap::new();
    for name in asked {
        if let Some(other) = inode(name).and_then(|inode| owners.insert(inode, name)) {
            return Err(KernelError::netns(path(name), NetnsReason::SameAs(path(other))));
        }
        names.insert(name);
    }
    let is_other = |name: &&NamespaceName| inode(name).is_none_or(|inode| !owners.contains_key(&inode));
    names.extend(known.iter().filter(is_other));
    Ok(names)
}

/// Makes one, as `ip netns add` does, with its loopback device up and marked as ours before anybody can see it. Gives the
/// socket in it with which that was done.
pub(crate) fn make(name: &NamespaceName, what: &str) -> Result<Socket, KernelError> {
    let path = path(name);
    let made = where_others_see(|| {
        share_names()?;
        // What another run left when it was stopped is a file without a namespace. Of a pipe that somebody put there, nobody
        // waits for the other end, and a link leads to what is not ours.
        let plain = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let mut options = fs::OpenOptions::new();
        let file =
            options.write(true).create(true).truncate(false).mode(0o0).custom_flags(plain).open(&path)?;
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        new_namespace(&path)
    });
    made.map_err(|e| KernelError::system(what, e))
}

/// Others' mount namespaces hear of names that come and go, as `ip netns` has it.
fn share_names() -> io::Result<()> {
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    fs::create_dir_all(NAMES)?;
    match mount_change(NAMES, shared) {
        Ok(()) => Ok(()),
        // It has to be a mount of its own first.
        Err(Errno::INVAL) => {
            mount_bind_recursive(NAMES, NAMES)?;
            Ok(mount_change(NAMES, shared)?)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Acts on a thread of its own, whose namespaces end with it. A unit of systemd with a private view of the file system hears
/// of what the host mounts, but nobody hears of what it mounts: then the thread goes where the host's first process is.
fn where_others_see<T: Send>(act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let there = || {
        if is_only_told() {
            let host = fs::File::open("/proc/1/ns/mnt")?;
            // SAFETY: only what this thread shares with others of its view of the file system is cut off.
            unsafe { unshare_unsafe(UnshareFlags::FS) }?;
            move_into_link_name_space(host.as_fd(), Some(LinkNameSpaceType::Mount))?;
        }
        act()
    };
    thread::scope(|scope| scope.spawn(there).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// Whether the root here is a slave of the root of the host's first process (proc(5), mountinfo).
fn is_only_told() -> bool {
    let master = root_group("thread-self", "master:");
    master.is_some() && master == root_group("1", "shared:")
}

/// A group of mounts that the root of a process is in. There may be thousands of mounts, and the kernel tells a few at a
/// time: the root is among the first.
fn root_group(process: &str, word: &str) -> Option<String> {
    // Several may be mounted one over the other.
    let root = statx(CWD, format!("/proc/{process}/root"), AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    let number = root.stx_mnt_id.to_string();
    let mounts = fs::File::open(format!("/proc/{process}/mountinfo")).ok()?;
    let root = BufReader::new(mounts)
        .lines()
        .map_while(Result::ok)
        .find(|line| line.split(' ').next() == Some(number.as_str()))?;
    let mut groups = root.split(' ').skip(6).take_while(|field| *field != "-");
    groups.find_map(|field| Some(field.strip_prefix(word)?.to_owned()))
}

/// On a thread of its own, which ends with it.
fn new_namespace(path: &str) -> io::Result<Socket> {
    // SAFETY: only this thread's network namespace changes, and it shares none of it with other threads.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    let mut socket = Socket::open(NETLINK_ROUTE)?;
    let settings = Settings { up: Some(true), alias: Some(ALIAS.to_owned()), ..Settings::default() };
    for answer in socket.batch(&[link::set(LOOPBACK, &settings)]) {
        answer.map_err(|refusal| io::Error::from_raw_os_error(refusal.errno))?;
    }
    mount_bind("/proc/thread-self/ns/net", path)?;
    Ok(socket)
}

/// Takes the name away. The namespace itself goes with the last process in it.
pub(crate) fn delete(name: &NamespaceName, what: &str) -> Result<(), KernelError> {
    let path = path(name);
    let deleted = where_others_see(|| {
        match unmount(&path, UnmountFlags::DETACH) {
            // Gone, or nothing but the file was left.
            Ok(()) | Err(Errno::NOENT | Errno::INVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            Ok(()) | Err(_) => Ok(()),
        }
    });
    deleted.map_err(|e| KernelError::system(what, e))
}

/// What is in it.
pub(crate) fn look(socket: &mut Socket) -> Result<ObservedNamespace, Refusal> {
    let mut found = ObservedNamespace::default();
    let mut devices = BTreeMap::new();
    for (name, device) in link::list(socket)? {
        if device.index == 1 {
            (found.ours, found.lo_up) = (device.alias == ALIAS, device.up);
            continue;
        }
        let addresses = address::list(socket, device.index)?
            .into_iter()
            .filter(|(_, info)| !info.dynamic)
            .map(|((_, address), _)| address)
            .filter(|address| !is_link_local(address))
            .collect();
        let routes = route::list_guest(socket, device.index)?.into_iter().collect();
        let viaduct_plan::Link { index, alias, mac, mtu, up, .. } = device;
        devices.insert(name, InnerDevice { index, alias, mac, mtu, up, addresses, routes });
    }
    let rules = rule::list(socket)?.into_iter().collect();
    Ok(ObservedNamespace { devices, rules, ..found })
}
