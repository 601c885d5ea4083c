//! The tunnels, each started as its own documentation says, with what makes it fast.

use std::{
    env, fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use super::{
    super::{
        sandbox::{Machine, Sandbox, output},
        target,
        viaduct::{Daemon, Viaduct},
    },
    measure::{BRIDGE, GUEST, processor},
};

/// A tunnel between two bridges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// The underlay itself as a port of both bridges.
    Bare,
    Vxlan,
    Viaduct,
    OpenVpn,
    VpnCloud,
    Nebula,
    Fastd,
    WireGuard,
    GotaTun,
    Tinc,
}

impl Way {
    pub(super) const ALL: [Self; 10] = [
        Self::Bare,
        Self::Vxlan,
        Self::Viaduct,
        Self::OpenVpn,
        Self::VpnCloud,
        Self::Nebula,
        Self::Fastd,
        Self::WireGuard,
        Self::GotaTun,
        Self::Tinc,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bare => "no tunnel",
            Self::Vxlan => "kernel VXLAN, not encrypted",
            Self::Viaduct => "Viaduct",
            Self::OpenVpn => "OpenVPN, tap",
            Self::VpnCloud => "VpnCloud",
            Self::Nebula => "Nebula + VXLAN",
            Self::Fastd => "fastd",
            Self::WireGuard => "wireguard-go + VXLAN",
            Self::GotaTun => "GotaTun + VXLAN",
            Self::Tinc => "tinc",
        }
    }

    pub(super) fn encrypts(self) -> bool {
        !matches!(self, Self::Bare | Self::Vxlan)
    }

    pub(super) fn has_process(self) -> bool {
        self.encrypts()
    }

    /// The device that is to be a port of the bridge; none where the tunnel itself makes the bridge.
    pub(super) fn port(self) -> Option<&'static str> {
        Some(match self {
            Self::Viaduct => return None,
            Self::Bare => "u0",
            Self::Vxlan | Self::Nebula | Self::WireGuard | Self::GotaTun => "vx0",
            Self::OpenVpn | Self::VpnCloud | Self::Fastd | Self::Tinc => "tap0",
        })
    }

    /// What guests may send, so that nothing is fragmented.
    pub(super) fn mtu(self) -> u16 {
        match self {
            Self::Bare => 1_500,
            Self::Vxlan => 1_450,
            Self::Viaduct => 1_432,
            Self::OpenVpn | Self::VpnCloud | Self::Fastd | Self::Tinc => 1_400,
            Self::WireGuard | Self::GotaTun => 1_370,
            Self::Nebula => 1_350,
        }
    }

    pub(super) fn is_installed(self) -> bool {
        let program = match self {
            Self::Bare | Self::Vxlan | Self::Viaduct => return true,
            Self::OpenVpn => "openvpn",
            Self::VpnCloud => "vpncloud",
            Self::Nebula => "nebula",
            Self::Fastd => "fastd",
            Self::WireGuard => "wireguard-go",
            Self::GotaTun => "gotatun",
            Self::Tinc => "tincd",
        };
        find(program).is_some()
    }
}

/// Where a program is: installed, or made by `scripts/prepare.sh`.
fn find(program: &str) -> Option<PathBuf> {
    let paths = env::var_os("PATH").unwrap_or_default();
    let made = target()
        .into_iter()
        .flat_map(|target| ["vpncloud", "gotatun"].map(|tunnel| target.join("tmp").join(tunnel).join("bin")));
    let places = env::split_paths(&paths).chain(["/usr/sbin", "/sbin"].map(PathBuf::from)).chain(made);
    places.map(|place| place.join(program)).find(|path| path.exists())
}

/// Their control sockets have the devices' names and one directory.
const WIREGUARD: [&str; 2] = ["wga", "wgb"];
const GOTATUN: [&str; 2] = ["gta", "gtb"];

/// Its processes at both ends; they end with it.
#[derive(Debug, Default)]
pub(super) struct Tunnel {
    children: Vec<Child>,
    /// Ours, which keep the processes running that carry frames, and those.
    daemons: Vec<Daemon>,
    engines: Vec<u32>,
}

impl Tunnel {
    pub(super) fn start(sandbox: &Sandbox, way: Way, hosts: &[Machine; 2]) -> Result<Self, String> {
        let mut tunnel = Self::default();
        match way {
            Way::Bare => {}
            Way::Vxlan => vxlan(hosts, ["u0"; 2], ["192.0.2.1", "192.0.2.2"])?,
            Way::Viaduct => tunnel.viaduct(sandbox, hosts)?,
            Way::OpenVpn => tunnel.openvpn(sandbox, hosts)?,
            Way::VpnCloud => tunnel.vpncloud(hosts)?,
            Way::Nebula => {
                tunnel.nebula(sandbox, hosts)?;
                vxlan(hosts, ["neb0"; 2], ["10.8.0.1", "10.8.0.2"])?;
            }
            Way::Fastd => tunnel.fastd(sandbox, hosts)?,
            Way::WireGuard => tunnel.wireguard(sandbox, hosts, "wireguard-go --foreground", WIREGUARD)?,
            Way::GotaTun => {
                let program = find("gotatun").unwrap_or_default();
                let line = format!("{} --foreground --disable-drop-privileges", program.display());
                tunnel.wireguard(sandbox, hosts, &line, GOTATUN)?;
            }
            Way::Tinc => tunnel.tinc(sandbox, hosts)?,
        }
        Ok(tunnel)
    }

    /// What its processes have used of the processors.
    pub(super) fn seconds(&self) -> Result<f64, String> {
        let processes = self.children.iter().map(Child::id).chain(self.engines.iter().copied());
        processes.map(processor).sum()
    }

    /// Starts a process and waits for its device.
    fn run(&mut self, host: &Machine, device: &str, line: &str) -> Result<(), String> {
        let mut words = line.split_whitespace();
        let mut command = host.enter(words.next().unwrap_or_default());
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self.children.push(command.spawn().map_err(|error| format!("{line}: {error}"))?);
        for _ in 0..100 {
            if host.run(&format!("ip link show dev {device}")).is_ok() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(format!("`{line}` made no {device}"))
    }

    /// The whole of it: as on two hosts whose daemons make bridge and guest ports, filter what guests send, and keep the
    /// process running that carries frames.
    fn viaduct(&mut self, sandbox: &Sandbox, hosts: &[Machine; 2]) -> Result<(), String> {
        let configuration = |side: usize, key: &str| {
            let (us, them, [here, there]) =
                (side + 1, 2 - side, if side == 0 { ["a", "b"] } else { ["b", "a"] });
            format!(
                "[host]\nname = \"{here}\"\n[uplinks.wan]\ninterface = \"u0\"\n\
                 [peers.{there}]\nendpoint = \"192.0.2.{them}:1798\"\nkey = \"{key}\"\n\
                 [vnets.red]\nid = \"97\"\nbridge = \"{BRIDGE}\"\npeers = [\"{there}\"]\n\
                 [networks.red]\nmode = \"vnet\"\nvnet = \"red\"\nsubnets = [\"10.9.0.0/24\"]\n\
                 [[guests.g{us}.nics]]\nnetwork = \"red\"\nmac = \"02:00:00:00:00:0{us}\"\n\
                 addresses = [\"10.9.0.{us}\"]\n"
            )
        };
        let mut keys = Vec::new();
        for host in hosts {
            let identity = Viaduct::new(sandbox, host, "")?;
            keys.push(output(&mut identity.command(&["identity"]))?.trim().to_owned());
        }
        for (side, host) in hosts.iter().enumerate() {
            let viaduct = Viaduct::new(sandbox, host, &configuration(side, &keys[1 - side]))?;
            viaduct.run(&["apply"])?;
            self.daemons.push(viaduct.daemon()?);
            viaduct.run(&["attach", &format!("g{}", side + 1), "--device", GUEST])?;
            self.engines.push(engine(host)?);
        }
        Ok(())
    }

    fn openvpn(&mut self, sandbox: &Sandbox, hosts: &[Machine; 2]) -> Result<(), String> {
        let mut prints = Vec::new();
        for side in ["a", "b"] {
            let (key, certificate) =
                (sandbox.path(&format!("{side}.key")), sandbox.path(&format!("{side}.crt")));
            let mut make = Command::new("openssl");
            make.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split(' '));
            make.args(["-subj", &format!("/CN={side}"), "-keyout"]).arg(key).arg("-out").arg(&certificate);
            output(&mut make)?;
            let mut show = Command::new("openssl");
            show.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(&certificate);
            let text = output(&mut show)?;
            prints.push(text.trim().rsplit('=').next().unwrap_or_default().to_owned());
        }
        for (side, host) in hosts.iter().enumerate() {
            let letter = ["a", "b"][side];
            let role =
                if side == 0 { "--tls-server --dh none" } else { "--tls-client --remote 192.0.2.1 1194" };
            let line = format!(
                "openvpn --dev tap0 --dev-type tap --proto udp4 --port 1194 {role} --key {} --cert {} \
                 --peer-fingerprint {} --data-ciphers AES-256-GCM --cipher AES-256-GCM --tun-mtu 1400 --mssfix 0 \
                 --fast-io --sndbuf 1048576 --rcvbuf 1048576 --txqueuelen 1000 --verb 0",
                sandbox.path(&format!("{letter}.key")).display(),
                sandbox.path(&format!("{letter}.crt")).display(),
                prints[1 - side]
            );
            self.run(host, "tap0", &line)?;
        }
        Ok(())
    }

    fn vpncloud(&mut self, hosts: &[Machine; 2]) -> Result<(), String> {
        let program = find("vpncloud").unwrap_or_default();
        for (side, host) in hosts.iter().enumerate() {
            // It ends where there is no way to the Internet, by which it would know its own address.
            host.run("ip route add default dev u0")?;
            let line = format!(
                "{} -d tap0 -t tap -m switch -p bench --algorithm aes128 -l 192.0.2.{}:3210 -c 192.0.2.{}:3210 \
                 --no-port-forwarding",
                program.display(),
                side + 1,
                2 - side
            );
            self.run(host, "tap0", &line)?;
        }
        Ok(())
    }

    fn nebula(&mut self, sandbox: &Sandbox, hosts: &[Machine; 2]) -> Result<(), String> {
        let directory = sandbox.path("nebula");
        // Its tools do not write over what is there.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let make = |words: &str| {
            let mut command = Command::new("nebula-cert");
            output(command.args(words.split(' ')).current_dir(&directory))
        };
        make("ca -name bench")?;
        for (side, host) in hosts.iter().enumerate() {
            let (us, them, letter) = (side + 1, 2 - side, ["a", "b"][side]);
            make(&format!("sign -name {letter} -ip 10.8.0.{us}/24"))?;
            let place = directory.display();
            let configuration = format!(
                "pki: {{ca: {place}/ca.crt, cert: {place}/{letter}.crt, key: {place}/{letter}.key}}\n\
                 static_host_map: {{\"10.8.0.{them}\": [\"192.0.2.{them}:4242\"]}}\n\
                 lighthouse: {{am_lighthouse: false, hosts: []}}\n\
                 listen: {{host: 192.0.2.{us}, port: 4242, read_buffer: 10485760, write_buffer: 10485760}}\n\
                 tun: {{dev: neb0, mtu: 1400, tx_queue: 1000}}\n\
                 logging: {{level: error}}\n\
                 firewall: {{outbound: [{{port: any, proto: any, host: any}}], \
                 inbound: [{{port: any, proto: any, host: any}}]}}\n"
            );
            let file = sandbox.file(&format!("nebula/{letter}.yml"), &configuration)?;
            self.run(host, "neb0", &format!("nebula -config {}", file.display()))?;
        }
        Ok(())
    }

    fn fastd(&mut self, sandbox: &Sandbox, hosts: &[Machine; 2]) -> Result<(), String> {
        let mut keys = Vec::new();
        for _ in 0..2 {
            let text = sandbox.here("fastd", &["--machine-readable", "--generate-key"])?;
            let secret = text.trim().to_owned();
            let file = sandbox.file("fastd-key", &format!("secret \"{secret}\";\n"))?;
            let file = file.display().to_string();
            let public = sandbox.here("fastd", &["--machine-readable", "--show-key", "--config", &file])?;
            keys.push((secret, public.trim().to_owned()));
        }
        for (side, host) in hosts.iter().enumerate() {
            let (us, them) = (side + 1, 2 - side);
            let configuration = format!(
                "interface \"tap0\"; mode tap; method \"salsa2012+umac\"; mtu 1400; bind 192.0.2.{us}:10000;\n\
                 secret \"{}\";\npeer \"other\" {{ key \"{}\"; remote 192.0.2.{them}:10000; }}\n",
                keys[side].0,
                keys[1 - side].1
            );
            let file = sandbox.file(&format!("fastd-{us}.conf"), &configuration)?;
            self.run(host, "tap0", &format!("fastd --log-level error --config {}", file.display()))?;
        }
        Ok(())
    }

    /// A program that does WireGuard, and VXLAN by its devices.
    fn wireguard(
        &mut self,
        sandbox: &Sandbox,
        hosts: &[Machine; 2],
        line: &str,
        devices: [&str; 2],
    ) -> Result<(), String> {
        let mut keys = Vec::new();
        for device in devices {
            let file = sandbox.file(device, &sandbox.here("wg", &["genkey"])?)?;
            let input = fs::File::open(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            let shown = Command::new("wg").arg("pubkey").stdin(input).output();
            let public = shown.map_err(|error| format!("wg: {error}"))?.stdout;
            keys.push((file, String::from_utf8_lossy(&public).trim().to_owned()));
        }
        for (side, host) in hosts.iter().enumerate() {
            let (us, them, device) = (side + 1, 2 - side, devices[side]);
            self.run(host, device, &format!("{line} {device}"))?;
            host.run(&format!(
                "wg set {device} private-key {} listen-port 51820 peer {} allowed-ips 10.8.0.{them}/32 endpoint \
                 192.0.2.{them}:51820",
                keys[side].0.display(),
                keys[1 - side].1
            ))?;
            host.run(&format!("ip addr add 10.8.0.{us}/24 dev {device}"))?;
            host.run(&format!("ip link set {device} mtu 1420 up"))?;
        }
        vxlan(hosts, devices, ["10.8.0.1", "10.8.0.2"])
    }

    fn tinc(&mut self, sandbox: &Sandbox, hosts: &[Machine; 2]) -> Result<(), String> {
        for (side, letter) in ["a", "b"].into_iter().enumerate() {
            let directory = sandbox.path(&format!("tinc-{letter}"));
            let place = directory.join("hosts");
            fs::create_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
            let connect = if side == 1 { "ConnectTo = a\n" } else { "" };
            let text =
                format!("Name = {letter}\nMode = switch\nInterface = tap0\nDeviceType = tap\n{connect}");
            sandbox.file(&format!("tinc-{letter}/tinc.conf"), &text)?;
            let text =
                format!("Address = 192.0.2.{}\nCipher = aes-128-cbc\nDigest = sha1\nMTU = 1418\n", side + 1);
            sandbox.file(&format!("tinc-{letter}/hosts/{letter}"), &text)?;
            // It asks where to put keys, and takes what it proposes from a closed input.
            let _ = fs::remove_file(directory.join("rsa_key.priv"));
            sandbox.here("tincd", &["-c", &directory.display().to_string(), "-K", "2048"])?;
        }
        for (from, to) in [("a", "b"), ("b", "a")] {
            let (from, to) = (format!("tinc-{from}/hosts/{from}"), format!("tinc-{to}/hosts/{from}"));
            fs::copy(sandbox.path(&from), sandbox.path(&to)).map_err(|error| format!("{to}: {error}"))?;
        }
        for (letter, host) in ["a", "b"].into_iter().zip(hosts) {
            let directory = sandbox.path(&format!("tinc-{letter}")).display().to_string();
            let line = format!("tincd -D -c {directory} --pidfile {directory}/pid");
            self.run(host, "tap0", &line)?;
        }
        Ok(())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Without a daemon nothing starts them again.
        self.daemons.clear();
        for engine in &self.engines {
            let _ = Command::new("kill").args(["-9", &engine.to_string()]).status();
        }
    }
}

/// The process that carries frames on a host.
fn engine(host: &Machine) -> Result<u32, String> {
    for _ in 0..100 {
        let processes = output(Command::new("ip").args(["netns", "pids", &host.name]))?;
        let carries = |pid: &u32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|&byte| byte == 0).any(|word| word == b"carry-vnets")
        };
        if let Some(pid) = processes.lines().filter_map(|line| line.parse().ok()).find(carries) {
            return Ok(pid);
        }
        thread::sleep(Duration::from_millis(50));
    }
    Err(format!("nothing carries frames on {}", host.name))
}

fn vxlan(hosts: &[Machine; 2], devices: [&str; 2], addresses: [&str; 2]) -> Result<(), String> {
    for (side, host) in hosts.iter().enumerate() {
        let (us, them, device) = (addresses[side], addresses[1 - side], devices[side]);
        let line =
            format!("ip link add vx0 type vxlan id 97 dstport 4789 dev {device} local {us} remote {them}");
        host.run(&line)?;
    }
    Ok(())
}
