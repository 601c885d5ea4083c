//! What neighbours on an uplink see of guests whose addresses are on its own segment.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    net::IpAddr,
    process::{Child, Command, Stdio},
};

use support::{CONFIG, World, host};

const FILE: &str = r#"
[host]
name = "dom0"

[uplinks.wan]
interface = "eth0"

[networks.failover]
mode = "routed"
uplink = "wan"
pool = ["203.0.113.16/28", "2001:db8:28::/64"]
proxy = true
probe = true

[guests.own]
[[guests.own.nics]]
network = "failover"
mac = "00:16:3e:00:00:28"
uplink-mac = true
addresses = ["203.0.113.28", "2001:db8:28::28"]

[guests.plain]
[[guests.plain.nics]]
network = "failover"
addresses = ["203.0.113.29", "2001:db8:28::29"]
"#;

fn on_segment(world: &World) {
    world.sh(
        "ip netns exec outside sysctl -qw net.ipv6.conf.all.accept_dad=1 net.ipv6.conf.eth0.accept_dad=1",
    );
    for address in ["203.0.113.1/24", "2001:db8:28::1/64 nodad", "fe80::1/64 nodad"] {
        world.sh(&format!("ip -n outside address add {address} dev eth0"));
    }
    world.write(CONFIG, FILE);
    world.good("apply");
}

#[test]
fn an_address_that_somebody_has_is_not_taken() {
    host(|world| {
        on_segment(world);
        world.sh("ip netns add own");
        for (address, refused) in [
            ("203.0.113.28/24", "203.0.113.28 of own.0 is in use elsewhere"),
            ("2001:db8:28::28/64", "2001:db8:28::28 of own.0 is in use elsewhere"),
        ] {
            world.sh(&format!("ip -n outside address add {address} dev eth0 nodad"));
            let (kernel, memory) = (world.kernel(), world.memory());
            world
                .viaduct("attach own --netns own")
                .refused(1, &[refused, "on eth0 has it", "Nothing was changed"]);
            world.unchanged(&kernel, &memory, "an attachment that was refused");
            world.sh(&format!("ip -n outside address del {address} dev eth0"));
        }
        // Free, it is taken, and known to be its own from then on.
        world.good("attach own --netns own");
        world.good("attach own --netns own");
        world.good("apply");
        world.sh("ip netns exec own ping -c 5 -i 0.2 -W 2 203.0.113.1");
        world.sh("ip netns exec own ping -c 5 -i 0.2 -W 2 2001:db8:28::1");

        // An address more, live or in the file, with and without a daemon.
        for address in ["203.0.113.20", "2001:db8:28::20"] {
            let length = if address.contains(':') { 64 } else { 24 };
            world.sh(&format!("ip -n outside address add {address}/{length} dev eth0 nodad"));
        }
        for keeps in [false, true] {
            let _daemon = keeps.then(|| world.daemon());
            let (kernel, memory) = (world.kernel(), world.memory());
            for address in ["203.0.113.20", "2001:db8:28::20"] {
                let said = format!("{address} of own.0 is in use elsewhere");
                world.viaduct(&format!("set own --address-add {address}")).refused(1, &[&said]);
            }
            world.write(CONFIG, FILE.replace(r#""203.0.113.28", "#, r#""203.0.113.20", "#));
            world.viaduct("apply").refused(1, &["203.0.113.20 of own.0 is in use elsewhere"]);
            world.write(CONFIG, FILE);
            world.unchanged(&kernel, &memory, "a change that was refused");
        }
        world.good("set own --address-add 203.0.113.21");
        world.sh("ip netns exec outside ping -c 5 -i 0.2 -W 2 203.0.113.21");
    });
}

/// Writes down every frame that comes to the provider's side.
struct Capture(Child);

const CAPTURE: &str = "import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(('eth0', 3))
print('ready', flush=True)
while True:
    frame, address = s.recvfrom(2048)
    if address[2] != 4:
        print(frame.hex(), flush=True)
";

const CAPTURED: &str = "/run/captured";

impl Capture {
    fn start(world: &World) -> Self {
        world.write("/run/capture.py", CAPTURE);
        let child = Command::new("ip")
            .args(["netns", "exec", "outside", "python3", "/run/capture.py"])
            .stdout(std::fs::File::create(CAPTURED).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        world.soon("somebody captures", || world.read(CAPTURED).contains("ready"));
        Self(child)
    }

    fn frames(&self, world: &World) -> Vec<Vec<u8>> {
        let text = world.read(CAPTURED);
        let whole = text.lines().skip(1).filter(|line| line.len() % 2 == 0 && line.len() >= 84);
        let byte = |line: &str, at: usize| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
        whole.map(|line| (0..line.len()).step_by(2).map(|at| byte(line, at)).collect()).collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a frame is, whose it is, and the MACs that it shows for that.
fn read(frame: &[u8]) -> (&'static str, IpAddr, Vec<&[u8]>) {
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap());
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
    let source = &frame[6..12];
    match (&frame[12..14], frame[20], frame.get(54)) {
        ([8, 6], ..) => {
            let kind = match (frame[21], v4(28) == v4(38)) {
                (_, true) => "announcement by ARP",
                (1, _) => "question by ARP",
                _ => "answer by ARP",
            };
            (kind, v4(28), vec![source, &frame[22..28]])
        }
        ([8, 0], ..) => ("IPv4", v4(26), vec![source]),
        ([0x86, 0xdd], 58, Some(136)) => {
            let kind = if frame[38] == 0xff { "announcement by ND" } else { "answer by ND" };
            assert_eq!(frame[78..80], [2, 1], "an advertisement says the MAC: {frame:02x?}");
            (kind, v6(62), vec![source, &frame[80..86]])
        }
        ([0x86, 0xdd], 58, Some(135)) => {
            let said = (frame.len() >= 86).then(|| &frame[80..86]);
            ("question by ND", v6(22), [source].into_iter().chain(said).collect())
        }
        ([0x86, 0xdd], ..) => ("IPv6", v6(22), vec![source]),
        _ => panic!("what is {frame:02x?}"),
    }
}

#[test]
fn exactly_what_is_a_guests_own_carries_the_providers_mac() {
    host(|world| {
        on_segment(world);
        let capture = Capture::start(world);
        world.attach("own");
        world.attach("plain");
        let forget = || {
            world.sh("ip neigh flush dev eth0; ip -n outside neigh flush dev eth0");
        };
        let ping = |from: &str, to: &str| {
            world.sh(&format!("{from} ping -c 1 -W 3 {to}"));
        };
        let (outside, own, plain) = ("ip netns exec outside", "ip netns exec own", "ip netns exec plain");
        for (router, of_host, of_own, of_plain) in [
            ("203.0.113.1", "203.0.113.2", "203.0.113.28", "203.0.113.29"),
            ("2001:db8:28::1", "2001:db8:28::2", "2001:db8:28::28", "2001:db8:28::29"),
        ] {
            for to in [of_host, of_own, of_plain] {
                forget();
                ping(outside, to);
            }
            // The host knows nobody, and has to ask before it can pass on what the guest sends.
            for from in ["", own, plain] {
                forget();
                ping(from, router);
            }
            world.good(&format!("announce {of_own}"));
            world.good(&format!("announce {of_plain}"));
        }
        // Somebody else is about to take them: the host defends them.
        for address in ["2001:db8:28::28", "2001:db8:28::29"] {
            world.sh(&format!("ip -n outside address add {address}/64 dev eth0"));
            world.soon("it is a duplicate", || {
                world.sh("ip -n outside -6 address show dev eth0").contains("dadfailed")
            });
            world.sh(&format!("ip -n outside address del {address}/64 dev eth0"));
        }

        let (theirs, ours) = ([0x00, 0x16, 0x3e, 0, 0, 0x28], [2, 0, 0, 0, 0, 2]);
        let failover: [IpAddr; 2] = ["203.0.113.28".parse().unwrap(), "2001:db8:28::28".parse().unwrap()];
        let frames = capture.frames(world);
        let mut seen = std::collections::BTreeSet::new();
        for frame in &frames {
            let (kind, whose, macs) = read(frame);
            let is_own = failover.contains(&whose);
            let expected = if is_own { theirs } else { ours };
            assert!(macs.iter().all(|mac| **mac == expected), "{kind} of {whose}: {frame:02x?}");
            seen.insert((kind, is_own));
        }
        for kind in
            ["announcement by ARP", "answer by ARP", "IPv4", "announcement by ND", "answer by ND", "IPv6"]
        {
            for is_own in [true, false] {
                // ICMP is all that was sent over IPv6.
                assert!(seen.contains(&(kind, is_own)), "no {kind}, {is_own}: {seen:?}");
            }
        }
        // The host itself asks as itself, also on behalf of the guest.
        for kind in ["question by ARP", "question by ND"] {
            assert!(seen.contains(&(kind, false)) && !seen.contains(&(kind, true)), "{kind}: {seen:?}");
        }
    });
}
