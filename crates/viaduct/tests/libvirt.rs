//! libvirt's domains as guests: its own daemon, unmodified, starts and ends a virtual machine, and our hook attaches and
//! detaches it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::{
    mount::mount_bind,
    process::{Pid, Signal, kill_process},
};
use support::{CONFIG, RUN, STATE, World, host};
use viaduct_vm::{Image, Kernel};

const HOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../integrations/libvirt/viaduct");

const FILE: &str = r#"
[host]
name = "ve0"

[uplinks.wan]
interface = "eth0"

[networks.public]
mode = "routed"
uplink = "wan"
pool = ["198.51.100.112/29", "2001:db8:48:1::/64"]
dhcp = true

[guests.shop]
[[guests.shop.nics]]
network = "public"
addresses = ["198.51.100.112", "2001:db8:48:1::112"]
[[guests.shop.nics]]
network = "public"
addresses = ["198.51.100.113"]
"#;

/// A machine that asks for its address and serves by it, without being told anything.
const INIT: &str = r#"#!/bin/sh
/bin/busybox mkdir -p /sbin
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "$module"; done </etc/modules
ip link set lo up
ip link set eth0 up
mkdir /srv
echo "the shop" >/srv/index.html
httpd -h /srv
nc -ll -p 777 -e cat &
exec udhcpc -f -i eth0 -T 1 -t 60 -O staticroutes -O mtu
"#;

/// The host, and libvirt's places replaced by its own.
fn prepare(world: &World) {
    world.sh("ip -n outside address add 203.0.113.1/24 dev eth0");
    world.sh("ip -n outside route add 198.51.100.112/29 via 203.0.113.2");
    world.write(CONFIG, FILE);
    world.good("apply");
    // In the test's own namespace of mounts, nobody else sees this.
    world.own_place("/etc");
    for place in ["/var/lib", "/var/log", "/var/cache"] {
        let own = format!("/run/own-{}", place.rsplit('/').next().unwrap());
        fs::create_dir_all(&own).unwrap();
        mount_bind(own, place).unwrap();
    }
    // Debian's default, which has to be somebody also where another user is set.
    world.sh("echo libvirt-qemu:x:64055:64055::/:/bin/false >>/etc/passwd; echo libvirt-qemu:x:64055: >>/etc/group");
    // What the hook calls is told where this host's things are.
    world.write(
        "/run/hook/viaduct",
        format!(
            "#!/bin/sh\nexec /run/bin/viaduct --config {CONFIG} --state-dir {STATE} --run-dir {RUN} \"$@\"\n"
        ),
    );
    world.sh("chmod 755 /run/hook/viaduct");
    world.sh(&format!("install -D -m 755 {HOOK} /etc/libvirt/hooks/qemu.d/viaduct"));
}

/// A libvirt daemon; it ends with the test.
struct Libvirt(Child);

impl Libvirt {
    fn start(world: &World) -> Self {
        world.write("/etc/libvirt/libvirtd.conf", "auth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\n");
        world.write("/etc/libvirt/qemu.conf", include_str!("migration/qemu.conf"));
        let log = fs::File::create("/run/libvirtd.log").unwrap();
        let path = format!("/run/hook:{}", std::env::var("PATH").unwrap());
        let daemon = Command::new("/usr/sbin/libvirtd")
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("libvirtd of the package libvirt-daemon");
        let libvirt = Self(daemon);
        world.soon("libvirt answers", || libvirt.virsh("version").0);
        libvirt
    }

    /// Whether it succeeded, and what it said.
    fn virsh(&self, line: &str) -> (bool, String) {
        let output =
            Command::new("virsh").args(["-c", "qemu:///system"]).args(line.split(' ')).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    #[track_caller]
    fn good(&self, line: &str) -> String {
        let (good, said) = self.virsh(line);
        assert!(good, "virsh {line}: {said}\n{}", fs::read_to_string("/run/libvirtd.log").unwrap());
        said
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

fn domain(name: &str, interfaces: &str) -> String {
    format!(
        "<domain type='qemu'>\n  <name>{name}</name>\n  <memory unit='MiB'>128</memory>\n  <vcpu>1</vcpu>\n  \
         <os>\n    <type arch='x86_64' machine='pc'>hvm</type>\n    <kernel>/run/vmlinuz</kernel>\n    \
         <initrd>/run/initramfs</initrd>\n    <cmdline>console=ttyS0 quiet panic=-1 rdinit=/init</cmdline>\n  </os>\n  \
         <features><acpi/></features>\n  <devices>\n    <emulator>/usr/bin/qemu-system-x86_64</emulator>\n\
         {interfaces}\n    <serial type='file'><source path='/run/console'/></serial>\n    \
         <memballoon model='none'/>\n  </devices>\n</domain>\n"
    )
}

#[test]
fn a_domain_is_attached_when_it_starts_and_detached_when_it_ends() {
    // Where this comes from, the host of the test cannot reach.
    let kernel = Kernel::debian().unwrap();
    host(move |world| {
        prepare(world);
        machine(&kernel, Path::new("/run"));

        // What `attach` says is what the domain is given.
        let attached = world.good("attach shop --tap --json").json();
        let interface = attached["libvirt"].as_str().unwrap().to_owned();
        let tap = attached["device"].as_str().unwrap().to_owned();
        world.good("detach shop");
        world.write("/run/shop.xml", domain("shop", &interface));
        world.write("/run/stranger.xml", domain("stranger", &interface.replace(&tap, "vnet-other")));

        let _daemon = world.daemon();
        let libvirt = Libvirt::start(world);
        libvirt.good("define /run/shop.xml");
        libvirt.good("start shop");
        let is_attached =
            || !world.good("status --json").json()["guests"]["shop"]["nics"][0]["attachment"].is_null();
        assert!(is_attached());
        let fetch = "ip netns exec outside python3 -c 'import urllib.request as r; \
                     print(r.urlopen(\"http://198.51.100.112/\", timeout=2).read().decode())' 2>&1 || true";
        let begin = std::time::Instant::now();
        while !world.sh(fetch).contains("the shop") {
            let console = fs::read_to_string("/run/console").unwrap_or_default();
            assert!(begin.elapsed().as_secs() < 120, "{console}\n{}\n{}", world.log(), world.sh(fetch));
        }

        // Restarted by its user, it is attached again; in between it is not.
        libvirt.good("destroy shop");
        world.soon("it is detached", || !is_attached());
        assert!(!world.sh("ip link").contains(&tap));
        libvirt.good("start shop");
        assert!(is_attached());
        libvirt.good("destroy shop");

        // What cannot be attached does not start, and why is told.
        world.sh(&format!("ip link add {tap} type bridge"));
        let (good, said) = libvirt.virsh("start shop");
        assert!(!good && said.contains("hook"), "{said}");
        assert!(said.contains(&tap), "{said}");
        world.sh(&format!("ip link del {tap}"));

        // Who is no guest of ours is libvirt's own business.
        world.sh("ip tuntap add vnet-other mode tap vnet_hdr");
        libvirt.good("define /run/stranger.xml");
        libvirt.good("start stranger");
        libvirt.good("destroy stranger");
        world.sh("ip link show dev vnet-other");
    });
}

/// The kernel and the files of such a machine, in a directory.
fn machine(kernel: &Kernel, directory: &Path) {
    let mut image = Image::new(kernel).unwrap();
    image.modules(&["virtio_net", "af_packet"]).unwrap();
    image.text("/init", INIT, 0o755);
    image.write(&directory.join("initramfs")).unwrap();
    fs::copy(kernel.image(), directory.join("vmlinuz")).unwrap();
}

#[test]
fn a_domain_goes_to_another_host_while_it_runs_and_is_served_where_it_is() {
    let place = tempfile::tempdir().unwrap();
    let lab = place.path().join("migration");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for directory in [&lab, &place.path().join("shared")] {
        fs::create_dir(directory).unwrap();
    }
    for entry in fs::read_dir(tests.join("migration")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, lab.join(path.file_name().unwrap())).unwrap();
    }
    fs::copy(tests.join("labs/stream.py"), lab.join("stream.py")).unwrap();
    fs::copy(HOOK, lab.join("hook")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_viaduct"), lab.join("viaduct")).unwrap();
    machine(&Kernel::debian().unwrap(), &lab);
    let output = Command::new(env!("CARGO_BIN_EXE_viaduct")).args(["lab", "run"]).arg(&lab).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}\n{}", output.status, String::from_utf8_lossy(&said));
}

/// Gives the hook libvirt's arguments, and a domain on its standard input.
fn hook(domain: &str, operation: &str, when: &str, xml: &str) -> (i32, String) {
    let mut child = Command::new(HOOK)
        .args([domain, operation, when, "-"])
        .env("PATH", format!("/run/hook:{}", std::env::var("PATH").unwrap()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It need not read what it has no use for.
    let _ = child.stdin.take().unwrap().write_all(xml.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.stdout.is_empty(), "libvirt takes what a hook says for a domain: {output:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn the_hook_takes_a_domains_interfaces_in_their_order() {
    host(|world| {
        prepare(world);
        let of = |tap: &str| {
            format!(
                "    <interface type='ethernet'>\n      <mac address='02:00:00:00:01:00'/>\n      \
                 <target dev='{tap}' managed='no'/>\n      <model type='virtio'/>\n    </interface>\n"
            )
        };
        let foreign = "    <interface type='bridge'>\n      <source bridge='virbr0'/>\n      \
                       <target dev='vnet0'/>\n    </interface>\n    <interface type='ethernet'>\n      \
                       <target dev='vnet1'/>\n    </interface>\n";
        let xml = domain("shop", &format!("{}{foreign}{}", of("tap-one"), of("tap-two")));
        let nics = || {
            let status = world.good("status --json").json();
            [0, 1].map(|n| status["guests"]["shop"]["nics"][n]["device"].as_str().map(str::to_owned))
        };
        for operation in ["start", "started", "stopped", "reconnect", "migrate", "restore", "attach"] {
            assert_eq!(hook("shop", operation, "begin", &xml), (0, String::new()));
        }
        assert!(!world.sh("ip link").contains("tap-"));

        let (status, said) = hook("shop", "prepare", "begin", &xml);
        assert_eq!(status, 0, "{said}");
        assert_eq!(nics(), ["tap-one", "tap-two"].map(|tap| Some(tap.to_owned())));
        // Once more does no harm, and so does an end after an end.
        assert_eq!(hook("shop", "prepare", "begin", &xml).0, 0);
        for _ in 0..2 {
            assert_eq!(hook("shop", "release", "end", &xml).0, 0);
            assert!(!world.sh("ip link").contains("tap-"));
        }
        // No guests: by the file, and by their names.
        for name in ["stranger", "a b", "-x", "sh;op", "$(reboot)"] {
            let (status, said) = hook(name, "prepare", "begin", &domain("x", &of("tap-three")));
            assert_eq!(status, 0, "{name}: {said}");
        }
        assert!(!world.sh("ip link").contains("tap-"));
    });
}
