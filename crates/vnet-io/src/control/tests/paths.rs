//! What anybody may say of paths, and what follows from it.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV6, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use rustix::net::netdevice;
use tokio::time;

use super::keys::Host;
use crate::datapath::{Event, in_a_namespace};

#[test]
fn however_often_a_path_is_said_to_take_less_it_is_asked_a_few_times() {
    asks_a_few_times(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 2_798)));
}

#[test]
fn what_is_said_of_a_path_on_the_link_is_heard_as_well() {
    asks_a_few_times(|| {
        for words in [
            "link add link0 type veth peer name link1",
            "link set link0 up",
            "link set link1 up",
            "address add fe80::9/64 dev link0 nodad",
        ] {
            assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "{words}");
        }
        let any = UdpSocket::bind("[::]:0").unwrap();
        let index = netdevice::name_to_index(&any, "link0").unwrap();
        SocketAddrV6::new("fe80::9".parse().unwrap(), 2_798, 0, index).into()
    });
}

/// The other host is there.
fn asks_a_few_times(there: impl FnOnce() -> SocketAddr + Send + 'static) {
    in_a_namespace(|| {
        let remote = there();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut hosts = [0, 1].map(Host::start);
            for number in 0..2 {
                let mut orders = hosts[number].orders(number, &hosts[1 - number], true);
                orders.vnets.clear();
                if number == 0 {
                    orders.peers.values_mut().for_each(|peer| peer.endpoints = vec![remote.to_string()]);
                }
                assert_eq!(hosts[number].engine.be(orders), Vec::<String>::new());
            }
            let deadline = Instant::now() + Duration::from_secs(60);
            while hosts.iter().any(|host| host.connection().is_none()) {
                assert!(Instant::now() < deadline, "they are not connected");
                hosts.iter_mut().for_each(Host::turn);
                time::sleep(Duration::from_millis(5)).await;
            }
            let asked = |hosts: &[Host; 2]| hosts[0].connection().unwrap().stats().frame_tx.datagram;
            let before = asked(&hosts);
            let begun = Instant::now();
            for _ in 0..200 {
                let said = Event::PathTooBig { remote, largest_packet: Some(1_300) };
                hosts[0].engine.happened(said);
                time::sleep(Duration::from_millis(1)).await;
            }
            // Each time it is two datagrams.
            let most = 2 * (begun.elapsed().as_millis() / 20 + 1);
            let asked = asked(&hosts) - before;
            assert!((2..=most).contains(&asked.into()), "{asked}, not {most}");
        });
    });
}
