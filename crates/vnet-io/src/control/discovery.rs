//! Beacons on multicast groups: this host says where it is, and hears where its peers are.

use std::{
    collections::BTreeMap,
    ffi::CStr,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, netdevice, socket_with, sockopt};
use tokio::{net::UdpSocket, sync::mpsc, task::JoinHandle};
use tracing::{debug, info, warn};
use viaduct_types::{HostKey, IfName};
use viaduct_vnet_proto::control::{
    BEACON_CONTEXT, BEACON_INTERVAL, Beacon, Heard, Ignored, MOST_BEACON_ADDRESSES,
};

use super::engine::{Engine, Input};
use crate::socket_options;

/// At first it is said more often: hosts are started one after the other.
const FIRST: Duration = Duration::from_secs(1);
/// What was heard holds until three in a row have not been.
const HOLDS: Duration = Duration::from_secs(3 * BEACON_INTERVAL.as_secs() + 5);
/// How many datagrams of one socket the engine is bothered with in a second.
const MOST_A_SECOND: u32 = 128;
/// How often a socket is tried again that could not be opened.
const AGAIN: Duration = Duration::from_secs(2);

/// What is there of it.
#[derive(Debug, Default)]
pub(super) struct Discovery {
    sockets: Vec<Ear>,
    heard: Heard,
    next: Duration,
    pause: Duration,
    retry: Duration,
    /// What was said and heard, by what it is.
    pub(super) counters: BTreeMap<&'static str, u64>,
    /// What does not work, by interface and group.
    pub(super) troubles: BTreeMap<(IfName, IpAddr), String>,
}

/// A socket of one group on one interface.
#[derive(Debug)]
struct Ear {
    interface: IfName,
    group: SocketAddr,
    socket: Arc<UdpSocket>,
    task: JoinHandle<()>,
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Discovery {
    fn count(&mut self, what: &'static str) {
        *self.counters.entry(what).or_default() += 1;
    }
}

impl Engine {
    /// Opens and closes sockets, and says where this host is when it is time.
    pub(super) fn discover(&mut self) {
        let now = self.now();
        let Some(orders) = &self.orders.discovery else {
            self.discovery = Discovery::default();
            return;
        };
        let wanted: Vec<(IfName, SocketAddr)> = orders
            .interfaces
            .iter()
            .flat_map(|interface| orders.groups.iter().map(move |group| (interface.clone(), *group)))
            .map(|(interface, group)| (interface, SocketAddr::new(group, orders.port)))
            .collect();
        let discovery = &mut self.discovery;
        let is_wanted = |interface: &IfName, group: SocketAddr| {
            wanted.iter().any(|(i, g)| i == interface && g.ip() == group.ip() && g.port() == group.port())
        };
        // A device that went away takes the membership with it: its index is another one when it comes again.
        discovery.sockets.retain(|ear| is_wanted(&ear.interface, ear.group) && ear.is_there());
        discovery
            .troubles
            .retain(|(interface, group), _| is_wanted(interface, SocketAddr::new(*group, orders.port)));
        if now >= discovery.retry {
            discovery.retry = now + AGAIN;
            for (interface, group) in wanted {
                let has = |ear: &Ear| ear.interface == interface && ear.group.ip() == group.ip();
                if discovery.sockets.iter().any(has) {
                    continue;
                }
                let of = (interface.clone(), group.ip());
                match Ear::open(interface, group, &self.socket, &self.inputs) {
                    Ok(ear) => {
                        discovery.troubles.remove(&of);
                        discovery.sockets.push(ear);
                        (discovery.next, discovery.pause) = (now, FIRST);
                    }
                    Err(error) => {
                        let trouble = format!("no beacons on {}, group {}: {error}", of.0, of.1);
                        if discovery.troubles.insert(of, trouble.clone()).as_ref() != Some(&trouble) {
                            warn!("{trouble}");
                        }
                    }
                }
            }
        }
        if now >= discovery.next {
            discovery.next = now + discovery.pause;
            discovery.pause = (discovery.pause * 2).min(BEACON_INTERVAL);
            self.say_where();
        }
        for (key, peer) in &mut self.peers {
            let before = peer.found.len();
            peer.found.retain(|_, until| *until > now);
            if peer.found.len() != before {
                debug!("peer {} ({key}) is heard no longer", peer.name);
            }
        }
        self.dial_found();
    }

    fn say_where(&mut self) {
        let time = time_of_day();
        for ear in &self.discovery.sockets {
            let addresses = addresses_of(&ear.interface);
            if addresses.is_empty() {
                continue;
            }
            let beacon = Beacon { key: self.identity.public(), time, port: self.port, addresses };
            let mut bytes = beacon.write();
            let signature = self.identity.sign(&[BEACON_CONTEXT, &bytes].concat());
            bytes.extend(signature);
            let said = ear.socket.try_send_to(&bytes, ear.group).is_ok();
            *self.discovery.counters.entry(if said { "sent" } else { "not_sent" }).or_default() += 1;
        }
    }

    /// Somebody said something on a group; who has to be in the file.
    pub(super) fn heard_beacon(&mut self, interface: u32, bytes: &[u8]) {
        let now = self.now();
        let Some((beacon, signed, signature)) = Beacon::read(bytes) else {
            self.discovery.count("malformed");
            return;
        };
        let own = self.identity.public();
        let checked =
            self.discovery.heard.check(time_of_day(), &beacon, own, |key| self.peers.contains_key(&key));
        let checked = checked.and_then(|()| {
            let message = [BEACON_CONTEXT, signed].concat();
            let key = UnparsedPublicKey::new(&ED25519, beacon.key.0);
            key.verify(&message, signature).map_err(|_| Ignored::Forged)
        });
        match checked {
            Ok(()) => {}
            Err(why) => {
                return self.discovery.count(match why {
                    Ignored::Own => "own",
                    Ignored::Stranger => "unknown_key",
                    Ignored::Replayed => "replayed",
                    Ignored::Clock => "other_time",
                    Ignored::TooMany => "too_many",
                    Ignored::Forged => "forged",
                });
            }
        }
        self.discovery.heard.accept(&beacon);
        self.discovery.count("heard");
        let Some(peer) = self.peers.get_mut(&beacon.key) else { return };
        let found = beacon.addresses.iter().map(|address| place(*address, beacon.port, interface));
        let before: Vec<SocketAddr> = peer.found.keys().copied().collect();
        for place in found.take(MOST_BEACON_ADDRESSES) {
            peer.found.insert(place, now + HOLDS);
        }
        // Those that were heard last are the ones that hold.
        while peer.found.len() > 2 * MOST_BEACON_ADDRESSES {
            let oldest = peer.found.iter().min_by_key(|(_, until)| **until).map(|(place, _)| *place);
            oldest.map(|place| peer.found.remove(&place));
        }
        peer.is_found_anew |= peer.found.keys().any(|place| !before.contains(place));
    }

    /// Dials those who have said that they are elsewhere: once with each look, as they may say so as often as they like.
    fn dial_found(&mut self) {
        let now = self.now();
        self.dial_anew(|peer| {
            let is_due = std::mem::take(&mut peer.is_found_anew) && peer.session.is_none();
            if is_due && peer.lines.has_room(now) {
                info!("peer {} says that it is at {}", peer.name, list(peer.found.keys()));
            }
            is_due
        });
    }

    pub(super) fn forget_beacons(&mut self) {
        let peers = &self.peers;
        self.discovery.heard.retain(|key: HostKey| peers.contains_key(&key));
        self.numbers.retain(|key| peers.contains_key(&key));
    }
}

fn list<'a>(places: impl Iterator<Item = &'a SocketAddr>) -> String {
    places.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A link-local address means something only with the link.
fn place(address: IpAddr, port: u16, interface: u32) -> SocketAddr {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => SocketAddrV6::new(v6, port, 0, interface).into(),
        IpAddr::V4(_) | IpAddr::V6(_) => SocketAddr::new(address, port),
    }
}

/// In milliseconds since 1970.
pub(super) fn time_of_day() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl Ear {
    /// Joins a group on an interface. The engine's own socket has the port as well, as a rule.
    fn open(
        interface: IfName,
        group: SocketAddr,
        engine: &std::net::UdpSocket,
        inputs: &mpsc::Sender<Input>,
    ) -> io::Result<Self> {
        let family = if group.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
        let index = netdevice::name_to_index(&socket, interface.as_str())?;
        // With the interface the address of a group is whole, and only what comes by it is heard.
        socket_options::set(&socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, interface.as_str().as_bytes())?;
        let group = match group {
            SocketAddr::V4(v4) => {
                socket_options::set(&socket, libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, &0_i32.to_ne_bytes())?;
                sockopt::set_ip_add_membership_with_ifindex(&socket, v4.ip(), &Ipv4Addr::UNSPECIFIED, index)?;
                sockopt::set_ip_multicast_loop(&socket, false)?;
                sockopt::set_ip_multicast_ttl(&socket, 1)?;
                // struct ip_mreqn: group, address, interface.
                let request = [&[0; 8][..], &index.to_ne_bytes()].concat();
                socket_options::set(&socket, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &request)?;
                SocketAddr::V4(v4)
            }
            SocketAddr::V6(v6) => {
                sockopt::set_ipv6_v6only(&socket, true)?;
                socket_options::set(
                    &socket,
                    libc::IPPROTO_IPV6,
                    libc::IPV6_MULTICAST_ALL,
                    &0_i32.to_ne_bytes(),
                )?;
                sockopt::set_ipv6_add_membership(&socket, v6.ip(), index)?;
                sockopt::set_ipv6_multicast_loop(&socket, false)?;
                sockopt::set_ipv6_multicast_hops(&socket, 1)?;
                socket_options::set(
                    &socket,
                    libc::IPPROTO_IPV6,
                    libc::IPV6_MULTICAST_IF,
                    &index.to_ne_bytes(),
                )?;
                SocketAddrV6::new(*v6.ip(), v6.port(), 0, index).into()
            }
        };
        // Both have to say so, and only for a moment: nobody else is to come in between.
        sockopt::set_socket_reuseport(&socket, true)?;
        sockopt::set_socket_reuseport(engine, true)?;
        let bound = bind(&socket, &group);
        sockopt::set_socket_reuseport(engine, false)?;
        bound?;
        let socket = Arc::new(UdpSocket::from_std(socket.into())?);
        let task = tokio::spawn(listen(Arc::clone(&socket), index, inputs.clone()));
        Ok(Self { interface, group, socket, task })
    }

    /// Whether the interface is still the one that it was.
    fn is_there(&self) -> bool {
        let index = netdevice::name_to_index(&*self.socket, self.interface.as_str());
        // The index of the interface that it is bound to (socket(7)).
        let bound = socket_options::get(&*self.socket, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX);
        index.is_ok_and(|index| bound.is_ok_and(|bound| bound.cast_unsigned() == index))
    }
}

async fn listen(socket: Arc<UdpSocket>, interface: u32, inputs: mpsc::Sender<Input>) {
    let mut bytes = [0; 512];
    let mut second = tokio::time::Instant::now();
    let mut count = 0;
    loop {
        let length = match socket.recv_from(&mut bytes).await {
            Ok((length, _)) => length,
            Err(error) => {
                debug!("beacons are not heard: {error}");
                tokio::time::sleep(FIRST).await;
                continue;
            }
        };
        if second.elapsed() >= Duration::from_secs(1) {
            (second, count) = (tokio::time::Instant::now(), 0);
        }
        count += 1;
        if count > MOST_A_SECOND {
            continue;
        }
        let heard = Input::Beacon { interface, bytes: bytes[..length].to_vec() };
        if inputs.send(heard).await.is_err() {
            return;
        }
    }
}

/// The addresses of an interface that others may reach.
fn addresses_of(interface: &IfName) -> Vec<IpAddr> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: it writes a pointer to a list that is ours until it is freed below.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Vec::new();
    }
    let mut addresses = Vec::new();
    let mut next = list;
    // SAFETY: each pointer is null or to an entry of the list.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: names in the list end with NUL.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) };
        if name.to_bytes() != interface.as_str().as_bytes() || entry.ifa_addr.is_null() {
            continue;
        }
        // SAFETY: it is not null, and an address begins with its family.
        let family = libc::c_int::from(unsafe { (*entry.ifa_addr).sa_family });
        let address = match family {
            libc::AF_INET => {
                // SAFETY: of this family it is a sockaddr_in, read wherever it is aligned.
                let address = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned() };
                IpAddr::from(address.sin_addr.s_addr.to_ne_bytes())
            }
            libc::AF_INET6 => {
                // SAFETY: of this family it is a sockaddr_in6, read wherever it is aligned.
                let address = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
                IpAddr::V6(Ipv6Addr::from(address.sin6_addr.s6_addr))
            }
            _ => continue,
        };
        if !address.is_loopback() {
            addresses.push(address);
        }
    }
    // SAFETY: the list came from getifaddrs and is freed once.
    unsafe { libc::freeifaddrs(list) };
    // Those that mean something beyond the link first.
    addresses.sort_by_key(|address| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()));
    addresses.truncate(MOST_BEACON_ADDRESSES);
    addresses
}
