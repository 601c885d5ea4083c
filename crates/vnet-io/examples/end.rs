//! One end of a vnet between two hosts, with keys from the command line instead of a control side: to measure the datapath, and
//! to look at it. Prints its counters when its standard input ends.
#![expect(clippy::print_stdout, reason = "it is a program")]

use std::{
    error::Error,
    io::Read,
    net::{IpAddr, SocketAddr, UdpSocket},
    num::NonZeroUsize,
};

use viaduct_types::{IfName, MacAddr, VnetId};
use viaduct_vnet_io::datapath::{
    Association, Datapath, Direction, KeyMaterial, Lane, Lifetime, Options, Path, Tap,
};
use viaduct_vnet_proto::data::{Forwarding, PeerId, Port, Spi, esp::Cipher};

const USAGE: &str = "end TAP LISTEN-IP PEER-IP PORT WORKERS CIPHER MTU a|b LOCAL-MAC PEER-MAC";
const PEER: PeerId = PeerId(1);
/// A vnet may have more; here there is one at each end.
const MACS: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [tap, listen, peer, port, workers, cipher, mtu, side, local, remote] = &arguments[..] else {
        return Err(USAGE.into());
    };
    let (listen, peer): (IpAddr, IpAddr) = (listen.parse()?, peer.parse()?);
    let (port, workers, mtu): (u16, u16, u16) = (port.parse()?, workers.parse()?, mtu.parse()?);
    let cipher = Cipher::ALL.into_iter().find(|known| known.to_string() == *cipher).ok_or("which cipher?")?;
    let vnet: VnetId = "97".parse()?;
    let count = NonZeroUsize::new(workers.into()).ok_or("no workers")?;

    let sockets: Result<Vec<UdpSocket>, _> =
        (0..workers).map(|worker| UdpSocket::bind((listen, port + worker))).collect();
    let (datapath, _inbox) = Datapath::start(Options { workers: count, sockets: sockets? })?;
    let handle = datapath.handle();
    let name: IfName = tap.parse()?;
    handle.add_vnet(vnet, Tap::open(&name, count.get(), Lifetime::Process)?)?;
    let headers = if peer.is_ipv4() { 28 } else { 48 };
    handle.set_path(
        PEER,
        Path {
            remotes: (0..workers).map(|worker| SocketAddr::new(peer, port + worker)).collect(),
            local: None,
            largest_datagram: mtu - headers,
            via: None,
        },
    )?;
    let mut forwarding = Forwarding::new(MACS);
    forwarding.macs.claim(local.parse::<MacAddr>()?, Port::Local)?;
    forwarding.macs.claim(remote.parse::<MacAddr>()?, Port::Peer(PEER))?;
    forwarding.flood = [PEER].into();
    handle.set_forwarding(vnet, forwarding)?;
    for worker in 0..workers {
        for direction in [Direction::Inbound, Direction::Outbound] {
            let from_a = (side == "a") == (direction == Direction::Outbound);
            let number = 0x1000 + u32::from(worker) * 2 + u32::from(from_a);
            let byte = u8::try_from(number & 0xff)?;
            let key = vec![byte; KeyMaterial::length(cipher)];
            handle.install(Association {
                spi: Spi::new(number).ok_or("no SPI")?,
                peer: PEER,
                vnet,
                direction,
                // The first worker's own port is the first.
                lane: if worker == 0 { Lane::First } else { Lane::Own },
                worker: worker.into(),
                queue: worker.into(),
                cipher,
                key: KeyMaterial::new(cipher, &key).ok_or("no key")?,
                rekey_after: u64::MAX,
            })?;
        }
    }
    handle.settle()?;
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let counters = handle.counters();
    for (name, value) in counters.host.named().filter(|(_, value)| *value > 0) {
        println!("{name} {value}");
    }
    for (name, value) in counters.vnets.values().flat_map(|c| c.named()).filter(|(_, value)| *value > 0) {
        println!("{name} {value}");
    }
    for (name, value) in counters.peers.values().flat_map(|c| c.named()).filter(|(_, value)| *value > 0) {
        println!("{name} {value}");
    }
    Ok(())
}
