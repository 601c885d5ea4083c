//! Hears at once when something is changed in a network namespace, and by whom, as far as the kernel tells.
//!
//! What it tells (seen with Linux 6.1 and 6.18):
//!
//! | of | by whom |
//! |---|---|
//! | routes, routing rules, IPv4 addresses, neighbours | the sender's port |
//! | links, bridge ports, IPv6 addresses, forwarding entries | nothing |
//! | nf_tables | process and name |
//! | writes under /proc/sys/net | the process |
//!
//! It tells nothing at all of addresses that are answered for (NTF_PROXY), of settings that change because another
//! one was written to (but for those in include/uapi/linux/netconf.h), and of rules of iptables-legacy. So somebody
//! has to look from time to time all the same.

mod culprit;
mod files;
mod gathered;
mod listener;
mod rtnetlink;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
};

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rustix::event::epoll;
use viaduct_plan::{Sysctl, nft::TABLE};
use viaduct_types::{IfName, NamespaceName};

pub use self::culprit::{By, Culprit};
use self::{
    culprit::Senders,
    files::Files,
    gathered::{Gathered, settle},
    listener::{Heard, Listener},
    rtnetlink::{Names, Told},
};
use crate::{
    error::KernelError,
    link, namespaces,
    netns::Netns,
    nft::{Notice, notice},
    socket::Socket,
};

/// Of rtnetlink (include/uapi/linux/rtnetlink.h).
const GROUPS: [u32; 10] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_RULE,
    libc::RTNLGRP_IPV4_NETCONF,
    libc::RTNLGRP_IPV6_NETCONF,
];
/// NFNLGRP_NFTABLES (include/uapi/linux/netfilter/nfnetlink.h)
const GROUP_NFTABLES: u32 = 7;

/// Something that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What kind of thing.
    pub what: What,
    /// Whether it went; of rules and elements, whether some of them did.
    pub removed: bool,
    /// The thing, for people: `link br-web`, `table inet viaduct`, `sysctl net/ipv4/ip_forward`. Names in it are
    /// whatever somebody chose, but have no control characters.
    pub object: String,
    /// Whether the event shows one of our marks on it. That it shows none does not say that it is not ours.
    pub ours: bool,
    /// Who did it.
    pub by: By,
}

/// What kinds of things are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A network device, or its place in a bridge.
    Link,
    /// An address of a device.
    Address,
    /// A route.
    Route,
    /// An entry for a neighbour or in a forwarding table that somebody made, not one that came by itself.
    Neighbour,
    /// A routing rule.
    Rule,
    /// Something in nf_tables.
    Filter,
    /// A setting under /proc/sys/net. It may have been set to what it was.
    Sysctl,
    /// More than could be kept or told: anything may have been changed.
    Lost,
}

/// The addresses of sockets whose doings a [`Watch`] leaves out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// In its own namespace.
    pub own: Vec<u32>,
    /// In namespaces that it follows.
    pub within: BTreeMap<NamespaceName, Vec<u32>>,
}

/// Hears of changes in the network namespace of the thread that opened it; its user has to stay in there. Its file
/// descriptor is readable when there is something to drain.
pub struct Watch {
    ready: OwnedFd,
    here: Ears,
    files: Result<Files, KernelError>,
    /// The shared namespaces that are followed, by their inode numbers.
    within: BTreeMap<NamespaceName, (u64, Ears)>,
    buffer: Vec<u8>,
}

/// Sockets in one namespace.
struct Ears {
    ready: OwnedFd,
    route: Listener,
    filter: Listener,
    names: BTreeMap<u32, IfName>,
    /// What was heard of a transaction of nf_tables whose end was not.
    transaction: Gathered,
}

impl Watch {
    /// Begins to listen. It hears of settings only with CAP_SYS_ADMIN on the machine, and only of what is written
    /// through the instance of procfs that is this process's /proc: a service must not have ProtectProc=.
    ///
    /// # Errors
    /// When a socket cannot be opened.
    pub fn open() -> Result<Self, KernelError> {
        let here = Ears::open()?;
        let files = Files::open().map_err(|e| KernelError::system("watching /proc/sys by fanotify", e));
        let sources = [Some(here.ready.as_fd()), files.as_ref().ok().map(|files| files.as_fd())];
        let ready = ready(sources.into_iter().flatten()).map_err(no_descriptor)?;
        Ok(Self { ready, here, files, within: BTreeMap::new(), buffer: Vec::new() })
    }

    /// Why settings are not watched; then only those in include/uapi/linux/netconf.h are heard of.
    pub fn blind_to_settings(&self) -> Option<&KernelError> {
        self.files.as_ref().err()
    }

    /// Listens in these shared namespaces from now on, as far as they exist, and in no others: what is open in one keeps
    /// it. Says whether it listens in one in which it did not until now.
    pub fn follow<'a>(&mut self, names: impl IntoIterator<Item = &'a NamespaceName>) -> bool {
        let mut before = std::mem::take(&mut self.within);
        let mut new = false;
        for name in names {
            let path = namespaces::path(name);
            let inode = std::fs::metadata(&path).map(|data| data.ino()).ok();
            if let Some(known) = before.remove(name).filter(|(known, _)| Some(*known) == inode) {
                self.within.insert(name.clone(), known);
                continue;
            }
            let opened = Netns::open(&path).and_then(|netns| Ok((netns.inode(), netns.run(Ears::open)??)));
            let ears = opened.and_then(|(inode, ears)| {
                let data = epoll::EventData::new_u64(0);
                epoll::add(&self.ready, &ears.ready, data, epoll::EventFlags::IN).map_err(no_descriptor)?;
                Ok((inode, ears))
            });
            match ears {
                Ok(ears) => {
                    new = true;
                    self.within.insert(name.clone(), ears);
                }
                // It is not there, or it is gone again: a look says what is wrong with it.
                Err(error) => tracing::debug!(%error, "nothing is heard in namespace {name}"),
            }
        }
        new
    }

    /// What was changed since the last time, each thing once, without waiting. Left out is what the sockets with the
    /// ports in `own` did, and what this process wrote. Of links and IPv6 addresses the kernel does not tell whose a
    /// change was, so that our own are among them, as [`By::Untold`]; of settings in namespaces that are followed it never
    /// tells.
    ///
    /// Who drains first and looks at the host then has seen the effect of all that was drained.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn drain(&mut self, own: &Ports) -> Result<Vec<Event>, KernelError> {
        let mut gathered = Gathered::default();
        let Self { here, files, within, buffer, .. } = self;
        let told = here.hear_rtnetlink(&own.own, buffer, &mut gathered)?;
        here.hear_nftables(&own.own, buffer, &mut gathered)?;
        // Last: a setting is told of before its file is (`proc_sys_call_handler` and then `fsnotify_modify`).
        let written = hear_files(files, &mut gathered)?;
        for (key, by) in settle(told, written) {
            gathered.add(setting(&key, by));
        }
        let mut events = gathered.finish();
        for (name, (_, ears)) in within {
            let mut gathered = Gathered::default();
            let own = own.within.get(name).map_or(&[][..], Vec::as_slice);
            let told = ears.hear_rtnetlink(own, buffer, &mut gathered)?;
            ears.hear_nftables(own, buffer, &mut gathered)?;
            told.iter().for_each(|key| gathered.add(setting(key, By::Untold)));
            let there =
                |event: Event| Event { object: format!("{} in namespace {name}", event.object), ..event };
            events.extend(gathered.finish().into_iter().map(there));
        }
        Ok(events)
    }
}

fn setting(key: &Sysctl, by: By) -> Event {
    Event { what: What::Sysctl, removed: false, object: format!("sysctl {key}"), ours: false, by }
}

fn no_descriptor(errno: rustix::io::Errno) -> KernelError {
    KernelError::system("making an epoll descriptor", errno)
}

impl Ears {
    fn open() -> Result<Self, KernelError> {
        const WHAT: &str = "opening a netlink socket to hear of changes";
        let listen = |protocol, groups: &[u32]| {
            Listener::open(protocol, groups).map_err(|e| KernelError::system(WHAT, e))
        };
        let route = listen(NETLINK_ROUTE, &GROUPS)?;
        let filter = listen(NETLINK_NETFILTER, &[GROUP_NFTABLES])?;
        let ready = ready([route.as_fd(), filter.as_fd()].into_iter()).map_err(no_descriptor)?;
        // Those that come from here on are heard of.
        let mut socket = Socket::open(NETLINK_ROUTE).map_err(|e| KernelError::system(WHAT, e))?;
        let links =
            link::list(&mut socket).map_err(|refusal| KernelError::refused("listing links", refusal))?;
        let names = links.into_iter().map(|(name, link)| (link.index, name)).collect();
        Ok(Self { ready, route, filter, names, transaction: Gathered::default() })
    }

    fn hear_rtnetlink(
        &mut self,
        own: &[u32],
        buffer: &mut Vec<u8>,
        gathered: &mut Gathered,
    ) -> Result<BTreeSet<Sysctl>, KernelError> {
        let Self { route, names, .. } = self;
        let mut senders = Senders::new(NETLINK_ROUTE, own);
        let mut names = Names { known: names, socket: route.as_fd() };
        let mut settings = BTreeSet::new();
        let heard = route.hear(buffer, |message| match rtnetlink::read(message, &mut names) {
            Some(Told::Object { what, object, removed, ours }) if !senders.is_own(message.port) => {
                gathered.add(Event { what, removed, object, ours, by: senders.by(message.port) });
            }
            Some(Told::Setting(key)) if settings.len() < Gathered::ROOM => {
                settings.insert(key);
            }
            Some(Told::Setting(_)) => gathered.lost = true,
            Some(Told::Object { .. }) | None => {}
        });
        if heard.map_err(|e| KernelError::system("hearing of changes from rtnetlink", e))? == Heard::Lost {
            gathered.lost = true;
            // There may be others of these numbers.
            names.known.clear();
        }
        Ok(settings)
    }

    fn hear_nftables(
        &mut self,
        own: &[u32],
        buffer: &mut Vec<u8>,
        gathered: &mut Gathered,
    ) -> Result<(), KernelError> {
        let Self { filter, transaction, .. } = self;
        let mut senders = Senders::new(NETLINK_NETFILTER, own);
        let heard = filter.hear(buffer, |message| {
            if senders.is_own(message.port) {
                return;
            }
            match notice(message.kind, message.body) {
                Some(Notice::Change { object, removed, table }) => {
                    let event =
                        Event { what: What::Filter, removed, object, ours: table == TABLE, by: By::Untold };
                    // What packets did is part of no transaction.
                    if message.port == 0 { gathered.add(event) } else { transaction.add(event) }
                }
                Some(Notice::End(thread)) => {
                    let by = match thread {
                        Some((id, name)) => By::Process(Culprit::of_thread(id, &name)),
                        None => senders.by(message.port),
                    };
                    gathered.extend(std::mem::take(transaction), &by);
                }
                None => {}
            }
        });
        if heard.map_err(|e| KernelError::system("hearing of changes from nf_tables", e))? == Heard::Lost {
            gathered.lost = true;
            // Its end may be among what was lost.
            gathered.extend(std::mem::take(transaction), &By::Somebody);
        }
        Ok(())
    }
}

/// Which settings were written to; by none, when only we did.
fn hear_files(
    files: &Result<Files, KernelError>,
    gathered: &mut Gathered,
) -> Result<BTreeMap<Sysctl, Option<By>>, KernelError> {
    let (mut written, mut writers) = (BTreeMap::new(), BTreeMap::from([(std::process::id(), None)]));
    let Ok(files) = files else { return Ok(written) };
    let heard = files.hear(|key, pid| {
        let by =
            writers.entry(pid).or_insert_with(|| Some(Culprit::of(pid).map_or(By::Somebody, By::Process)));
        let full = written.len() == Gathered::ROOM;
        match written.get_mut(&key) {
            Some(known) if by.is_some() => known.clone_from(by),
            Some(_) => {}
            None if full => gathered.lost = true,
            None => drop(written.insert(key, by.clone())),
        }
    });
    let heard = heard.map_err(|e| KernelError::system("hearing of writes to /proc/sys", e))?;
    gathered.lost |= heard == Heard::Lost;
    Ok(written)
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

/// A descriptor that is readable while one of these is.
fn ready<'a>(sources: impl Iterator<Item = BorrowedFd<'a>>) -> rustix::io::Result<OwnedFd> {
    let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for source in sources {
        epoll::add(&ready, source, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    }
    Ok(ready)
}
