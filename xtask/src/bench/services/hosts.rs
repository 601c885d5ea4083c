//! The hosts that answer: ours with real ports, and one with dnsmasq.

use std::{
    fmt::Write as _,
    fs,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::super::{
    guests::{HOST, OUTSIDE},
    sandbox::{Machine, Sandbox, output},
    viaduct::{Daemon, Viaduct},
};

pub(super) const GUESTS: u32 = 1_000;
/// How long a server may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);

const NETWORKS: &str = r#"
[host]
name = "bench"

[uplinks.wan]
interface = "eth0"

[networks.public]
mode = "routed"
uplink = "wan"
pool = ["198.18.0.0/16", "2001:db8:1::/64"]
dhcp = true

[networks.private]
mode = "nat"
uplink = "wan"
subnets = ["10.64.0.0/16", "fd00:64::/64"]
dhcp = true
dns-servers = ["192.0.2.53", "2001:db8::53"]
domain = "lan.example"
"#;

pub(super) fn mac(guest: u32) -> String {
    format!("02:10:00:00:{:02x}:{:02x}", guest / 256, guest % 256)
}

/// The addresses that the file gives; one guest in four is lent some.
fn addresses(guest: u32) -> Option<[String; 2]> {
    let number = guest + 512;
    let (high, low) = (number / 256, number % 256);
    match guest % 4 {
        0 | 2 => Some([format!("198.18.{high}.{low}"), format!("2001:db8:1::{number:x}")]),
        1 => Some([format!("10.64.{high}.{low}"), format!("fd00:64::{number:x}")]),
        _ => None,
    }
}

/// Those of the bridge that have addresses of their own.
pub(super) fn clients_of_the_file() -> impl Iterator<Item = u32> {
    (1..GUESTS).step_by(4)
}

/// A host of ours with all guests attached, and their other ends in one namespace.
pub(super) struct Ours<'a> {
    viaduct: Viaduct<'a>,
    daemon: Daemon,
    host: &'a Machine,
    guests: &'a Machine,
}

impl<'a> Ours<'a> {
    pub(super) fn new(sandbox: &'a Sandbox) -> Result<Self, String> {
        // They go with the sandbox.
        let keep = |machine: Machine| &*Box::leak(Box::new(machine));
        let (outside, host) = (keep(sandbox.machine("outside")?), keep(sandbox.machine("host")?));
        let guests = keep(sandbox.machine("guests")?);
        outside.run("ip link add host type veth peer name eth0 netns host")?;
        outside.run("ip link set host up")?;
        host.run(&format!("ip address add {HOST}/24 dev eth0"))?;
        host.run("ip link set eth0 up")?;
        host.run(&format!("ip route add default via {OUTSIDE}"))?;
        host.forward()?;
        guests.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1")?;
        let (mut file, mut links, mut up) = (NETWORKS.to_owned(), String::new(), String::new());
        let mut attachments = serde_json::Map::new();
        for guest in 0..GUESTS {
            let (mac, network) = (mac(guest), if guest % 2 == 0 { "public" } else { "private" });
            let _ =
                writeln!(links, "link add x{guest} type veth peer name c{guest} address {mac} netns guests");
            let _ = writeln!(up, "link set c{guest} up");
            let _ = write!(
                file,
                "\n[guests.g{guest}]\n[[guests.g{guest}.nics]]\nnetwork = \"{network}\"\nmac = \"{mac}\"\n"
            );
            if let Some(addresses) = addresses(guest) {
                let _ = writeln!(file, "addresses = {addresses:?}");
            }
            attachments.insert(format!("g{guest}.0"), json!({"device": {"name": format!("x{guest}")}}));
        }
        host.feed("ip -batch -", &links)?;
        guests.feed("ip -batch -", &up)?;
        let viaduct = Viaduct::new(sandbox, host, &file)?;
        viaduct.remember(Value::Object(attachments).to_string().as_bytes())?;
        viaduct.run(&["apply"])?;
        let daemon = viaduct.daemon()?;
        let ours = Self { viaduct, daemon, host, guests };
        ours.wait()?;
        Ok(ours)
    }

    pub(super) fn host(&self) -> &Machine {
        self.host
    }

    pub(super) fn guests(&self) -> &Machine {
        self.guests
    }

    /// The process that answers.
    pub(super) fn process(&self) -> Result<u32, String> {
        let parent = self.daemon.process().to_string();
        let said = output(Command::new("pgrep").args(["-P", &parent, "-f", "answer-guests"]))?;
        said.trim().parse().map_err(|error| format!("who answers guests? {said:?}: {error}"))
    }

    /// Another process answers from now on, which has looked for nobody yet.
    pub(super) fn restart(&self) -> Result<(), String> {
        let before = self.process()?;
        output(Command::new("kill").arg(before.to_string()))?;
        until("another process answers guests", || {
            Ok(self.process().is_ok_and(|process| process != before))
        })?;
        self.wait()
    }

    /// Until there is a socket for each kind of question on each link.
    fn wait(&self) -> Result<(), String> {
        let routed = (GUESTS / 2) as usize;
        until("all guests are listened to", || {
            Ok(self.host.run("cat /proc/self/net/packet")?.lines().count() > 2 * routed + 3)
        })
    }
}

impl Drop for Ours<'_> {
    fn drop(&mut self) {
        let _ = self.viaduct.run(&["down"]);
    }
}

/// A host whose bridge dnsmasq serves, with the same addresses for the same clients.
pub(super) struct Dnsmasq {
    host: Machine,
    server: Child,
}

impl Dnsmasq {
    pub(super) fn new(sandbox: &Sandbox) -> Result<Self, String> {
        let host = sandbox.machine("hand")?;
        for line in [
            "sysctl -qw net.ipv6.conf.default.accept_dad=0",
            "ip link add br0 type bridge",
            "ip address add 10.64.0.1/16 dev br0",
            "ip -6 address add fd00:64::1/64 dev br0 nodad",
            "ip link set br0 up",
        ] {
            host.run(line)?;
        }
        let leases = sandbox.path("dnsmasq.leases");
        let _ = fs::remove_file(&leases);
        let mut file = format!(
            "port=0\ninterface=br0\nbind-dynamic\nno-ping\nquiet-dhcp\nquiet-dhcp6\nquiet-ra\nuser=root\n\
             log-facility=/dev/null\npid-file=\ndhcp-authoritative\ndhcp-leasefile={}\n\
             dhcp-range=10.64.0.0,static,255.255.0.0,3600\ndhcp-range=fd00:64::,static,64,7200\nenable-ra\n\
             dhcp-option=option:mtu,1500\ndhcp-option=option:dns-server,192.0.2.53\n\
             dhcp-option=option6:dns-server,[2001:db8::53]\ndomain=lan.example\n\
             dhcp-option=option:domain-search,lan.example\n",
            leases.display()
        );
        for guest in clients_of_the_file() {
            let Some([v4, v6]) = addresses(guest) else { continue };
            let mac = mac(guest);
            let _ = writeln!(file, "dhcp-host={mac},{v4},g{guest}");
            // By the identifier, for its MAC dnsmasq looks up by its link-local address, of which perfdhcp has one.
            let _ = writeln!(file, "dhcp-host=id:00:03:00:01:{mac},[{v6}],h{guest}");
        }
        let file = sandbox.file("dnsmasq.conf", &file)?;
        let server = host
            .enter("dnsmasq")
            .arg("--keep-in-foreground")
            .arg(format!("--conf-file={}", file.display()))
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| format!("dnsmasq: {error}"))?;
        let dnsmasq = Self { host, server };
        until("dnsmasq listens", || Ok(dnsmasq.host.run("ss -lunH sport = :547")?.lines().count() > 0))?;
        Ok(dnsmasq)
    }

    pub(super) fn host(&self) -> &Machine {
        &self.host
    }

    pub(super) fn process(&self) -> u32 {
        self.server.id()
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    let begin = Instant::now();
    while !is_so()? {
        if begin.elapsed() > PATIENCE {
            return Err(format!("not so: {what}"));
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
