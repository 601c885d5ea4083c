//! Whose a change is, as far as that can be known for certain.

use std::{collections::BTreeMap, fmt, fs, time::Duration};

use rustix::time::{ClockId, clock_gettime};

use super::gathered::plain;

/// Who made a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// The kernel does not say: anybody, ourselves included, or the kernel as a consequence of another change.
    Untold,
    /// Not we; the process has ended, or nobody can tell which one it is.
    Somebody,
    /// This one.
    Process(Culprit),
}

/// A process that changed something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// Its id.
    pub pid: u32,
    /// Its name (comm): at most 15 bytes, chosen by itself.
    pub program: String,
    /// The name of the process that started it, while both live.
    pub parent: Option<String>,
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {}", self.program, self.pid)?;
        match &self.parent {
            Some(parent) => write!(f, ", started by {parent})"),
            None => f.write_str(")"),
        }
    }
}

impl Culprit {
    /// By the id of a process, or of one of its threads, that has not been waited for yet.
    pub(super) fn of(id: u32) -> Option<Self> {
        let found = Status::of(id)?;
        // A thread may have a name of its own.
        let process = if found.process == id { found } else { Status::of(found.process)? };
        let parent = Status::of(process.parent).map(|parent| parent.name);
        Some(Self { pid: process.process, program: process.name, parent })
    }

    /// Of a transaction of nf_tables, which names its thread: by the kernel's number, which another namespace of
    /// processes than the first does not know.
    pub(super) fn of_thread(id: u32, name: &str) -> Self {
        let program = plain(name);
        let found = Status::of(id).filter(|status| status.name == program).and_then(|_| Self::of(id));
        found.unwrap_or(Self { pid: id, program, parent: None })
    }
}

/// Finds out who sends on a netlink protocol, once for each sender.
pub(super) struct Senders<'a> {
    protocol: isize,
    /// Ports that are ours.
    own: &'a [u32],
    known: BTreeMap<u32, By>,
}

impl<'a> Senders<'a> {
    /// So many are looked for in one go; each takes some hundred microseconds.
    const MOST: usize = 64;

    pub(super) fn new(protocol: isize, own: &'a [u32]) -> Self {
        Self { protocol, own, known: BTreeMap::new() }
    }

    pub(super) fn is_own(&self, port: u32) -> bool {
        self.own.contains(&port)
    }

    /// Whose port it is.
    pub(super) fn by(&mut self, port: u32) -> By {
        match self.known.get(&port) {
            _ if port == 0 => By::Untold,
            Some(by) => by.clone(),
            None if self.known.len() >= Self::MOST => By::Somebody,
            None => {
                let by = holder(self.protocol, port).and_then(Culprit::of).map_or(By::Somebody, By::Process);
                self.known.insert(port, by.clone());
                by
            }
        }
    }
}

/// The process that has a port. A program that lets the kernel choose gets its process id as its first socket's port
/// (`netlink_autobind` in net/netlink/af_netlink.c), and with libnl that id in the lower 22 bits
/// (`generate_local_port` in lib/socket.c). But the same number may be another process's: the ids in a container are
/// its own. So the socket has to be among the process's files, or, where it is closed already, the process has to be
/// a young one, as those are that are started for one command.
fn holder(protocol: isize, port: u32) -> Option<u32> {
    const LIBNL: u32 = (1 << 22) - 1;
    let Some(socket) = inode(protocol, port) else {
        return Some(port).filter(|pid| is_young(*pid));
    };
    let found = [port, port & LIBNL].into_iter().find(|pid| has_open(*pid, &socket));
    // It may have been closed between the two looks.
    found.or_else(|| Some(port).filter(|pid| inode(protocol, port).is_none() && is_young(*pid)))
}

/// The inode of the socket with this port in the thread's network namespace; as text, for that is how it is found.
fn inode(protocol: isize, port: u32) -> Option<String> {
    let (protocol, port) = (protocol.to_string(), port.to_string());
    let table = fs::read_to_string("/proc/thread-self/net/netlink").ok()?;
    // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode (`netlink_native_seq_show`).
    table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>()).find_map(|fields| {
        let [_, of, number, .., inode] = fields.as_slice() else { return None };
        (*of == protocol && *number == port).then(|| (*inode).to_owned())
    })
}

fn has_open(pid: u32, inode: &str) -> bool {
    let wanted = format!("socket:[{inode}]");
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == &*wanted))
}

/// Whether a process was started in the last seconds.
fn is_young(pid: u32) -> bool {
    const YOUNG: f64 = 10.0;
    age(pid).is_some_and(|age| age < YOUNG)
}

/// How long ago a process was started, in seconds.
fn age(pid: u32) -> Option<f64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let now = Duration::try_from(clock_gettime(ClockId::Boottime)).ok()?;
    Some(now.as_secs_f64() - started(&String::from_utf8_lossy(&stat))?)
}

/// When a process was started, in seconds after the machine was: field 22 of its stat (proc_pid_stat(5)), in ticks
/// (USER_HZ). Its name, in brackets, may have any bytes.
fn started(stat: &str) -> Option<f64> {
    const TICKS: f64 = 100.0;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split(' ').nth(22 - 3)?.parse::<f64>().ok()? / TICKS)
}

/// What /proc/ID/status says of a process or thread.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    name: String,
    process: u32,
    parent: u32,
}

impl Status {
    fn of(id: u32) -> Option<Self> {
        Self::read(&String::from_utf8_lossy(&fs::read(format!("/proc/{id}/status")).ok()?))
    }

    fn read(text: &str) -> Option<Self> {
        let field = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
            line.map(str::to_owned)
        };
        // The kernel escapes what would end the line.
        let number = |key| field(key)?.parse().ok();
        Some(Self { name: plain(&field("Name")?), process: number("Tgid")?, parent: number("PPid")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_is_only_a_name() {
        let text = "Name:\tx)\\nPPid:\t\u{1b}[2J\nUmask:\t0022\nTgid:\t7\nPid:\t7\nPPid:\t4\n";
        let status = Status { name: "x)\\nPPid:\u{fffd}\u{fffd}[2J".to_owned(), process: 7, parent: 4 };
        assert_eq!(Status::read(text), Some(status));
        let stat = "7 (a) 1 2) S 4 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 2";
        assert_eq!(started(stat), Some(123.45));
        assert_eq!((started(""), started("7 (a) S"), Status::read("Name:\tx\n")), (None, None, None));
    }

    #[test]
    fn we_are_found_with_our_parent() {
        let own = std::process::id();
        let culprit = Culprit::of(own).unwrap();
        assert_eq!(culprit.pid, own);
        assert!(culprit.parent.is_some(), "{culprit}");
        // A thread stands for its process.
        let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        assert_eq!(Culprit::of(thread), Some(culprit.clone()));
        let name = fs::read_to_string("/proc/thread-self/comm").unwrap().trim_end().to_owned();
        assert_eq!(Culprit::of_thread(thread, &name), culprit);
        // By number only: it has another name.
        let other = Culprit::of_thread(own, "\u{1b}other");
        assert_eq!((other.program.as_str(), other.parent), ("\u{fffd}other", None));
    }

    #[test]
    fn an_age_is_a_processs_own() {
        let own = age(std::process::id()).unwrap();
        assert!(own > -1.0 && own <= age(1).unwrap() + 0.1, "{own}");
        assert_eq!(age(u32::MAX), None);
    }

    #[test]
    fn a_port_is_whose_socket_it_is() {
        let own = std::process::id();
        // As libnl makes them; the second looks like one of the first process of the machine.
        for (pid, found) in [(own, Some(own)), (1, None)] {
            let port = pid | 1021 << 22;
            let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE).unwrap();
            socket.bind(&netlink_sys::SocketAddr::new(port, 0)).unwrap();
            assert_eq!(holder(netlink_sys::protocols::NETLINK_ROUTE, port), found);
            drop(socket);
            assert_eq!(holder(netlink_sys::protocols::NETLINK_ROUTE, port), None);
        }
    }
}
