//! perfdhcp, as many clients at one port of a bridge.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    super::{
        sandbox::{Machine, Sandbox, output},
        target,
    },
    hosts::{clients_of_the_file, mac},
};

/// Seconds that exchanges are begun.
const PERIOD: u32 = 5;
/// perfdhcp's own MAC.
const OWN: &str = "02:ff:00:00:00:01";
/// The kernel counts processor time in hundredths of a second (USER_HZ).
const TICK_US: f64 = 10_000.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V4 => "DHCPv4",
            Self::V6 => "DHCPv6",
        }
    }
}

/// What came of it.
pub(super) struct Measured {
    /// For each rate how many were completed in a second, and the percentage of answers that were lost.
    pub(super) completed: Vec<(f64, f64)>,
    /// The server's processor time for an exchange.
    pub(super) processor_us: f64,
    /// The server's memory before and after.
    pub(super) resident_mib: [f64; 2],
}

/// perfdhcp, installed or as `scripts/prepare.sh` has it unpacked.
pub(super) fn program() -> Option<PathBuf> {
    let installed = Path::new("/usr/sbin/perfdhcp");
    if installed.exists() {
        return Some(installed.into());
    }
    let unpacked = target().ok()?.join("tmp/kea/usr/sbin/perfdhcp");
    unpacked.exists().then_some(unpacked)
}

/// A machine at a port of a server's bridge.
pub(super) struct Load<'a> {
    machine: Machine,
    host: &'a Machine,
    perfdhcp: &'a Path,
    macs: PathBuf,
}

impl<'a> Load<'a> {
    pub(super) fn new(
        sandbox: &Sandbox,
        host: &'a Machine,
        bridge: &str,
        perfdhcp: &'a Path,
    ) -> Result<Self, String> {
        let machine = sandbox.machine("load")?;
        machine.run("sysctl -qw net.ipv6.conf.default.accept_dad=0")?;
        host.run(&format!("ip link add load type veth peer name eth0 address {OWN} netns load"))?;
        host.run(&format!("ip link set load master {bridge}"))?;
        host.run("ip link set load up")?;
        machine.run("ip link set eth0 up")?;
        machine.run("ip address add 10.64.255.254/16 dev eth0")?;
        // Each frame comes from its client, whose MAC stands in chaddr and in the DUID-LL that comes first. And it goes to the
        // bridge alone, as those of its guests do: this port is no guest's, and asking is not to be measured by the number
        // of the ports that it would be passed on to.
        let to = host.run(&format!("cat /sys/class/net/{bridge}/address"))?.trim().replace(':', "");
        machine.feed(
            "nft -f -",
            &format!(
                "table netdev clients {{\n \
                 chain out {{\n  type filter hook egress device eth0 priority 0\n  \
                 ether type ip udp dport 67 @ll,48,48 set @th,288,48 @ll,0,48 set 0x{to}\n  \
                 ether type ip6 udp dport 547 @ll,48,48 set @th,160,48 @ll,0,48 set 0x{to}\n }}\n \
                 chain in {{\n  type filter hook ingress device eth0 priority 0\n  \
                 udp dport {{ 67, 546 }} @ll,0,48 set 0x{} meta pkttype set host\n }}\n}}\n",
                OWN.replace(':', "")
            ),
        )?;
        let macs: String = clients_of_the_file().map(|guest| mac(guest) + "\n").collect();
        Ok(Self { machine, host, perfdhcp, macs: sandbox.file("macs", &macs)? })
    }

    pub(super) fn measure(&self, family: Family, server: u32, rates: &[u32]) -> Result<Measured, String> {
        output(Command::new("taskset").args([
            "--all-tasks",
            "--cpu-list",
            "--pid",
            "0",
            &server.to_string(),
        ]))?;
        // What is only needed once.
        self.exchange(family, 100, 1)?;
        let (before, begin) = (resident(server)?, processor(server)?);
        let (mut completed, mut all) = (Vec::new(), 0.0);
        for rate in rates {
            let (done, begun) = self.exchange(family, *rate, PERIOD)?;
            completed.push((done / f64::from(PERIOD), (1.0 - done / begun) * 100.0));
            all += done;
        }
        Ok(Measured {
            completed,
            processor_us: (processor(server)? - begin) * TICK_US / all,
            resident_mib: [before, resident(server)?],
        })
    }

    /// How many exchanges were completed, and how many were begun.
    fn exchange(&self, family: Family, rate: u32, period: u32) -> Result<(f64, f64), String> {
        let mut command = self.machine.command("taskset");
        command.args(["--cpu-list", "1"]).arg(self.perfdhcp).arg("-M").arg(&self.macs);
        if let Some(root) = self.perfdhcp.ancestors().nth(3) {
            command.env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"));
        }
        // What was begun at the end may be answered for another half second.
        command.args(["-W", "500000", "-r", &rate.to_string(), "-p", &period.to_string()]);
        match family {
            Family::V4 => command.args(["-4", "10.64.0.1"]),
            Family::V6 => command.args(["-6", "-l", "eth0", "all"]),
        };
        // It ends with 3 when something was lost.
        let said = command.output().map_err(|error| format!("perfdhcp: {error}"))?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let counts = |word: &str| -> Vec<f64> {
            said.lines().filter_map(|line| line.strip_prefix(word)?.trim().parse().ok()).collect()
        };
        match (counts("sent packets:").first(), counts("received packets:").last()) {
            (Some(begun), Some(done)) if *done > 0.0 => Ok((*done, *begun)),
            (..) => Err(format!("perfdhcp had no answer: {said}")),
        }
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        let _ = self.host.run("ip link del load");
    }
}

/// Hundredths of a second that a process has run.
fn processor(process: u32) -> Result<f64, String> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    // The name may have spaces and brackets in it (proc(5)).
    let (_, fields) = text.rsplit_once(')').ok_or_else(|| format!("{path} is odd: {text}"))?;
    let ticks = |at: usize| fields.split_whitespace().nth(at).and_then(|field| field.parse::<f64>().ok());
    ticks(11)
        .zip(ticks(12))
        .map(|(user, system)| user + system)
        .ok_or_else(|| format!("{path} is odd: {text}"))
}

/// Memory of a process, in MiB.
fn resident(process: u32) -> Result<f64, String> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kibibytes.map(|kibibytes| kibibytes / 1024.0).ok_or_else(|| format!("{path} says nothing of memory"))
}
