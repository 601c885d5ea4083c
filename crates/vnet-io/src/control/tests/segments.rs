//! What is said on the segments of vnets.

use std::{num::NonZeroU32, time::Duration};

use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};
use viaduct_vnet_proto::control::Action;

use super::{
    alone,
    keys::{Host, device},
};

/// Of the frames that say who bridges a segment (IEEE 802, section 9.2).
const KIND: u16 = 0x88b5;

#[test]
fn however_often_a_peer_comes_and_goes_a_segment_hears_a_few_times_who_bridges_it() {
    alone(async || {
        device(0, 0);
        let [mut host, other] = [0, 1].map(Host::start);
        let mut orders = host.orders(0, &other, true);
        let peer = orders.peers.values().next().unwrap().key;
        let vnet = *orders.vnets.iter().find(|(_, vnet)| vnet.name.as_str() == "red").unwrap().0;
        orders.vnets.retain(|id, _| *id == vnet);
        orders.vnets.values_mut().for_each(|vnet| vnet.learning = true);
        assert_eq!(host.engine.be(orders), Vec::<String>::new());
        let kind = NonZeroU32::new(KIND.to_be().into()).map(Protocol::from_raw);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let ear = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, kind).unwrap();
        for learning in [true, false].into_iter().cycle().take(1_000) {
            host.engine.act(Action::Join { peer, vnet, learning });
        }
        host.engine.handle.settle().unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let heard = std::iter::from_fn(|| recv(&ear, &mut [0; 2_048][..], RecvFlags::empty()).ok()).count();
        assert!((1..=10).contains(&heard), "{heard}");
    });
}
