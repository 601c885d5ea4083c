//! A member of a vnet that lies, and what the others feel of it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use quinn::WriteError;
use tokio::{runtime, sync::mpsc, time};
use viaduct_types::{HostKey, MacAddr, VnetId, Vni};
use viaduct_vnet_proto::control::{MOST_CLAIMS, Message, Protection, Security, VERSION};

use super::keys::{Host, PORTS, device, run};
use crate::{
    control::{
        Answer, Identity, Orders, PeerOrders, PlainOrders, Report, Request, VnetOrders, engine::Input, link,
        tls,
    },
    datapath::in_a_namespace,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// The liar speaks for so long.
const LIES: Duration = Duration::from_secs(9);

fn runtime() -> runtime::Runtime {
    runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The key of a host that is not running yet.
fn identity(number: usize) -> Identity {
    let directory = Host::directory(number);
    std::fs::create_dir_all(&directory).unwrap();
    Identity::open(&directory).unwrap()
}

/// A host, in a thread of its own as it is a process of its own elsewhere.
struct Running {
    inputs: mpsc::Sender<Input>,
    thread: thread::JoinHandle<()>,
}

impl Running {
    fn start(number: usize, orders: Orders) -> Self {
        let (told, heard) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            runtime().block_on(async {
                let mut host = Host::start(number);
                assert_eq!(host.engine.be(orders), Vec::<String>::new());
                told.send(host.engine.inputs.clone()).unwrap();
                let Host { engine, queue, events, ended, _run_dir, _line } = host;
                engine.run(queue, events, &ended).await;
            });
        });
        Self { inputs: heard.recv().unwrap(), thread }
    }

    /// How it is, and how long it took to say.
    async fn report(&self) -> (Report, Duration) {
        let begun = Instant::now();
        let (answers, mut queue) = mpsc::channel(1);
        let request = Request::Report { most_macs: 0 };
        self.inputs.send(Input::Asked { request, answers }).await.ok().unwrap();
        let answer = time::timeout(PATIENCE, queue.recv()).await.expect("it says nothing");
        let Some(Answer::Report(report)) = answer else { panic!("{answer:?}") };
        (*report, begun.elapsed())
    }

    /// How long it takes until the others have done what this one told them: a guest that arrives waits for it.
    async fn known(&self) -> Duration {
        let begun = Instant::now();
        let (answers, mut queue) = mpsc::channel(1);
        let request = Request::Known { number: 1 };
        self.inputs.send(Input::Asked { request, answers }).await.ok().unwrap();
        time::timeout(PATIENCE, queue.recv()).await.expect("it says nothing");
        begun.elapsed()
    }

    async fn end(self) {
        let (answers, _queue) = mpsc::channel(1);
        self.inputs.send(Input::Asked { request: Request::End, answers }).await.ok().unwrap();
        self.thread.join().unwrap();
    }
}

/// Somebody who has a right key, and says what it likes.
struct Liar {
    connection: quinn::Connection,
    stream: quinn::SendStream,
    _endpoint: quinn::Endpoint,
}

impl Liar {
    async fn connect(identity: &Identity, key: HostKey) -> Self {
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, PORTS[0]));
        let (tls, _) = tls::client(identity, key).unwrap();
        let mut config = quinn::ClientConfig::new(Arc::new(tls));
        config.transport_config(link::transport(remote).0);
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let connection = endpoint.connect_with(config, remote, "vnet").unwrap().await.unwrap();
        let stream = connection.open_uni().await.unwrap();
        Self { connection, stream, _endpoint: endpoint }
    }

    /// Takes what it is told.
    fn read(&self) {
        let connection = self.connection.clone();
        tokio::spawn(async move {
            let mut stream = connection.accept_uni().await.unwrap();
            while let Ok(Some(_)) = stream.read_chunk(65_536, true).await {}
        });
    }

    async fn say(&mut self, messages: impl IntoIterator<Item = Message>) -> Result<(), WriteError> {
        let mut bytes = Vec::new();
        messages.into_iter().for_each(|message| message.write(&mut bytes));
        self.stream.write_all(&bytes).await
    }

    /// Comes into vnets, as channels from 0 on, by what it says then.
    async fn join(&mut self, vnets: &[(VnetId, Protection)]) -> Vec<Message> {
        let offer = |(channel, (vnet, protection)): (u16, &(VnetId, Protection))| {
            let mut context = [1; 17];
            context[1..].copy_from_slice(&vnet.to_bytes());
            let mut proof = [0; 16];
            let label = b"EXPORTER-viaduct-membership";
            self.connection.export_keying_material(&mut proof, label, &context).unwrap();
            Message::Offer { channel, proof, protection: *protection, learning: false }
        };
        let offers: Vec<Message> = (0..).zip(vnets).map(offer).collect();
        self.say([Message::Hello { version: VERSION, workers: 1, fast_aes: true }]).await.unwrap();
        self.say(offers.clone()).await.unwrap();
        offers
    }
}

fn mac(number: usize) -> MacAddr {
    let [.., a, b, c] = number.to_be_bytes();
    MacAddr([2, 1, 0, a, b, c])
}

fn claim(channel: u16, mac: MacAddr) -> Message {
    Message::Claim { channel, mac, sequence: 1, addresses: Vec::new() }
}

/// What the liar says once it has come into all vnets, each by one of the offers.
struct Lies {
    /// So many MACs it claims in each.
    claimed: usize,
    /// And this again and again.
    say: fn(&[Message]) -> Vec<Message>,
    /// So much of that is taken at least, in thousands of messages.
    taken: usize,
}

/// Where it is in, in the order of its channels.
fn joined(orders: &Orders) -> Vec<(VnetId, Protection)> {
    let of_liar =
        orders.vnets.iter().filter(|(_, orders)| orders.peers.iter().any(|peer| peer.as_str() == "liar"));
    let protection = |orders: &VnetOrders| Protection { security: orders.security, cipher: orders.cipher };
    of_liar.map(|(vnet, orders)| (*vnet, protection(orders))).collect()
}

/// What two hosts are to be that share a vnet, which somebody with the third key is in as well, as far as the first of them knows.
fn fleet() -> ([Identity; 3], [Orders; 2], VnetId) {
    (0..2).for_each(|host| device(0, host));
    let identities = [0, 1, 2].map(identity);
    let mut orders = [(0, 1), (1, 0)].map(|(number, other): (usize, usize)| {
        let mut orders = Host::orders_beside(number, identities[other].public(), true);
        orders.vnets.retain(|_, vnet| vnet.name.as_str() == "red");
        orders
    });
    let vnet = *orders[0].vnets.keys().next().unwrap();
    let member = PeerOrders { key: identities[2].public(), endpoints: Vec::new(), spare: false };
    orders[0].peers.insert("liar".parse().unwrap(), member);
    orders[0].vnets.values_mut().for_each(|vnet| {
        vnet.peers.insert("liar".parse().unwrap());
    });
    (identities, orders, vnet)
}

/// The two are connected, and the third says something again and again once it has claimed so much. How long the first one takes to say how
/// it is, and to do what the second one tells it, meanwhile, in most of many cases.
fn others_are_served(most: usize, Lies { claimed, say, taken }: Lies, be: fn(&mut Orders, VnetId)) {
    in_a_namespace(move || {
        let ([own, _, liar], [mut of_first, of_second], vnet) = fleet();
        be(&mut of_first, vnet);
        let vnets = joined(&of_first);
        let hosts = [Running::start(0, of_first), Running::start(1, of_second)];
        runtime().block_on(async {
            let deadline = Instant::now() + PATIENCE;
            while hosts[1].report().await.0.peers["other"].seconds.is_none() {
                assert!(Instant::now() < deadline, "they are not connected");
                time::sleep(Duration::from_millis(20)).await;
            }
            let (key, last) = (own.public(), vnets[vnets.len() - 1].0);
            let lying = thread::spawn(move || {
                runtime().block_on(async {
                    let mut liar = Liar::connect(&liar, key).await;
                    liar.read();
                    let offers = liar.join(&vnets).await;
                    for channel in (0..).take(vnets.len()) {
                        liar.say((0..claimed).map(|number| claim(channel, mac(number)))).await.unwrap();
                    }
                    let lies = say(&offers);
                    let (mut lies, begun, mut said) = (lies.iter().cycle(), Instant::now(), 0);
                    while begun.elapsed() < LIES {
                        // Who is heard no more does not wait for ever, either.
                        let some = liar.say(lies.by_ref().take(1_024).cloned());
                        said += usize::from(matches!(
                            time::timeout(Duration::from_secs(1), some).await,
                            Ok(Ok(()))
                        ));
                    }
                    said
                })
            });
            while hosts[0].report().await.0.vnets[&last].mac_count < claimed {
                assert!(!lying.is_finished(), "it is over");
                time::sleep(Duration::from_millis(20)).await;
            }
            let mut times = [Vec::new(), Vec::new()];
            while !lying.is_finished() {
                times[0].push(hosts[0].report().await.1);
                times[1].push(hosts[1].known().await);
                time::sleep(Duration::from_millis(20)).await;
            }
            let said = lying.join().unwrap();
            for mut times in times {
                times.sort();
                let took = times[times.len() * most / 100];
                assert!(took < Duration::from_millis(50), "{took:?}, {:?} at most", times.last());
            }
            assert!(said >= taken, "not much was said: {said}");
            let (report, _) = hosts[1].report().await;
            let peer = &report.peers["other"];
            assert!(peer.seconds >= Some(LIES.as_secs()), "{:?} {:?}", peer.seconds, peer.error);
            for host in hosts {
                host.end().await;
            }
        });
    });
}

#[test]
fn a_member_that_says_much_keeps_no_others_away() {
    let say = |_: &_| vec![Message::Complete { channel: 0 }; 1_024];
    others_are_served(90, Lies { claimed: MOST_CLAIMS, say, taken: 100 }, |_, _| ());
}

#[test]
fn a_member_that_claims_and_withdraws_does_not_keep_the_host_busy() {
    let say = |_: &_| {
        let mac = "02:00:00:00:00:00".parse().unwrap();
        let addresses = vec![[10, 0, 0, 1].into()];
        let claim = Message::Claim { channel: 0, mac, sequence: u64::MAX, addresses };
        vec![[claim, Message::Withdraw { channel: 0, mac }]; 512].concat()
    };
    others_are_served(90, Lies { claimed: MOST_CLAIMS, say, taken: 100 }, |_, _| ());
}

#[test]
fn a_member_that_comes_and_goes_again_and_again_does_not_keep_the_host_busy() {
    let say = |offers: &[Message]| vec![Message::Retract { channel: 0 }, offers[0].clone()];
    others_are_served(90, Lies { claimed: 1, say, taken: 4 }, |orders, vnet| {
        let nics = &mut orders.vnets.get_mut(&vnet).unwrap().nics;
        let nic = nics.values().next().unwrap().clone();
        nics.extend((0..1_000).map(|number| (mac(100_000 + number), nic.clone())));
    });
}

#[test]
fn a_member_that_listens_to_ever_other_groups_does_not_keep_the_host_busy() {
    let say = |_: &_| {
        let group = |number: u16| {
            let [a, b] = number.to_be_bytes();
            MacAddr([1, 0, 0x5e, 0, a, b])
        };
        let listens = |group, on| Message::Listens { channel: 0, group, on };
        let mut lies: Vec<Message> = (0..1_023).map(|number| listens(group(number), true)).collect();
        lies.push(Message::Prunes { channel: 0, on: true });
        let mac = mac(MOST_CLAIMS);
        let withdraw = Message::Withdraw { channel: 0, mac };
        let other = group(2_000);
        let flip = [listens(other, true), claim(0, mac), listens(other, false), withdraw];
        lies.extend(vec![flip; 20_000].concat());
        lies
    };
    others_are_served(90, Lies { claimed: 1_000, say, taken: 300 }, |_, _| ());
}

fn plain(orders: &mut VnetOrders, number: u32) {
    run(&format!("ip link add segment{number} type bridge"));
    run(&format!("ip link set segment{number} up"));
    run(&format!(
        "ip link add vxlan{number} master segment{number} type vxlan id {number} dstport 1799 nolearning"
    ));
    run(&format!("ip link set vxlan{number} up"));
    (orders.tap, orders.security, orders.cipher) =
        (format!("vxlan{number}").parse().unwrap(), Security::None, None);
    let bridge = format!("segment{number}").parse().unwrap();
    orders.plain = Some(PlainOrders { vni: Vni::new(number).unwrap(), second: None, bridge });
}

#[test]
fn a_member_that_takes_vxlan_by_ever_other_numbers_does_not_keep_the_host_busy() {
    let say = |offers: &[Message]| {
        let plain = |(channel, vni)| Message::Plain { channel, vni: Vni::new(vni).unwrap() };
        let of_all = |vni| (0..offers.len()).map(move |channel| (u16::try_from(channel).unwrap(), vni));
        of_all(5).chain(of_all(6)).map(plain).collect()
    };
    others_are_served(50, Lies { claimed: 8_192, say, taken: 100 }, |orders, vnet| {
        let first = &orders.vnets[&vnet];
        let mut others = Vec::new();
        for number in 20..28 {
            let mut other = first.clone();
            other.name = format!("plain{number}").parse().unwrap();
            other.peers.retain(|peer| peer.as_str() == "liar");
            other.nics.clear();
            plain(&mut other, number);
            others.push((format!("{number}").parse().unwrap(), other));
        }
        orders.vnets.get_mut(&vnet).unwrap().peers.retain(|peer| peer.as_str() != "liar");
        orders.vnets.extend(others);
    });
}

/// What this process has of the machine's memory, in kilobytes.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[test]
fn who_has_itself_told_everything_again_and_again_and_reads_nothing_is_let_go() {
    in_a_namespace(|| {
        let ([own, _, liar], [mut of_first, _], vnet) = fleet();
        let nics = &mut of_first.vnets.get_mut(&vnet).unwrap().nics;
        let nic = nics.values().next().unwrap().clone();
        nics.extend((0..500).map(|number| (mac(number), nic.clone())));
        let vnets = joined(&of_first);
        let host = Running::start(0, of_first);
        runtime().block_on(async {
            let mut liar = Liar::connect(&liar, own.public()).await;
            let offers = liar.join(&vnets).await;
            let (before, begun) = (memory(), Instant::now());
            let again = [Message::Retract { channel: 0 }, offers[0].clone()];
            while liar.say(again.iter().cycle().take(64).cloned()).await.is_ok() {
                assert!(begun.elapsed() < PATIENCE, "it is not let go");
                assert!(memory() < before + 200_000, "{before} kB have become {} kB", memory());
            }
            let why = liar.connection.closed().await.to_string();
            assert!(why.contains("nothing is read"), "{why}");
            host.end().await;
        });
    });
}
