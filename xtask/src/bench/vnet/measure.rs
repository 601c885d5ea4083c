//! The two hosts, and what is measured between their guests.

use std::{fs, path::Path, process::Stdio, thread, time::Duration};

use serde_json::Value;

use super::{
    super::sandbox::{Machine, Sandbox, output},
    ways::{Tunnel, Way},
};

/// IPv4 and UDP.
const HEADERS: u32 = 28;
/// With Ethernet, IPv4 and UDP, and the check sequence that is on wires only, a frame of 64 bytes.
const SMALL: u32 = 18;
/// Of datagrams, so many may be lost.
const LOST: f64 = 0.01;
/// How often a rate is tried.
const TRIES: u32 = 2;
/// How close the search comes: to a hundredth of what was sent at first.
const HALVES: u32 = 7;

/// What is measured, in the order of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Metric {
    Tcp,
    TcpWire,
    Full,
    Small,
    Idle,
    Loaded,
    Cpu,
}

impl Metric {
    pub(super) const ALL: [Self; 7] =
        [Self::Tcp, Self::TcpWire, Self::Full, Self::Small, Self::Idle, Self::Loaded, Self::Cpu];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP, one stream, Mbit/s",
            Self::TcpWire => "wire, Mbit/s",
            Self::Full => "full-size frames/s",
            Self::Small => "64-byte frames/s",
            Self::Idle => "round trip, ms",
            Self::Loaded => "under four TCP streams, ms",
            Self::Cpu => "tunnel CPU, s/GB",
        }
    }

    pub(super) fn more_is_better(self) -> bool {
        matches!(self, Self::Tcp | Self::TcpWire | Self::Full | Self::Small)
    }
}

/// How often iperf3 is started again when it does not reach its server.
const CONNECTS: u32 = 3;

/// The bridge of a host, and its port to the guest.
pub(super) const BRIDGE: &str = "br0";
pub(super) const GUEST: &str = "g0";

/// Two hosts with a guest each.
pub(super) struct Hosts {
    hosts: [Machine; 2],
    guests: [Machine; 2],
    tunnel: Tunnel,
    way: Way,
}

impl Hosts {
    pub(super) fn make(sandbox: &Sandbox, way: Way) -> Result<Self, String> {
        let machine = |kind: &str, side: &str| sandbox.machine(&format!("{kind}{side}{}", way as u8));
        let hosts = [machine("h", "a")?, machine("h", "b")?];
        let guests = [machine("g", "a")?, machine("g", "b")?];
        hosts[0].run(&format!("ip link add u0 type veth peer name u0 netns {}", hosts[1].name))?;
        for side in 0..2 {
            let (host, guest, number) = (&hosts[side], &guests[side], side + 1);
            host.run(&format!("ip addr add 192.0.2.{number}/24 dev u0"))?;
            host.run("ip link set u0 up")?;
            without_br_netfilter(host)?;
            host.run(&format!("ip link add {GUEST} type veth peer name eth0 netns {}", guest.name))?;
            if way.port().is_some() {
                host.run(&format!("ip link add {BRIDGE} type bridge"))?;
                host.run(&format!("ip link set {BRIDGE} up"))?;
                host.run(&format!("ip link set {GUEST} master {BRIDGE} up"))?;
            }
            guest.run(&format!("ip link set eth0 address 02:00:00:00:00:0{number} up"))?;
            guest.run(&format!("ip addr add 10.9.0.{number}/24 dev eth0"))?;
        }
        let tunnel = Tunnel::start(sandbox, way, &hosts)?;
        for side in 0..2 {
            if let Some(port) = way.port() {
                hosts[side].run(&format!("ip link set {port} mtu {} master {BRIDGE} up", way.mtu()))?;
            }
            guests[side].run(&format!("ip link set eth0 mtu {}", way.mtu()))?;
        }
        let this = Self { hosts, guests, tunnel, way };
        this.meet()?;
        Ok(this)
    }

    /// Waits until the guests reach each other.
    fn meet(&self) -> Result<(), String> {
        for _ in 0..60 {
            if self.guests[0].run("ping -q -c 1 -W 0.5 10.9.0.2").is_ok() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Err(format!("the guests do not reach each other by {}", self.way.name()))
    }

    pub(super) fn measure(&self, quick: bool) -> Result<Vec<(Metric, f64)>, String> {
        let seconds = if quick { 2 } else { 3 };
        let mut server = self.guests[1]
            .enter("iperf3")
            .arg("-s")
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| e.to_string())?;
        thread::sleep(Duration::from_millis(300));
        let result = self.all(seconds);
        let _ = server.kill();
        let _ = server.wait();
        result
    }

    fn all(&self, seconds: u32) -> Result<Vec<(Metric, f64)>, String> {
        let mut all = Vec::new();
        let before = self.tunnel.seconds()?;
        let (rate, bytes) = self.tcp(seconds, 1)?;
        all.push((Metric::Tcp, rate));
        if self.way.has_process() {
            all.push((Metric::Cpu, (self.tunnel.seconds()? - before) / (bytes / 1e9)));
        }
        all.push((Metric::Full, self.frames(u32::from(self.way.mtu()) - HEADERS)?));
        all.push((Metric::Small, self.frames(SMALL)?));
        all.push((Metric::Loaded, self.loaded(seconds)?));
        for host in &self.hosts {
            host.run("ethtool -K u0 tso off gso off gro off tx-udp-segmentation off")?;
        }
        all.push((Metric::TcpWire, self.tcp(seconds, 1)?.0));
        Ok(all)
    }

    /// Mbit/s, and bytes.
    fn tcp(&self, seconds: u32, streams: u32) -> Result<(f64, f64), String> {
        let said = self.iperf(&format!("-t {seconds} -P {streams}"))?;
        let sum = &said["end"]["sum_received"];
        let value = |name: &str| sum[name].as_f64().ok_or_else(|| format!("iperf3 says no {name}: {said}"));
        Ok((value("bits_per_second")? / 1e6, value("bytes")?))
    }

    /// What a flood has left in queues may keep the next connection from being made; that is no failure of the tunnel.
    fn iperf(&self, words: &str) -> Result<Value, String> {
        let line = format!("iperf3 -J -c 10.9.0.2 {words}");
        let mut said = self.guests[0].run(&line);
        for _ in 0..CONNECTS {
            if said.is_ok() {
                break;
            }
            thread::sleep(Duration::from_secs(1));
            said = self.guests[0].run(&line);
        }
        serde_json::from_str(&said?).map_err(|error| format!("iperf3: {error}"))
    }

    /// How many datagrams in a second get through when they are sent so fast that one in a hundred is lost at most: sent as
    /// fast as may be if that is so then, and else looked for by halves.
    fn frames(&self, length: u32) -> Result<f64, String> {
        let (most, through) = self.through(length, 0.0)?;
        if let Some(got) = through {
            return Ok(got);
        }
        let (mut low, mut high, mut best) = (0.0, most, 0.0_f64);
        for _ in 0..HALVES {
            let middle = f64::midpoint(low, high);
            match self.through(length, middle)?.1 {
                Some(got) => (low, best) = (middle, best.max(got)),
                None => high = middle,
            }
        }
        Ok(best)
    }

    /// How many were sent in a second, and how many came, if those are enough in one of some tries: what else the machine did
    /// for a few milliseconds is no fault of the tunnel.
    fn through(&self, length: u32, rate: f64) -> Result<(f64, Option<f64>), String> {
        let mut most = 0.0_f64;
        for _ in 0..TRIES {
            let (sent, got) = self.datagrams(length, rate)?;
            if got >= sent * (1.0 - LOST) {
                return Ok((sent, Some(got)));
            }
            most = most.max(sent);
        }
        Ok((most, None))
    }

    /// Datagrams of this length, so many in a second for one second, or as many as may be: how many were sent, and came.
    fn datagrams(&self, length: u32, rate: f64) -> Result<(f64, f64), String> {
        // A burst of what is sent in a millisecond would measure queues.
        let bits = rate * f64::from(length) * 8.0;
        let said = self.iperf(&format!("-u -t 1 -l {length} -b {bits:.0} --pacing-timer 100"))?;
        let sum = &said["end"]["sum"];
        let value = |name: &str| sum[name].as_f64().ok_or_else(|| format!("iperf3 says no {name}: {said}"));
        let (packets, seconds) = (value("packets")?, value("seconds")?);
        Ok((packets / seconds, (packets - value("lost_packets")?) / seconds))
    }

    /// The median of so many, in ms.
    pub(super) fn round_trip(&self, count: u32) -> Result<f64, String> {
        let mut command = self.guests[0].command("ping");
        let text = output(command.args(["-i", "0.01", "-c", &count.to_string(), "10.9.0.2"]))?;
        median(&text).ok_or_else(|| format!("no answer to a ping by {}", self.way.name()))
    }

    fn loaded(&self, seconds: u32) -> Result<f64, String> {
        let mut command = self.guests[0].enter("iperf3");
        let time = (seconds + 1).to_string();
        let load = command.args(["-c", "10.9.0.2", "-t", &time, "-P", "4"]).stdout(Stdio::null()).spawn();
        let mut load = load.map_err(|error| format!("iperf3: {error}"))?;
        thread::sleep(Duration::from_millis(1_000));
        let measured = self.round_trip(seconds * 80);
        let _ = load.wait();
        measured
    }
}

/// Where a kernel has br_netfilter built in, each new namespace begins with it switched on; on a server it is a module, which who
/// wants it loads (Docker). With it, all frames on bridges pass the IP filter, by whichever tunnel they come.
fn without_br_netfilter(host: &Machine) -> Result<(), String> {
    for kind in ["iptables", "ip6tables", "arptables"] {
        let name = format!("net.bridge.bridge-nf-call-{kind}");
        if Path::new("/proc/sys").join(name.replace('.', "/")).exists() {
            host.run(&format!("sysctl -qw {name}=0"))?;
        }
    }
    Ok(())
}

fn median(text: &str) -> Option<f64> {
    let times = text.lines().filter_map(|line| line.split("time=").nth(1)?.split(' ').next()?.parse().ok());
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

/// Seconds of processor that a process has used, its own and the kernel's.
pub(super) fn processor(pid: u32) -> Result<f64, String> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    // After the name, which may contain anything: utime and stime are the fields 14 and 15 (proc(5)), in hundredths.
    let after = text.rsplit(')').next().unwrap_or_default();
    let ticks = after.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<f64>().ok());
    Ok(ticks.sum::<f64>() / 100.0)
}
