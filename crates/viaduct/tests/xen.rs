//! Xen's domains as guests: our script beside Xen's own ones, called as its toolstack calls them. The invocations are those
//! of libxl 4.17 (tools/libs/light/libxl_linux.c, `get_hotplug_env` and `libxl__hotplug_nic`); the store is a directory,
//! and a domain a namespace with the other end of its interface.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::mount::mount_bind;
use support::{CONFIG, RUN, STATE, World, host};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../integrations/xen/vif-viaduct");

const FILE: &str = r#"
[host]
name = "dom0"

[uplinks.wan]
interface = "eth0"

[networks.public]
mode = "routed"
uplink = "wan"
pool = ["198.51.100.112/29", "2001:db8:48:1::/64"]
mtu = 1400

[networks.backend]
mode = "isolated"
subnets = ["10.1.0.0/24"]

[guests.shop]
id = 100
[[guests.shop.nics]]
network = "public"
addresses = ["198.51.100.112", "2001:db8:48:1::112"]
[[guests.shop.nics]]
network = "backend"
addresses = ["10.1.0.5"]
"#;

/// A store in a directory: a key is a file, and what is written is noted in its order. A key that does not begin with a
/// slash is the host's own.
const READ: &str = "#!/bin/sh\nfor key; do\n    case $key in /*) ;; *) key=/local/domain/0/$key ;; esac\n    \
                    cat \"/run/store$key/value\" 2>/dev/null || exit 1\ndone\n";
const WRITE: &str = "#!/bin/sh\nwhile [ $# -gt 0 ]; do\n    key=$1\n    \
                     case $key in /*) ;; *) key=/local/domain/0/$key ;; esac\n    mkdir -p \"/run/store$key\"\n    \
                     echo \"$2\" >\"/run/store$key/value\"\n    echo \"$1 = $2\" >>/run/written\n    shift 2\ndone\n";

/// Xen's own scripts, which ours stands on. Where they come from, the host of a test cannot reach.
fn scripts() -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("xen");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/unpack.sh");
    let done = Command::new(script).arg(&root).arg("xen-utils-common").output().unwrap();
    assert!(done.status.success(), "{done:?}");
    root.join("etc/xen/scripts")
}

struct Xen<'a>(&'a World);

impl<'a> Xen<'a> {
    fn new(world: &'a World, scripts: &Path) -> Self {
        world.sh("ip -n outside address add 203.0.113.1/24 dev eth0");
        world.sh("ip -n outside address add 2001:db8:28::1/64 dev eth0 nodad");
        world.sh("ip -n outside route add 198.51.100.112/29 via 203.0.113.2");
        world.sh("ip -n outside route add 2001:db8:48:1::/64 via 2001:db8:28::2");
        world.write(CONFIG, FILE);
        world.good("apply");
        world.sh(&format!(
            "cp -r {} /run/scripts && install -m 755 {SCRIPT} /run/scripts/",
            scripts.display()
        ));
        // They log to a file under /var/log; here, one that goes with the test.
        fs::create_dir_all("/run/log/xen").unwrap();
        mount_bind("/run/log", "/var/log").unwrap();
        let own = format!("--config {CONFIG} --state-dir {STATE} --run-dir {RUN}");
        let programs = [
            ("viaduct", format!("#!/bin/sh\nexec /run/bin/viaduct {own} \"$@\"\n")),
            ("xenstore-read", READ.to_owned()),
            ("xenstore-write", WRITE.to_owned()),
            ("logger", "#!/bin/sh\necho \"$*\" >>/run/logged\n".to_owned()),
        ];
        for (name, text) in programs {
            world.write(&format!("/run/programs/{name}"), text);
            world.sh(&format!("chmod 755 /run/programs/{name}"));
            // Xen's scripts look in the system's places first.
            for place in ["/usr/bin", "/usr/sbin", "/bin", "/sbin"] {
                let there = Path::new(place).join(name);
                if there.exists() {
                    mount_bind(format!("/run/programs/{name}"), there).unwrap();
                }
            }
        }
        Self(world)
    }

    fn store(&self, keys: &[(&str, &str)]) {
        for (key, value) in keys {
            let own = if key.starts_with('/') { "" } else { "/local/domain/0/" };
            self.0.write(&format!("/run/store{own}{key}/value"), format!("{value}\n"));
        }
    }

    /// What the toolstack writes of a domain's interface before it calls the script, and what the kernel makes.
    fn domain(&self, domain: u32, name: &str, number: u32, mac: &str) {
        let backend = format!("backend/vif/{domain}/{number}");
        self.store(&[
            (&format!("/local/domain/{domain}/name"), name),
            (&format!("{backend}/frontend-id"), &domain.to_string()),
            (&format!("{backend}/handle"), &number.to_string()),
            (&format!("{backend}/mac"), mac),
            (&format!("{backend}/script"), "/etc/xen/scripts/vif-viaduct"),
            (&format!("{backend}/type"), "vif"),
        ]);
        let (dev, inside) = (format!("vif{domain}.{number}"), format!("dom{domain}"));
        self.0.sh(&format!(
            "ip netns add {inside} 2>/dev/null; ip link add {dev} address fe:ff:ff:ff:ff:ff type veth \
             peer name eth{number} address {mac} netns {inside} && ip -n {inside} link set eth{number} up"
        ));
    }

    /// Calls the script as the toolstack does; whether it succeeded.
    fn call(&self, domain: u32, number: u32, command: &str, kind: &str) -> bool {
        let done = Command::new("/run/scripts/vif-viaduct")
            .args([command, &format!("type_if={kind}")])
            .env_clear()
            .env("PATH", "/run/programs:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("script", "/etc/xen/scripts/vif-viaduct")
            .env("XENBUS_TYPE", "vif")
            .env("XENBUS_PATH", format!("backend/vif/{domain}/{number}"))
            .env("XENBUS_BASE_PATH", "backend")
            .env("netdev", "")
            .env("vif", format!("vif{domain}.{number}"))
            .envs((kind == "tap").then(|| ("INTERFACE", format!("vif{domain}.{number}-emu"))))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        done.status.success()
    }

    /// What was written into the store since this was asked last.
    fn written(&self) -> String {
        let written = fs::read_to_string("/run/written").unwrap_or_default();
        let _ = fs::remove_file("/run/written");
        written
    }

    fn device(&self, nic: usize) -> Option<String> {
        let status = self.0.good("status --json").json();
        status["guests"]["shop"]["nics"][nic]["device"].as_str().map(str::to_owned)
    }
}

#[test]
fn a_domain_is_attached_when_it_comes_online_and_detached_when_it_goes() {
    let scripts = scripts();
    host(move |world| {
        let xen = Xen::new(world, &scripts);
        xen.domain(7, "shop", 0, "02:00:00:00:64:00");
        xen.domain(7, "shop", 1, "02:00:00:00:64:01");
        for (number, mtu) in [(0, 1400), (1, 1500)] {
            assert!(xen.call(7, number, "online", "vif"), "{}", xen.written());
            let expected = format!(
                "/local/domain/7/device/vif/{number}/mtu = {mtu}\nbackend/vif/7/{number}/hotplug-status = connected\n"
            );
            assert_eq!(xen.written(), expected);
        }
        assert_eq!([0, 1].map(|nic| xen.device(nic).unwrap()), ["vif7.0", "vif7.1"]);
        for line in [
            "ip -n dom7 address add 198.51.100.112/32 dev eth0",
            "ip -n dom7 route add default via 169.254.1.1 dev eth0 onlink",
            "ip -n dom7 address add 2001:db8:48:1::112/128 dev eth0 nodad",
            "ip -n dom7 -6 route add default via fe80::1 dev eth0",
            "ip netns exec outside ping -c1 -W5 198.51.100.112",
            "ip netns exec outside ping -c1 -W5 2001:db8:48:1::112",
        ] {
            world.sh(line);
        }
        // A domain that takes another address is heard by nobody.
        world.sh("ip -n dom7 address add 198.51.100.113/32 dev eth0");
        let forged = "ip netns exec dom7 ping -c1 -W1 -I 198.51.100.113 203.0.113.1 >/dev/null && echo heard || echo not";
        assert_eq!(world.sh(forged), "not\n");
        // Once more does no harm.
        assert!(xen.call(7, 0, "online", "vif"));
        xen.written();

        // Its name goes before its devices.
        fs::remove_dir_all("/run/store/local/domain/7/name").unwrap();
        for number in [0, 1, 1] {
            assert!(xen.call(7, number, "offline", "vif"));
            assert_eq!(xen.written(), "");
        }
        assert_eq!([0, 1].map(|nic| xen.device(nic)), [None, None]);
        assert!(!world.sh("ip -details link show vif7.1").contains("bridge_slave"));
    });
}

#[test]
fn a_domain_that_comes_from_another_host_is_the_guest_without_what_xl_adds_to_its_name() {
    let scripts = scripts();
    host(move |world| {
        let xen = Xen::new(world, &scripts);
        xen.domain(9, "shop--incoming", 0, "02:00:00:00:64:00");
        assert!(xen.call(9, 0, "online", "vif"), "{}", xen.written());
        assert_eq!(xen.device(0).unwrap(), "vif9.0");
        // It has its own name as soon as it runs.
        xen.store(&[("/local/domain/9/name", "shop")]);
        assert!(xen.call(9, 0, "offline", "vif"));
        assert_eq!(xen.device(0), None);
        xen.written();
        // What is told to be written is the guest's.
        xen.domain(10, "shop--incoming", 0, "00:16:3e:00:00:28");
        assert!(!xen.call(10, 0, "online", "vif"));
        assert!(xen.written().contains("[[guests.shop.nics]]"));
    });
}

#[test]
fn what_vif_names_and_emulated_cards_are_is_as_with_the_other_scripts() {
    let scripts = scripts();
    host(move |world| {
        let xen = Xen::new(world, &scripts);
        xen.domain(8, "shop", 0, "02:00:00:00:64:00");
        xen.store(&[
            ("backend/vif/8/0/vifname", "shop-public"),
            ("backend/vif/8/0/ip", "198.51.100.112 192.0.2.9"),
            ("backend/vif/8/0/mac", "02:00:00:00:64:00"),
        ]);
        // What an administrator hooks to every script is run by ours, too.
        world.write("/run/vif-post/note.hook", "echo \"$command $dev\" >>/run/hooked\n");
        world.sh("chmod 755 /run/vif-post/note.hook; sed -i s,/etc/xen/scripts/,/run/, /run/scripts/xen-hotplug-common.sh; \
                  mv /run/vif-post /run/vif-post.d");
        assert!(xen.call(8, 0, "online", "vif"), "{}", xen.written());
        assert_eq!(xen.device(0).unwrap(), "shop-public");
        let logged = world.read("/run/logged");
        assert!(logged.contains("192.0.2.9 of the domain's vif is no address of shop.0"), "{logged}");
        assert!(!logged.contains("198.51.100.112 of the domain"), "{logged}");
        xen.written();
        // An emulated card comes and goes beside it.
        world.sh("ip tuntap add vif8.0-emu mode tap");
        for command in ["add", "remove"] {
            assert!(xen.call(8, 0, command, "tap"), "{}", xen.written());
            assert_eq!(xen.written(), "");
            world.sh("ip link show shop-public-emu");
        }
        assert_eq!(xen.device(0).unwrap(), "shop-public");
        assert!(xen.call(8, 0, "offline", "vif"));
        assert_eq!(xen.device(0), None);
        assert_eq!(world.read("/run/hooked"), "online shop-public\noffline shop-public\n");
    });
}

#[test]
fn what_cannot_be_attached_is_told_to_the_toolstack() {
    let scripts = scripts();
    host(move |world| {
        let xen = Xen::new(world, &scripts);
        let refused = |domain: u32, words: &[&str]| {
            assert!(!xen.call(domain, 0, "online", "vif"));
            let written = xen.written();
            assert!(
                written.contains(&format!("backend/vif/{domain}/0/hotplug-status = error\n")),
                "{written}"
            );
            let error = written.lines().next().unwrap();
            assert!(error.starts_with(&format!("backend/vif/{domain}/0/hotplug-error = ")), "{written}");
            for word in words {
                assert!(error.contains(word), "nothing about {word}: {error}");
            }
        };
        xen.domain(3, "stranger", 0, "02:00:00:00:64:00");
        refused(3, &["stranger"]);
        xen.domain(4, "-x; reboot", 0, "02:00:00:00:64:00");
        refused(4, &["reboot"]);
        // Its frames would all be dropped.
        xen.domain(5, "shop", 0, "00:16:3e:00:00:28");
        refused(5, &["00:16:3e:00:00:28", "02:00:00:00:64:00", "viaduct apply"]);
        assert_eq!(xen.device(0), None);
        xen.domain(6, "shop", 0, "02:00:00:00:64:00");
        fs::remove_dir_all("/run/store/local/domain/6").unwrap();
        refused(6, &["no name of domain 6"]);
        world.settled();
    });
}
