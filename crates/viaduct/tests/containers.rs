//! LXC's containers as guests: its own program, unmodified, starts and ends a container, and our hook attaches and detaches
//! it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::mount::{MountFlags, mount};
use support::{CONFIG, RUN, STATE, World, host};

const INTEGRATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../integrations");

const FILE: &str = r#"
[host]
name = "ve0"

[uplinks.wan]
interface = "eth0"

[networks.public]
mode = "routed"
uplink = "wan"
pool = ["198.51.100.112/29", "2001:db8:48:1::/64"]

[networks.backend]
mode = "isolated"
subnets = ["10.1.0.0/24"]

[guests."shop.example"]
[[guests."shop.example".nics]]
network = "public"
addresses = ["198.51.100.112", "2001:db8:48:1::112"]
[[guests."shop.example".nics]]
network = "backend"
addresses = ["10.1.0.5"]

[namespaces.dmz]
[[namespaces.dmz.interfaces]]
name = "mac0"
type = "macvlan"
parent = "wan"
addresses = ["203.0.113.9/24"]

[guests.mail]
namespace = "dmz"
"#;

/// What its first process does: it notes what it finds at once, and serves.
const INIT: &str = "#!/bin/sh\nip -o address >/seen\necho the shop >/srv/index.html\nexec httpd -f -h /srv\n";

/// LXC's programs, which nobody has to install. Where they come from, the host of a test cannot reach.
fn lxc() -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lxc");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/unpack.sh");
    let packages = ["lxc", "liblxc1", "liblxc-common", "busybox-static"];
    let done = Command::new(script).arg(&root).args(packages).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    root
}

struct Lxc<'a> {
    world: &'a World,
    root: PathBuf,
}

/// A container that runs; it ends with the test, for LXC has its containers end with the process that started them.
struct Container(Child);

impl<'a> Lxc<'a> {
    fn new(world: &'a World, root: PathBuf) -> Self {
        world.sh("ip -n outside address add 203.0.113.1/24 dev eth0");
        world.sh("ip -n outside address add 2001:db8:28::1/64 dev eth0 nodad");
        world.sh("ip -n outside route add 198.51.100.112/29 via 203.0.113.2");
        world.sh("ip -n outside route add 2001:db8:48:1::/64 via 2001:db8:28::2");
        world.write(CONFIG, FILE);
        world.good("apply");
        // It does without control groups, of which this machine may have some that others use.
        mount("tmpfs", "/sys/fs/cgroup", "tmpfs", MountFlags::empty(), None).unwrap();
        world.sh(&format!("install -D -t /run/hook -m 755 {INTEGRATIONS}/guest"));
        world.sh(&format!("install -m 755 {INTEGRATIONS}/lxc/hook /run/hook/lxc-hook"));
        let own = format!("--config {CONFIG} --state-dir {STATE} --run-dir {RUN}");
        world.write("/run/hook/viaduct", format!("#!/bin/sh\nexec /run/bin/viaduct {own} \"$@\"\n"));
        world.sh("chmod 755 /run/hook/viaduct");
        let include = fs::read_to_string(format!("{INTEGRATIONS}/lxc/viaduct.conf")).unwrap();
        world.write("/run/hook/lxc.conf", include.replace("/usr/lib/viaduct/", "/run/hook/"));
        Self { world, root }
    }

    /// A container of that name, with further lines for its configuration.
    fn make(&self, name: &str, further: &str) {
        let place = format!("/run/lxc/{name}");
        for directory in ["bin", "proc", "sys", "dev", "srv", "tmp"] {
            fs::create_dir_all(format!("{place}/rootfs/{directory}")).unwrap();
        }
        fs::create_dir(format!("{place}/mount")).unwrap();
        fs::copy(self.root.join("bin/busybox"), format!("{place}/rootfs/bin/busybox")).unwrap();
        for applet in ["sh", "ip", "httpd"] {
            symlink("busybox", format!("{place}/rootfs/bin/{applet}")).unwrap();
        }
        let init = format!("{place}/rootfs/bin/begin");
        self.world.write(&init, INIT);
        fs::set_permissions(init, fs::Permissions::from_mode(0o755)).unwrap();
        let config = format!(
            "lxc.uts.name = {name}\nlxc.rootfs.path = dir:{place}/rootfs\nlxc.rootfs.mount = {place}/mount\n\
             lxc.init.cmd = /bin/begin\nlxc.apparmor.profile = unconfined\nlxc.mount.auto = proc:rw\n\
             lxc.environment = PATH=/bin\nlxc.include = /run/hook/lxc.conf\n{further}\n"
        );
        self.world.write(&format!("{place}/config"), config);
    }

    fn command(&self, program: &str, name: &str) -> Command {
        let mut command = Command::new(self.root.join("usr/bin").join(program));
        command
            .args(["--lxcpath", "/run/lxc", "--name", name])
            .env("LD_LIBRARY_PATH", self.root.join("usr/lib/x86_64-linux-gnu"))
            .env("PATH", format!("/run/hook:{}", std::env::var("PATH").unwrap()))
            .stdin(Stdio::null());
        command
    }

    /// Starts one as its unit does, in the foreground.
    fn start(&self, name: &str) -> Container {
        let mut command = self.command("lxc-start", name);
        command.args(["--foreground", "--logpriority", "DEBUG", "--logfile"]).arg(log_of(name));
        Container(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn stop(&self, name: &str, mut container: Container) {
        let stopped = self.command("lxc-stop", name).arg("--kill").output().unwrap();
        assert!(stopped.status.success(), "{stopped:?}");
        container.0.wait().unwrap();
    }

    /// Starts one that must not come up; what LXC says of it.
    fn refused(&self, name: &str) -> String {
        let mut container = self.start(name);
        assert!(!container.0.wait().unwrap().success(), "{name} was started");
        let log = self.world.read(log_of(name));
        assert!(!Path::new(&format!("/run/lxc/{name}/rootfs/seen")).exists(), "its first process ran: {log}");
        log
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn log_of(name: &str) -> String {
    format!("/run/{name}.log")
}

fn attached(world: &World, guest: &str) -> Vec<bool> {
    let status = world.good("status --json").json();
    let nics = status["guests"][guest]["nics"].as_array().unwrap().clone();
    nics.iter().map(|nic| !nic["attachment"].is_null()).collect()
}

const FETCH: &str = "ip netns exec outside python3 -c 'import urllib.request as r; import sys; \
                     print(r.urlopen(sys.argv[1], timeout=2).read().decode())' ";

#[test]
fn a_container_is_attached_before_its_first_process_starts_and_detached_when_it_has_ended() {
    let root = lxc();
    host(move |world| {
        let lxc = Lxc::new(world, root);
        let daemon = world.daemon();
        let name = "shop.example";
        lxc.make(name, "");
        let container = lxc.start(name);
        world.soon("it serves", || {
            world.sh(&format!("{FETCH} http://198.51.100.112/ || true")).contains("the shop")
        });
        assert!(world.sh(&format!("{FETCH} 'http://[2001:db8:48:1::112]/'")).contains("the shop"));
        // All of it was there at once.
        let seen = world.read("/run/lxc/shop.example/rootfs/seen");
        for there in ["198.51.100.112/32", "2001:db8:48:1::112/128", "10.1.0.5/24"] {
            assert!(seen.contains(there), "{there} came late: {seen}");
        }
        assert_eq!(attached(world, name), [true, true]);
        lxc.stop(name, container);
        world.soon("it is detached", || attached(world, name) == [false, false]);
        assert!(!world.sh("ip link").contains("shop"));
        // Once more, as another process.
        fs::remove_file("/run/lxc/shop.example/rootfs/seen").unwrap();
        let container = lxc.start(name);
        world.soon("it serves again", || {
            world.sh(&format!("{FETCH} http://198.51.100.112/ || true")).contains("the shop")
        });
        lxc.stop(name, container);
        daemon.end();
    });
}

#[test]
fn a_container_that_cannot_be_attached_does_not_start_and_why_is_told() {
    let root = lxc();
    host(move |world| {
        let lxc = Lxc::new(world, root);
        // No guest, by the file and by its name.
        for name in ["stranger", "shop$example", "shop-example"] {
            lxc.make(name, "");
            let said = lxc.refused(name);
            assert!(said.contains("is no guest with a NIC"), "{said}");
        }
        // Its second NIC has a device's name.
        let device = world.good("status --json").json();
        assert!(device["guests"]["shop.example"]["nics"][1]["attachment"].is_null());
        lxc.make("shop.example", "");
        let taken =
            world.good("attach shop.example.1 --tap --json").json()["device"].as_str().unwrap().to_owned();
        world.good("detach shop.example.1");
        world.sh(&format!("ip link add {taken} type bridge"));
        let said = lxc.refused("shop.example");
        assert!(said.contains(&taken) && said.contains("not Viaduct's"), "{said}");
        assert_eq!(attached(world, "shop.example"), [false, false]);
        world.sh(&format!("ip link del {taken}"));
        world.settled();
    });
}

#[test]
fn a_container_in_a_shared_namespace_finds_it_and_no_other() {
    let root = lxc();
    host(move |world| {
        let lxc = Lxc::new(world, root);
        lxc.make("mail", "lxc.net =\nlxc.namespace.share.net = /run/netns/dmz");
        let container = lxc.start("mail");
        world.soon("it serves", || {
            world.sh(&format!("{FETCH} http://203.0.113.9/ || true")).contains("the shop")
        });
        assert!(world.read("/run/lxc/mail/rootfs/seen").contains("203.0.113.9/24"));
        lxc.stop("mail", container);
        // The namespace outlives it.
        world.sh("ip netns exec outside ping -c1 -W5 203.0.113.9");
        world.sh("sed -i '/share.net/d' /run/lxc/mail/config; rm /run/lxc/mail/rootfs/seen");
        let said = lxc.refused("mail");
        assert!(said.contains("lives in the shared namespace dmz"), "{said}");
    });
}
