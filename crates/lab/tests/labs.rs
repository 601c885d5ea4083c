//! Labs of the engine's own, in which a script stands in for the program.
//!
//! The tests are run one after the other by a `main` of their own, since a lab has to be started by a process with
//! one thread: by this very program, called with a command.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test, though the compiler is not told so")]

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::process::{CommandExt, ExitStatusExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};
use viaduct_lab::{Event, LabError, Options, Report, Verdict};

const TESTS: [(&str, fn()); 10] = [
    ("every_sentence_finds_out_what_is_so", every_sentence_finds_out_what_is_so),
    ("a_killed_runner_leaves_nothing", a_killed_runner_leaves_nothing),
    ("an_interrupted_runner_leaves_nothing", an_interrupted_runner_leaves_nothing),
    ("a_killed_lab_is_noticed", a_killed_lab_is_noticed),
    ("two_labs_at_once", two_labs_at_once),
    ("up_exec_down", up_exec_down),
    ("a_kept_lab_stays", a_kept_lab_stays),
    ("a_lab_that_stays_can_be_killed", a_lab_that_stays_can_be_killed),
    ("failures_are_told", failures_are_told),
    ("only_some", only_some),
];

/// Set where the tests are apart.
const APART: &str = "VIADUCT_LAB_TESTS_APART";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, rest @ ..] = &arguments[..]
        && let Some(status) = perform(command, rest)
    {
        return status;
    }
    if arguments.iter().any(|a| a == "--list") {
        list(arguments.iter().any(|a| a == "--ignored"));
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        println!("labs: left out, they need root");
        return ExitCode::SUCCESS;
    }
    if std::env::var_os(APART).is_none() {
        return apart(&arguments);
    }
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(*filter));
    let mut failed = 0;
    for (name, test) in TESTS.into_iter().filter(|(name, _)| chosen(name)) {
        let start = Instant::now();
        let ok = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {} ({:.1?})", if ok { "ok" } else { "FAILED" }, start.elapsed());
        failed += usize::from(!ok);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What runners like nextest ask first. None is ignored.
fn list(ignored: bool) {
    for (name, _) in TESTS.iter().filter(|_| !ignored) {
        println!("{name}: test");
    }
}

/// Runs the tests in namespaces of their own, where nothing comes and goes but what they cause.
fn apart(arguments: &[String]) -> ExitCode {
    let mut unshare = Command::new("unshare");
    unshare.args([
        "--mount",
        "--pid",
        "--net",
        "--ipc",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
    ]);
    unshare.arg("mount -t tmpfs tmpfs /run && \"$0\" \"$@\"").arg(std::env::current_exe().unwrap());
    let status = unshare.args(arguments).env(APART, "1").status().unwrap();
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What this program does when the tests call it.
fn perform(command: &str, arguments: &[String]) -> Option<ExitCode> {
    let mut progress = |event: &Event| {
        if let Event::Stage(stage) = event {
            println!("{stage}");
        }
    };
    let mut options = Options {
        binary: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand-in.sh"),
        only: arguments.get(1).cloned(),
        keep: command == "keep",
        progress: &mut progress,
    };
    let dir = arguments.first().map(Path::new);
    match command {
        "run" | "keep" => Some(match viaduct_lab::run(dir?, &mut options) {
            Ok(report) => {
                print!("{}\n{report}", serde_json::to_string(&report).unwrap());
                ExitCode::from(u8::from(!report.holds()))
            }
            Err(e) => told(&e),
        }),
        "up" => Some(viaduct_lab::up(dir?, &mut options).map_or_else(|e| told(&e), |_| ExitCode::SUCCESS)),
        "exec" => Some(match viaduct_lab::exec(Some(&arguments[0]), &arguments[1], &arguments[2..]) {
            Ok(status) => ExitCode::from(u8::try_from(status.code().unwrap()).unwrap()),
            Err(e) => told(&e),
        }),
        "down" => Some(
            viaduct_lab::down(arguments.first().map(String::as_str))
                .map_or_else(|e| told(&e), |_| ExitCode::SUCCESS),
        ),
        _ => None,
    }
}

fn told(error: &LabError) -> ExitCode {
    println!("error: {error}");
    ExitCode::from(9)
}

fn every_sentence_finds_out_what_is_so() {
    let before = Traces::now();
    let output = ourselves(&["run", &small()]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let report = report(&text);
    for outcome in &report.outcomes {
        let expected = if outcome.sentence == "mallory reaches idle" {
            Verdict::Unclear
        } else if outcome.because == "true" {
            Verdict::Holds
        } else {
            Verdict::Fails
        };
        assert_eq!(outcome.result, expected, "{outcome}\n{text}");
    }
    let detail = |sentence: &str| {
        let found = report.outcomes.iter().find(|outcome| outcome.sentence.contains(sentence));
        found.map(|outcome| outcome.detail.clone()).unwrap_or_else(|| panic!("{sentence}"))
    };
    assert!(detail(":22/tcp").contains("administratively prohibited (ICMP 3/13 from 203.0.113.2)"), "{text}");
    assert!(detail(":23/tcp").contains("a TCP reset"), "{text}");
    assert!(detail(":24/tcp").contains("no answer"), "{text}");
    assert!(detail(":22/udp").contains("administratively prohibited (ICMPv6 1/1"), "{text}");
    assert!(detail("reaches mallory at 203.0.113.2:8080").contains("web answered"), "{text}");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(!fs::read_to_string(Path::new(&small()).join("viaduct.toml")).unwrap().contains("something"));
    before.are_all();
}

fn a_killed_runner_leaves_nothing() {
    let before = Traces::now();
    for stage in ["building", "applying", "checking"] {
        let mut runner = ourselves(&["run", &small()]).stdout(Stdio::piped()).spawn().unwrap();
        wait_for(&mut runner, stage);
        thread::sleep(Duration::from_millis(100));
        if stage == "checking" {
            assert!(Traces::now().namespaces.len() > before.namespaces.len(), "the lab should be there");
        }
        // SIGKILL
        runner.kill().unwrap();
        runner.wait().unwrap();
        before.are_all();
    }
}

fn an_interrupted_runner_leaves_nothing() {
    let before = Traces::now();
    let mut runner = ourselves(&["run", &small()]).stdout(Stdio::piped()).process_group(0).spawn().unwrap();
    wait_for(&mut runner, "checking");
    // As the terminal does on ctrl-C: to all of the foreground.
    rustix::process::kill_process_group(Pid::from_child(&runner), Signal::INT).unwrap();
    assert_eq!(runner.wait().unwrap().signal(), Some(2));
    before.are_all();
}

fn a_killed_lab_is_noticed() {
    let before = Traces::now();
    let mut runner = ourselves(&["run", &small()]).stdout(Stdio::piped()).spawn().unwrap();
    wait_for(&mut runner, "checking");
    let keeper = child_of(runner.id());
    let init = child_of(keeper);
    rustix::process::kill_process(Pid::from_raw(i32::try_from(init).unwrap()).unwrap(), Signal::KILL)
        .unwrap();
    let output = runner.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("the lab ended by itself"), "{output:?}");
    before.are_all();
}

fn two_labs_at_once() {
    let before = Traces::now();
    let spawn =
        || ourselves(&["run", &small(), "client reaches web"]).stdout(Stdio::piped()).spawn().unwrap();
    let labs = [spawn(), spawn()];
    for lab in labs {
        let output = lab.wait_with_output().unwrap();
        let report = report(&String::from_utf8(output.stdout).unwrap());
        let wrong: Vec<_> = report.failures().filter(|outcome| outcome.because == "true").collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
    before.are_all();
}

fn up_exec_down() {
    let before = Traces::now();
    let ok = |arguments: &[&str]| {
        let output = ourselves(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    // Reading its output to the end returns although the lab stays.
    ok(&["up", &small()]);
    let again = ourselves(&["up", &small()]).output().unwrap();
    assert!(String::from_utf8_lossy(&again.stdout).contains("is up already"), "{again:?}");
    assert!(ok(&["exec", "small", "web", "ip", "addr"]).contains("192.168.1.3/24"));
    assert!(ok(&["exec", "small", "web", "ping", "-c1", "-W2", "203.0.113.7"]).contains("1 received"));
    ok(&["exec", "small", "ve0", "viaduct", "remember", "this"]);
    assert_eq!(ok(&["exec", "small", "ve0", "viaduct", "recall"]), "this\nthis\n");
    // Whoever types it in a shell there means the host's, too.
    assert_eq!(ok(&["exec", "small", "ve0", "sh", "-c", "timeout 5 viaduct recall"]), "this\nthis\n");
    assert_eq!(ourselves(&["exec", "small", "ve0", "sh", "-c", "exit 7"]).status().unwrap().code(), Some(7));
    let unknown = ourselves(&["exec", "small", "vee", "true"]).output().unwrap();
    assert!(String::from_utf8_lossy(&unknown.stdout).contains("it has client, idle, mallory"), "{unknown:?}");
    ok(&["down"]);
    before.are_all();
    let gone = ourselves(&["down"]).output().unwrap();
    assert!(String::from_utf8_lossy(&gone.stdout).contains("is up"), "{gone:?}");
}

fn a_kept_lab_stays() {
    let before = Traces::now();
    let output = ourselves(&["keep", &small(), "client reaches web at 192.168.1.3"]).output().unwrap();
    assert_eq!(report(&String::from_utf8(output.stdout).unwrap()).outcomes[0].result, Verdict::Holds);
    assert!(ourselves(&["exec", "small", "client", "true"]).status().unwrap().success());
    assert!(ourselves(&["down", "small"]).status().unwrap().success());
    before.are_all();
}

fn a_lab_that_stays_can_be_killed() {
    let before = Traces::now();
    assert!(ourselves(&["up", &small()]).stdout(Stdio::null()).status().unwrap().success());
    let record = fs::read_to_string("/run/viaduct-lab/small.json").unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert!(Command::new("kill").args(["-9", &record["pid"].to_string()]).status().unwrap().success());
    wait_until(|| ourselves(&["down"]).stdout(Stdio::null()).status().unwrap().code() == Some(9));
    before.are_all();
}

fn failures_are_told() {
    let before = Traces::now();
    let dir = copy_of_small("broken");
    let host = dir.0.join("host.sh");
    fs::write(&host, fs::read_to_string(&host).unwrap().replace("web.0)", "wep.0)")).unwrap();
    let output = ourselves(&["run", dir.0.to_str().unwrap()]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains(
            "`viaduct attach web.0 --netns web` on ve0 failed (exit status: 1)\nno such guest: web.0"
        ),
        "{text}"
    );
    let nothing = ourselves(&["run", &small(), "no such text"]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&nothing.stdout).contains("no expectation of this lab contains"),
        "{nothing:?}"
    );
    before.are_all();
}

fn only_some() {
    let output = ourselves(&["run", &small(), "resolves"]).output().unwrap();
    let report = report(&String::from_utf8(output.stdout).unwrap());
    let commands = report.outcomes.iter().filter(|outcome| outcome.sentence.starts_with("ve0: ")).count();
    assert_eq!((report.outcomes.len(), commands), (11, 6), "{report}");
}

fn ourselves(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments);
    command
}

fn child_of(parent: u32) -> u32 {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let stats = processes.filter_map(|process| fs::read_to_string(process.join("stat")).ok());
    // proc_pid_stat(5): the process id, the name in brackets, the state, the parent's process id.
    let found = stats.filter_map(|stat| {
        let (pid, rest) = stat.split_once(" (")?;
        let is_child = rest.rsplit_once(") ")?.1.split(' ').nth(1)? == parent.to_string();
        is_child.then(|| pid.parse().unwrap())
    });
    found.last().unwrap()
}

fn small() -> String {
    format!("{}/tests/labs/small", env!("CARGO_MANIFEST_DIR"))
}

fn report(text: &str) -> Report {
    let json = text.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{text}"));
    serde_json::from_str(json).unwrap()
}

fn wait_for(child: &mut Child, line: &str) {
    let mut lines = io::BufRead::lines(io::BufReader::new(child.stdout.as_mut().unwrap()));
    assert!(lines.any(|l| l.unwrap() == line));
}

fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "it took too long");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What a lab might leave behind.
#[derive(Debug, PartialEq)]
struct Traces {
    processes: usize,
    namespaces: BTreeSet<PathBuf>,
    mounts: String,
    files: BTreeSet<PathBuf>,
}

impl Traces {
    fn now() -> Self {
        let list = |dir: &str| {
            fs::read_dir(dir)
                .into_iter()
                .flatten()
                .map(|entry| entry.unwrap().path())
                .collect::<BTreeSet<_>>()
        };
        let mut processes = list("/proc");
        processes.retain(|path| {
            path.join("ns").exists() && path.file_name().unwrap().to_str().unwrap().parse::<u32>().is_ok()
        });
        let namespaces = processes
            .iter()
            .flat_map(|process| {
                ["net", "mnt", "pid"].map(|kind| fs::read_link(process.join("ns").join(kind)))
            })
            .flatten()
            .collect();
        let files = ["/run", "/run/netns", "/run/viaduct-lab"].iter().flat_map(|dir| list(dir)).collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        Self { processes: processes.len(), namespaces, mounts, files }
    }

    /// Waits until nothing else is left.
    fn are_all(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Self::now() != *self {
            assert!(Instant::now() < deadline, "before {self:#?}\nleft behind {:#?}", Self::now());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

struct TemporaryDir(PathBuf);

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy_of_small(name: &str) -> TemporaryDir {
    let dir =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("viaduct-lab-{name}-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    for entry in fs::read_dir(small()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
    }
    TemporaryDir(dir)
}
