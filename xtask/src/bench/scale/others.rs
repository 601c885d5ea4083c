//! What others do for a guest, driven as their own users drive them. Each works on a host of its own.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::super::{
    guests::{GATEWAY, Guest, HOST, PORT},
    sandbox::{Machine, Sandbox, output},
};

const NETAVARK_PROGRAM: &str = "/usr/lib/podman/netavark";
const CNI: &str = "/usr/lib/cni";
const LIBVIRTD: &str = "/usr/sbin/libvirtd";
const DRIVER: &str = "libvirt/connection-driver/libvirt_driver_nwfilter.so";
/// The guests' subnet.
const SUBNET: &str = "10.64.0.0/16";

pub(super) const NETAVARK: &str = "netavark";
pub(super) const PLUGINS: &str = "CNI plugins";
pub(super) const NWFILTER: &str = "nwfilter";

/// Makes a host ready for a way.
type Start = for<'h> fn(&Sandbox, &'h Machine) -> Result<Box<dyn Way + 'h>, String>;

/// As the tables call them.
pub(super) const ALL: [(&str, Start); 3] = [
    (NETAVARK, |sandbox, host| Ok(Box::new(Netavark::new(sandbox, host)?))),
    (PLUGINS, |sandbox, host| Ok(Box::new(Plugins::new(sandbox, host)))),
    (NWFILTER, |sandbox, host| Ok(Box::new(Nwfilter::new(sandbox, host)?))),
];

/// A way to connect a guest with a published port, or to filter what it does.
pub(super) trait Way {
    /// As the tables call it.
    fn name(&self) -> &'static str;

    /// What is there before anybody asks for the guest's network: nothing of it is measured.
    fn prepare(&mut self, _guest: Guest) -> Result<(), String> {
        Ok(())
    }

    fn attach(&mut self, guest: Guest) -> Result<(), String>;

    fn detach(&mut self, guest: Guest) -> Result<(), String>;
}

/// Runs a program that reads JSON from its standard input; gives what it prints.
fn feed(command: &mut Command, input: &Value) -> Result<String, String> {
    let failed = |error| format!("{command:?}: {error}");
    let mut child: Child = Command::new(command.get_program())
        .args(command.get_args())
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.to_string().as_bytes()).map_err(failed)?;
    }
    let done = child.wait_with_output().map_err(failed)?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    if done.status.success() {
        return Ok(said);
    }
    Err(format!("{command:?} failed ({}): {said}{}", done.status, String::from_utf8_lossy(&done.stderr)))
}

/// Podman's: one process for each guest, with what Podman would tell it.
pub(super) struct Netavark<'a> {
    host: &'a Machine,
    kept: PathBuf,
}

impl<'a> Netavark<'a> {
    pub(super) fn new(sandbox: &Sandbox, host: &'a Machine) -> Result<Self, String> {
        let kept = sandbox.path("netavark");
        fs::create_dir_all(&kept).map_err(|error| format!("{}: {error}", kept.display()))?;
        Ok(Self { host, kept })
    }

    fn run(&self, what: &str, guest: Guest) -> Result<(), String> {
        let input = json!({
            "container_id": format!("{:064x}", guest.number + 1),
            "container_name": guest.name(),
            "port_mappings": [{
                "container_port": PORT, "host_ip": HOST, "host_port": guest.published(), "protocol": "tcp",
                "range": 1
            }],
            "networks": { "bench": { "static_ips": [inside(guest)], "interface_name": "eth0" } },
            "network_info": { "bench": {
                "name": "bench", "id": format!("{:064x}", 0xbe_u32), "driver": "bridge",
                "network_interface": "podman1", "subnets": [{ "subnet": SUBNET, "gateway": GATEWAY }],
                "ipv6_enabled": false, "internal": false, "dns_enabled": false,
                "ipam_options": { "driver": "host-local" }
            } }
        });
        let mut command = self.host.enter(NETAVARK_PROGRAM);
        command.arg("--config").arg(&self.kept).arg(what).arg(format!("/run/netns/{}", guest.name()));
        feed(&mut command, &input).map(|_| ())
    }
}

impl Way for Netavark<'_> {
    fn name(&self) -> &'static str {
        NETAVARK
    }

    fn attach(&mut self, guest: Guest) -> Result<(), String> {
        self.run("setup", guest)
    }

    fn detach(&mut self, guest: Guest) -> Result<(), String> {
        self.run("teardown", guest)
    }
}

/// The address that every guest has here, routed or not: all stand on the bridge.
fn inside(guest: Guest) -> String {
    let number = guest.number + 2;
    format!("10.64.{}.{}", number >> 8, number & 255)
}

/// CNI's reference plugins, run one after the other as a container runtime does.
pub(super) struct Plugins<'a> {
    host: &'a Machine,
    kept: PathBuf,
}

impl<'a> Plugins<'a> {
    pub(super) fn new(sandbox: &Sandbox, host: &'a Machine) -> Self {
        Self { host, kept: sandbox.path("cni") }
    }

    fn plugin(
        &self,
        plugin: &str,
        what: &str,
        guest: Guest,
        before: Option<&Value>,
    ) -> Result<Value, String> {
        let mut input = json!({ "cniVersion": "1.0.0", "name": "bench", "type": plugin });
        match plugin {
            "bridge" => {
                input["bridge"] = json!("cni0");
                input["isGateway"] = json!(true);
                input["ipMasq"] = json!(true);
                input["ipam"] = json!({
                    "type": "host-local", "dataDir": self.kept, "routes": [{ "dst": "0.0.0.0/0" }],
                    "ranges": [[{ "subnet": SUBNET, "gateway": GATEWAY }]]
                });
            }
            "portmap" => {
                input["runtimeConfig"] = json!({ "portMappings": [{
                    "hostPort": guest.published(), "containerPort": PORT, "protocol": "tcp", "hostIP": HOST
                }] });
            }
            _ => {}
        }
        if let Some(before) = before {
            input["prevResult"] = before.clone();
        }
        let mut command = self.host.enter(format!("{CNI}/{plugin}"));
        command
            .env("CNI_COMMAND", what)
            .env("CNI_CONTAINERID", guest.name())
            .env("CNI_NETNS", format!("/run/netns/{}", guest.name()))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", CNI);
        let said = feed(&mut command, &input)?;
        if said.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&said).map_err(|error| format!("{plugin}'s answer: {error}"))
    }

    fn result(&self, guest: Guest) -> PathBuf {
        self.kept.join(format!("{}.result", guest.name()))
    }
}

impl Way for Plugins<'_> {
    fn name(&self) -> &'static str {
        PLUGINS
    }

    fn attach(&mut self, guest: Guest) -> Result<(), String> {
        let mut result = self.plugin("bridge", "ADD", guest, None)?;
        for plugin in ["portmap", "firewall"] {
            result = self.plugin(plugin, "ADD", guest, Some(&result))?;
        }
        // What the runtime keeps for the end.
        let path = self.result(guest);
        fs::write(&path, result.to_string()).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn detach(&mut self, guest: Guest) -> Result<(), String> {
        let path = self.result(guest);
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let result = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        for plugin in ["firewall", "portmap", "bridge"] {
            self.plugin(plugin, "DEL", guest, Some(&result))?;
        }
        Ok(())
    }
}

/// libvirt's filter: its daemon with this driver alone, and `virsh` for each guest. It has no published ports, and the
/// guest's device is there already.
pub(super) struct Nwfilter<'a> {
    host: &'a Machine,
    daemon: Child,
    bindings: PathBuf,
}

/// Who comes in and who a guest is, as libvirt's own examples say it.
const FILTER: &str = "<filter name='bench' chain='root'>
  <filterref filter='clean-traffic'/>
  <rule action='accept' direction='in'><tcp srcipaddr='203.0.113.0' srcipmask='24' dstportstart='80'/></rule>
  <rule action='accept' direction='in'><udp srcipaddr='203.0.113.0' srcipmask='24' dstportstart='80'/></rule>
  <rule action='accept' direction='out'><all/></rule>
  <rule action='drop' direction='inout'><all/></rule>
</filter>
";

impl<'a> Nwfilter<'a> {
    /// Starts it; the error says why it cannot be had here.
    pub(super) fn new(sandbox: &Sandbox, host: &'a Machine) -> Result<Self, String> {
        let library = fs::read_dir("/usr/lib")
            .map_err(|error| format!("/usr/lib: {error}"))?
            .filter_map(|entry| Some(entry.ok()?.path().join(DRIVER)))
            .find(|path| path.exists())
            .ok_or("libvirt's driver nwfilter is not installed")?;
        // Its own directories are outside of /run; in the sandbox, they are in memory, too.
        for directory in ["/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt"] {
            if fs::metadata(directory).is_ok() {
                sandbox.here("mount", &["-t", "tmpfs", "none", directory])?;
            }
        }
        let bindings = sandbox.path("nwfilter");
        let drivers = bindings.join("drivers");
        sandbox.here("cp", &["-r", "/usr/share/libvirt/nwfilter", "/etc/libvirt/"])?;
        fs::create_dir_all(&drivers)
            .and_then(|()| std::os::unix::fs::symlink(&library, drivers.join("libvirt_driver_nwfilter.so")))
            .map_err(|error| format!("{}: {error}", drivers.display()))?;
        let options =
            sandbox.file("libvirtd.conf", "unix_sock_group = \"root\"\nauth_unix_rw = \"none\"\n")?;
        let log = sandbox.path("libvirtd.log");
        let to = fs::File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let daemon = host
            .enter(LIBVIRTD)
            .arg("--config")
            .arg(&options)
            .arg("--pid-file")
            .arg(sandbox.path("libvirtd.pid"))
            // Without the others it needs no bus, no QEMU and no users of theirs.
            .env("LIBVIRT_DRIVER_DIR", &drivers)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(to)
            .spawn()
            .map_err(|error| format!("{LIBVIRTD}: {error}"))?;
        let mut way = Self { host, daemon, bindings };
        let start = Instant::now();
        loop {
            match way.virsh(&["nwfilter-list"]) {
                Ok(()) => break,
                Err(_) if start.elapsed() < Duration::from_secs(10) && way.runs() => {
                    thread::sleep(Duration::from_millis(100));
                }
                Err(error) => {
                    let log = fs::read_to_string(&log).unwrap_or_default();
                    return Err(format!("{error}; {}", log.lines().last().unwrap_or_default()));
                }
            }
        }
        let filter = sandbox.file("nwfilter.xml", FILTER)?;
        way.virsh(&["nwfilter-define", &filter.display().to_string()])?;
        Ok(way)
    }

    fn runs(&mut self) -> bool {
        matches!(self.daemon.try_wait(), Ok(None))
    }

    fn virsh(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command = self.host.enter("virsh");
        output(command.args(["-q", "-c", "nwfilter:///system"]).args(arguments)).map(|_| ())
    }

    fn device(guest: Guest) -> String {
        format!("vnet{}", guest.number)
    }
}

impl Way for Nwfilter<'_> {
    fn name(&self) -> &'static str {
        NWFILTER
    }

    fn prepare(&mut self, guest: Guest) -> Result<(), String> {
        let device = Self::device(guest);
        let exists = self.host.run(&format!("ip link show {device}"));
        if exists.is_err() {
            let name = guest.name();
            self.host.run(&format!("ip link add {device} type veth peer name eth0 netns {name}"))?;
            self.host.run(&format!("ip link set {device} up addrgenmode none"))?;
        }
        let number = guest.number;
        let text = format!(
            "<filterbinding>\n  <owner><name>{name}</name>\
             <uuid>d54df46f-1ab5-4a22-8618-{number:012x}</uuid></owner>\n  <portdev name='{device}'/>\n  \
             <mac address='52:54:00:00:{high:02x}:{low:02x}'/>\n  <filterref filter='bench'>\
             <parameter name='IP' value='{address}'/></filterref>\n</filterbinding>\n",
            name = guest.name(),
            high = number >> 8,
            low = number & 255,
            address = inside(guest),
        );
        let path = self.bindings.join(format!("{}.xml", guest.name()));
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn attach(&mut self, guest: Guest) -> Result<(), String> {
        let path = self.bindings.join(format!("{}.xml", guest.name()));
        self.virsh(&["nwfilter-binding-create", &path.display().to_string()])
    }

    fn detach(&mut self, guest: Guest) -> Result<(), String> {
        self.virsh(&["nwfilter-binding-delete", &Self::device(guest)])
    }
}

impl Drop for Nwfilter<'_> {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
