//! What others have a host write into its log, and say to the daemon.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, time};
use tracing::{Event, Level, Metadata, Subscriber, span};
use viaduct_types::{HostKey, MacAddr, VnetId};
use viaduct_vnet_proto::control::{Action, BEACON_CONTEXT, Beacon, Owner};

use super::{alone, keys::Host};
use crate::{
    control::{
        Answer, DiscoveryOrders, Request,
        discovery::time_of_day,
        engine::{Input, TICK},
    },
    datapath,
};

/// Counts lines that are written without being asked for.
struct Log(Arc<AtomicUsize>);

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// A NIC is somewhere else from now on, or nowhere.
fn is_claimed(host: &mut Host, (vnet, mac): (VnetId, MacAddr), owner: Option<Owner>) {
    host.engine.act(Action::Route { vnet, mac, owner, addresses: Vec::new(), moved: false });
}

#[test]
fn a_peer_does_not_fill_the_log() {
    alone(async || {
        let [mut host, other] = [0, 1].map(Host::start);
        let orders = host.orders(0, &other, true);
        let peer = orders.peers.values().next().unwrap().key;
        let (vnet, nic) =
            orders.vnets.iter().next().map(|(id, of)| (*id, *of.nics.keys().next().unwrap())).unwrap();
        host.engine.be(orders);
        let lines = Arc::new(AtomicUsize::new(0));
        let _log = tracing::subscriber::set_default(Log(Arc::clone(&lines)));
        for _ in 0..1_000 {
            host.engine.act(Action::Join { peer, vnet, learning: false });
            // It claims what is this host's, and takes that back.
            for owner in [Owner::Peer(peer), Owner::Here] {
                is_claimed(&mut host, (vnet, nic), Some(owner));
            }
            host.engine.act(Action::Leave { peer, vnet });
        }
        let lines = lines.load(Ordering::Relaxed);
        assert!((10..=110).contains(&lines), "{lines}");
    });
}

#[test]
fn who_sends_what_is_not_its_own_is_named_and_who_is_ahead_of_its_word_is_not() {
    alone(async || {
        let [mut host, other] = [0, 1].map(Host::start);
        let orders = host.orders(0, &other, true);
        let key = orders.peers.values().next().unwrap().key;
        let vnet = *orders.vnets.keys().next().unwrap();
        host.engine.be(orders);
        host.engine.act(Action::Join { peer: key, vnet, learning: false });
        let peer = host.engine.peers[&key].id;
        let mac = |last| MacAddr([2, 0, 0, 0, 0x97, last]);
        // What is said in the time that it takes.
        let mut said_of = |mac, owner| {
            let lines = Arc::new(AtomicUsize::new(0));
            let _log = tracing::subscriber::set_default(Log(Arc::clone(&lines)));
            host.engine.happened(datapath::Event::ForeignSource { vnet, peer, mac });
            host.engine.tick();
            is_claimed(&mut host, (vnet, mac), owner);
            std::thread::sleep(Duration::from_millis(2_100));
            host.engine.tick();
            lines.load(Ordering::Relaxed)
        };
        assert_eq!(said_of(mac(1), Some(Owner::Peer(key))), 0, "it is its own, which was heard later");
        assert_eq!(said_of(mac(2), Some(Owner::Here)), 0, "it has just come here");
        assert_eq!(said_of(mac(3), None), 1);
    });
}

#[test]
fn a_machine_that_another_host_hears_too_is_taken_from_it_five_times_which_is_said_once() {
    alone(async || {
        let [mut host, other] = [0, 1].map(Host::start);
        let mut orders = host.orders(0, &other, true);
        let peer = orders.peers.values().next().unwrap().key;
        let vnet = *orders.vnets.keys().next().unwrap();
        orders.vnets.values_mut().for_each(|vnet| vnet.learning = true);
        host.engine.be(orders);
        host.engine.act(Action::Join { peer, vnet, learning: true });
        let mac = MacAddr([2, 0, 0, 0, 0x97, 1]);
        let lines = Arc::new(AtomicUsize::new(0));
        let _log = tracing::subscriber::set_default(Log(Arc::clone(&lines)));
        let is_taken = async |host: &mut Host| {
            host.engine.learn(vnet, mac);
            // It is told that it was gone, and then that it is here.
            for _ in 0..3 {
                host.engine.flush();
                time::sleep(Duration::from_millis(110)).await;
            }
            host.engine.vnets[&vnet].learned.contains(mac)
        };
        assert!(is_taken(&mut host).await);
        for taken in 1..=7 {
            is_claimed(&mut host, (vnet, mac), Some(Owner::Peer(peer)));
            assert_eq!(is_taken(&mut host).await, taken <= 5, "{taken}");
            assert_eq!(lines.load(Ordering::Relaxed), usize::from(taken >= 5), "{taken}");
        }
        is_claimed(&mut host, (vnet, mac), None);
        assert!(is_taken(&mut host).await, "nobody else has it any more");
    });
}

#[test]
fn however_often_a_host_says_that_it_is_elsewhere_it_is_dialled_once_with_each_look() {
    alone(async || {
        let [mut host, other] = [0, 1].map(Host::start);
        let mut orders = host.orders(0, &other, true);
        orders.peers.values_mut().for_each(|peer| peer.endpoints.clear());
        orders.discovery = Some(DiscoveryOrders { interfaces: Vec::new(), groups: Vec::new(), port: 1_798 });
        host.engine.be(orders);
        let identity = &other.engine.identity;
        let lines = Arc::new(AtomicUsize::new(0));
        let _log = tracing::subscriber::set_default(Log(Arc::clone(&lines)));
        for number in 1..=50_u8 {
            let time = time_of_day() + u64::from(number);
            let addresses = vec![[192, 0, 2, number].into()];
            let beacon = Beacon { key: identity.public(), time, port: 1_798, addresses };
            let mut bytes = beacon.write();
            bytes.extend(identity.sign(&[BEACON_CONTEXT, &bytes].concat()));
            host.engine.heard_beacon(1, &bytes);
        }
        host.engine.discover();
        assert_eq!(lines.load(Ordering::Relaxed), 1);
        assert!(host.engine.peers.values().all(|peer| peer.dialling.is_some()), "it is not dialled");
    });
}

#[test]
fn however_often_a_peer_takes_a_nic_the_daemon_is_told_a_few_times_and_in_the_end_what_is() {
    alone(async || {
        let [mut host, other] = [0, 1].map(Host::start);
        let orders = host.orders(0, &other, true);
        let peer: HostKey = orders.peers.values().next().unwrap().key;
        let nic = orders.vnets.iter().next().map(|(id, of)| (*id, *of.nics.keys().next().unwrap())).unwrap();
        let (answers, mut heard) = mpsc::channel(8);
        let request = Request::Be(Box::new(orders));
        host.engine.hear(Input::Asked { request, answers });
        for owner in [Owner::Peer(peer), Owner::Here].into_iter().cycle().take(1_000) {
            is_claimed(&mut host, nic, Some(owner));
            host.engine.flush();
        }
        assert!(heard.len() <= 4, "{}", heard.len());
        // It does not read, for longer than there is room.
        for owner in [Owner::Peer(peer), Owner::Here].into_iter().cycle().take(16) {
            time::sleep(TICK).await;
            is_claimed(&mut host, nic, Some(owner));
            host.engine.flush();
        }
        time::sleep(TICK).await;
        is_claimed(&mut host, nic, Some(Owner::Peer(peer)));
        host.engine.flush();
        assert_eq!(heard.capacity(), 0);
        while heard.try_recv().is_ok() {}
        host.engine.flush();
        let Ok(Answer::Changed(findings)) = heard.try_recv() else { panic!("it is not told any more") };
        assert!(findings.lost[&nic.0].contains(&nic.1));
    });
}
