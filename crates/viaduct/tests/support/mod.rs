//! A host for a test: a network namespace and a mount namespace of its own thread, which go with the thread, whatever
//! becomes of the test. Everything that is written lies under a private /run.
#![allow(dead_code, clippy::unwrap_used, reason = "each test program uses its part; a test may panic")]

pub(crate) mod doctor;
mod packets;
pub(crate) mod zones;

use std::{
    ffi::OsStr,
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change},
    process::{Pid, Signal, kill_process},
    thread::UnshareFlags,
};
use serde_json::Value;

/// Nobody's user and group.
const NOBODY: u32 = 65534;

pub(crate) const CONFIG: &str = "/run/etc/viaduct.toml";
pub(crate) const STATE: &str = "/run/state";
pub(crate) const RUN: &str = "/run/viaduct";
const LOG: &str = "/run/daemon.log";
const BINARY: &str = "/run/bin/viaduct";

/// Two kinds of networks, four guests.
pub(crate) const GOOD: &str = r#"# the host
[host]
name = "ve0"

[uplinks.wan]
interface = "eth0"

[networks.services] # behind one address
mode = "nat"
uplink = "wan"
subnets = ["192.168.1.0/24", "fd00:1::/64"]

[networks.public]
mode = "routed"
uplink = "wan"
pool = ["203.0.113.100/31", "2001:db8:28:1::/64"]
proxy = true

[guests.ldap]
publish = ["203.0.113.2:389:389/tcp"] # the directory
[[guests.ldap.nics]]
network = "services"
addresses = [
  "192.168.1.3", # as ever
]

[guests.web]
[[guests.web.nics]]
network = "services"
addresses = ["192.168.1.4", "fd00:1::4"]

[guests.deb6]
id = 100
[[guests.deb6.nics]]
network = "public"
addresses = ["203.0.113.100", "2001:db8:28:1::100"]

[guests.spare]
[[guests.spare.nics]]
network = "services"
"#;

/// A command as a shell starts it that holds a lock, which whoever inherits it holds, too.
pub(crate) fn with_lock(path: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("exec 9>{path}; flock --nonblock 9 && exec \"$@\""), "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// Does the test on a thread with a host of its own.
pub(crate) fn host(test: impl FnOnce(&World) + Send + 'static) {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        let world = World::new();
        // Kept open: as soon as it is gone, another test's host may have its number.
        sender.send((fs::read_link(MOUNTS).unwrap(), fs::File::open(MOUNTS).unwrap())).unwrap();
        test(&world);
    });
    let place = receiver.recv();
    let ended = thread.join();
    if let Ok((place, _open)) = place {
        end_all(&place);
    }
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

/// The processes on this host that have a word in their command line.
pub(crate) fn processes(word: &str) -> Vec<Pid> {
    let here = fs::read_link(MOUNTS).unwrap();
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let path = entry.ok()?.path();
        let id: i32 = path.file_name()?.to_str()?.parse().ok()?;
        let line = fs::read_to_string(path.join("cmdline")).ok()?;
        let ours = line.contains(word) && fs::read_link(path.join("ns/mnt")).ok()? == here;
        ours.then(|| Pid::from_raw(id).unwrap())
    });
    processes.collect()
}

/// The namespace of mounts that the calling thread is in.
const MOUNTS: &str = "/proc/thread-self/ns/mnt";

/// Ends the processes on a host, such as one that waits for the return of an unconfirmed change; how many there were.
fn end_all(place: &Path) -> usize {
    let mut found = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        if let Some(process) = number
            && fs::read_link(entry.path().join("ns/mnt")).is_ok_and(|there| there == place)
        {
            let _ = kill_process(process, Signal::KILL);
            found += 1;
        }
    }
    found
}

/// The host of the calling thread.
pub(crate) struct World;

/// The files of a host's memory, with what is in them.
pub(crate) type Memory = Vec<(PathBuf, Vec<u8>)>;

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) line: String,
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl World {
    fn new() -> Self {
        // SAFETY: only this thread's namespaces and working directory are cut off from the others'; no file
        // descriptors are.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
            .expect("these tests make namespaces and need root");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), Some(c"mode=755")).unwrap();
        for directory in ["/run/netns", "/run/etc", "/run/bin"] {
            fs::create_dir(directory).unwrap();
        }
        // A checkout may lie where only root can go.
        fs::write(BINARY, "").unwrap();
        mount_bind(env!("CARGO_BIN_EXE_viaduct"), BINARY).unwrap();
        let world = Self;
        world.plug_in();
        world.write(CONFIG, GOOD);
        world
    }

    /// A network as the system makes it when it starts.
    pub(crate) fn plug_in(&self) {
        for settings in ["all", "default"] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{settings}/accept_dad"), "0").unwrap();
        }
        for line in [
            "ip link set lo up",
            "ip netns add outside",
            "ip link add eth0 address 02:00:00:00:00:02 type veth peer name eth0 netns outside",
            "ip -n outside link set eth0 up",
            "ip link set eth0 up",
            "ip address add 203.0.113.2/24 dev eth0",
            "ip address add 2001:db8:28::2/64 dev eth0",
            "ip route add default via 203.0.113.1",
            "ip -6 route add default via fe80::1 dev eth0",
            // The kernel may give it up to a second later, with the carrier.
            "timeout 10 sh -c 'until ip -6 address show dev eth0 | grep -q fe80; do sleep 0.02; done'",
        ] {
            self.sh(line);
        }
    }

    /// Everything in the kernel is lost, and what stands under names of namespaces; every process has ended.
    pub(crate) fn reboot(&self) {
        self.kill_all();
        self.sh("cd /run/netns && for name in *; do ip netns del $name; done");
        // SAFETY: only this thread's network namespace changes.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        self.plug_in();
    }

    /// Every process on the host ends at once, without a word.
    #[track_caller]
    pub(crate) fn kill_all(&self) {
        let place = fs::read_link(MOUNTS).unwrap();
        self.soon("all processes have ended", || end_all(&place) == 0);
    }

    /// Runs a command line that has to succeed.
    #[track_caller]
    pub(crate) fn sh(&self, line: &str) -> String {
        let output = Command::new("sh").args(["-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        if let Some(directory) = Path::new(path).parent() {
            fs::create_dir_all(directory).unwrap();
        }
        fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, path: impl AsRef<Path>) -> String {
        fs::read_to_string(path).unwrap()
    }

    /// The program with this host's directories.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(BINARY);
        if !arguments.iter().any(|argument| argument.as_ref() == "--config") {
            command.args(["--config", CONFIG]);
        }
        command
            .args(["--state-dir", STATE, "--run-dir", RUN])
            .args(arguments)
            .env_remove("VIADUCT_CONFIG")
            .env_remove("VIADUCT_LOG")
            .env_remove("COLUMNS")
            .stdin(Stdio::null());
        command
    }

    /// Runs the program; with `--json` in the line, what it says has to be JSON.
    #[track_caller]
    pub(crate) fn viaduct(&self, line: &str) -> Ran {
        self.ran(line, &mut self.command(&words(line)))
    }

    /// The same as a user without privileges.
    #[track_caller]
    pub(crate) fn as_nobody(&self, line: &str) -> Ran {
        self.ran(line, self.command(&words(line)).uid(NOBODY).gid(NOBODY))
    }

    #[track_caller]
    pub(crate) fn ran(&self, line: &str, command: &mut Command) -> Ran {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
        let ran = Ran { line: line.to_owned(), status, out, err };
        if words(line).contains(&"--json") {
            ran.json();
        }
        assert!(!ran.err.contains("panicked"), "{ran:?}");
        ran
    }

    /// Runs it and expects success.
    #[track_caller]
    pub(crate) fn good(&self, line: &str) -> Ran {
        let ran = self.viaduct(line);
        assert!(ran.status.success(), "{ran:?}");
        ran
    }

    /// Makes a namespace, and attaches a guest's first NIC to it.
    #[track_caller]
    pub(crate) fn attach(&self, guest: &str) {
        self.sh(&format!("ip netns add {guest}"));
        self.good(&format!("attach {guest} --netns {guest}"));
    }

    /// All that the kernel has of this host.
    pub(crate) fn kernel(&self) -> String {
        // A link's carrier, and a port's state and the route of multicasts with it, shows up to a second late.
        self.sh(
            "{ nft --stateless list ruleset; ip link; bridge -details link; ip address; ip route show table all; \
             ip -6 route show table all; ip neighbour show proxy; ip -6 neighbour show proxy; \
             cat /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv6/conf/*/forwarding \
             /proc/sys/net/ipv4/conf/eth0/*; } | sed -E 's/NO-CARRIER,|,LOWER_UP|state [A-Za-z]+| linkdown//g; /^multicast ff00/d'",
        )
    }

    /// Nothing of it has changed; what has is shown.
    #[track_caller]
    pub(crate) fn unchanged(&self, kernel: &str, memory: &Memory, by: &str) {
        let now = self.kernel();
        let lines = |text: &str, other: &str| -> Vec<String> {
            text.lines()
                .filter(|line| !other.lines().any(|other| other == *line))
                .map(str::to_owned)
                .collect()
        };
        let (gone, new) = (lines(kernel, &now), lines(&now, kernel));
        assert!(now == kernel, "{by} changed the kernel: {gone:#?} became {new:#?}");
        let paths = |memory: &Memory| memory.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
        let now = self.memory();
        assert!(now == *memory, "{by} changed what is remembered: {:?}, {:?}", paths(memory), paths(&now));
    }

    /// All that is remembered of this host.
    pub(crate) fn memory(&self) -> Memory {
        let entries = |directory: &str| fs::read_dir(directory).into_iter().flatten();
        let history = format!("{STATE}/history");
        let all = entries(STATE).chain(entries(RUN)).chain(entries(&history));
        let mut files: Vec<PathBuf> = all.map(|file| file.unwrap().path()).filter(|p| p.is_file()).collect();
        // The lock is empty, and nothing is known by it.
        files.retain(|path| !path.ends_with("lock"));
        files.sort();
        files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }

    /// Nothing is left to do, by `plan` and by `apply`.
    #[track_caller]
    pub(crate) fn settled(&self) {
        let ran = self.viaduct("plan --exit-code");
        assert_eq!(ran.code(), 0, "{ran:?}");
        assert_eq!(ran.out, "Nothing to do.\n");
    }

    /// The host can still be reached: its address and its way out are where they were, or on the uplink's bridge.
    #[track_caller]
    pub(crate) fn reachable(&self) {
        let addresses = self.sh("ip -oneline address");
        for address in ["203.0.113.2/24", "2001:db8:28::2/64"] {
            assert!(addresses.contains(address), "{address} is gone:\n{addresses}");
        }
        for (family, via) in [("-4", "203.0.113.1"), ("-6", "fe80::1")] {
            let routes = self.sh(&format!("ip {family} route show default"));
            assert!(routes.contains(via), "the default route by {via} is gone:\n{routes}");
        }
    }
}

/// Something done by a shell again and again, until it is dropped.
pub(crate) struct Again(Child);

impl Again {
    pub(crate) fn and_again(line: &str, pause: &str) -> Self {
        let line = format!("while :; do {line}; sleep {pause}; done");
        let mut command = Command::new("sh");
        Self(command.args(["-c", &line]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon that runs on a host; it is killed when it is dropped.
pub(crate) struct Daemon(Child);

impl World {
    /// Starts a daemon, and waits until it has looked at the host.
    #[track_caller]
    pub(crate) fn daemon(&self) -> Daemon {
        self.daemon_by(&mut self.command(&["daemon"]))
    }

    /// The same with arguments or surroundings of its own.
    #[track_caller]
    pub(crate) fn daemon_by(&self, command: &mut Command) -> Daemon {
        let mut daemon = self.begin_daemon(command);
        self.soon("the daemon answers", || {
            assert!(daemon.0.try_wait().unwrap().is_none(), "the daemon ended: {}", self.read(LOG));
            self.good("status --json").json()["daemon"]["pid"] == daemon.id()
        });
        daemon
    }

    /// Starts a daemon, and does not wait for it: what it looks at may be wrong.
    pub(crate) fn begin_daemon(&self, command: &mut Command) -> Daemon {
        let log = fs::File::create(LOG).unwrap();
        Daemon(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// Waits until something is so, which is within seconds.
    #[track_caller]
    pub(crate) fn soon(&self, what: &str, is_so: impl FnMut() -> bool) {
        self.within(Duration::from_secs(15), what, is_so);
    }

    /// Waits until something is so, for so long: an emulated processor takes its time.
    #[track_caller]
    pub(crate) fn within(&self, limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !is_so() {
            let plan = || self.viaduct("plan").out;
            assert!(begin.elapsed() < limit, "not so: {what}; {}; {}", plan(), self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Places of this host's own for whatever DHCP clients write.
    pub(crate) fn own_places(&self) {
        ["/etc", "/var/lib/dhcp", "/var/lib/dhcpcd"].iter().for_each(|place| self.own_place(place));
    }

    /// A copy of a directory of the machine's, if it has it, in its place.
    pub(crate) fn own_place(&self, place: &str) {
        if fs::metadata(place).is_ok() {
            let own = format!("/run/own{}", place.replace('/', "-"));
            self.sh(&format!("mkdir {own}; cp -a {place}/. {own}"));
            mount_bind(own, place).unwrap();
        }
    }

    /// What the daemon has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(LOG).unwrap_or_default()
    }
}

impl Daemon {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Ends it as nobody should.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Ends it as its user would, and waits until it has ended.
    #[track_caller]
    pub(crate) fn end(mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        assert!(self.0.wait().unwrap().success(), "the daemon failed: {}", World.log());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Ran {
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("{self:?}"))
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// It ended so, and said this: on standard error, or as JSON.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, said: &[&str]) -> &Self {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        let json = words(&self.line).contains(&"--json");
        let text = if json {
            assert!(self.json()["error"].is_string(), "{self:?}");
            &self.out
        } else {
            assert_eq!(self.out, "", "results on standard output of what failed: {self:?}");
            &self.err
        };
        for words in said {
            assert!(text.contains(words), "nothing about {words:?}: {self:?}");
        }
        self
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').filter(|word| !word.is_empty()).collect()
}

/// Makes a file one that this user may not read.
pub(crate) fn forbid(path: &str) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
