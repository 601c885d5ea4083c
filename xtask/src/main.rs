//! `cargo xtask`: what is checked, tested, measured and generated in this workspace.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is what talks to people")]

mod bench;
mod vm;

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use xtask::{architecture, reference, root};

const USAGE: &str = "\
cargo xtask check   formatting, lints, and the pure crates built for a target without an operating system
cargo xtask test    everything that is tested; needs root, for it makes network namespaces
cargo xtask ci      check, then test
cargo xtask bench   what guests and packets cost, beside the hand-made way; needs root. Of its parts cost, scale,
                    datapath, services, vnet, mesh, kernel and, in a machine with Debian's kernel, vlans those that are named, or of
                    scale only what one guest's changes cost (changes); --quick for a short look, --write for docs/benchmarks.md
cargo xtask vm run [OPTIONS] COMMAND…         a command in a machine with Debian's kernel; its output and exit status
cargo xtask vm test [OPTIONS] --package NAME  what `cargo test` with these words would run, in it; after -- for the tests
cargo xtask vm lab [OPTIONS] DIRECTORY…       `viaduct lab run`, in it. OPTIONS: --copy PATH, --module NAME, --memory MIB,
                                              --timeout SECONDS; docs/vm.md
cargo xtask docs    docs/configuration.md from the configuration's own descriptions
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["check"] => check(),
        ["test"] => test(),
        ["ci"] => both(check, test),
        ["bench"] => bench(&[]),
        ["bench", ref options @ ..] => bench(options),
        // What the benchmarks run of this program again, in namespaces of their own.
        [bench::INSIDE, ref options @ ..] => return bench::inside(options),
        [bench::WORK, ref options @ ..] => return bench::work(options),
        ["vm"] => vm::run(&[]).map(drop),
        ["vm", ref words @ ..] => match vm::run(words) {
            Ok(status) => return ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
            Err(problem) => Err(problem),
        },
        ["docs"] => docs(),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> Result<(), String> {
    let lints = || cargo("clippy --workspace --all-targets --locked -- -D warnings");
    both(|| cargo("fmt --all --check"), || both(lints, build_pure_crates))
}

fn build_pure_crates() -> Result<(), String> {
    let text =
        fs::read_to_string(root().join("ARCHITECTURE.md")).map_err(|e| format!("ARCHITECTURE.md: {e}"))?;
    let pure = architecture::table(&text)?.into_iter().filter(|row| row.pure);
    let packages: Vec<String> = pure.map(|row| format!("--package {}", row.name)).collect();
    match wasm() {
        Ok(()) => cargo(&format!("build --locked --lib --target {WASM} {}", packages.join(" "))),
        Err(why) => {
            println!(
                "The pure crates are not built for {WASM}, which cannot be had here ({why}). \
                 What keeps files, sockets, clocks and the environment out of them are their clippy.toml files alone."
            );
            Ok(())
        }
    }
}

/// A target whose standard library has files, sockets, clocks and an environment in name only.
const WASM: &str = "wasm32-unknown-unknown";

/// Makes sure that the target is installed.
fn wasm() -> Result<(), String> {
    let installed = || {
        let output =
            Command::new("rustc").args(["--print", "sysroot"]).output().map_err(|e| e.to_string())?;
        let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok::<_, String>(Path::new(&sysroot).join("lib/rustlib").join(WASM).is_dir())
    };
    if installed()? {
        return Ok(());
    }
    match Command::new("rustup").args(["target", "add", WASM]).stdin(Stdio::null()).status() {
        Ok(status) if status.success() && installed()? => Ok(()),
        Ok(status) => Err(format!("rustup target add: {status}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err("there is no rustup".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The runner's summary comes last, so that a log ends with the count of tests.
fn test() -> Result<(), String> {
    require_root("test")?;
    both(|| cargo("test --workspace --locked --doc"), || both(test_in_a_machine, run_tests))
}

fn test_in_a_machine() -> Result<(), String> {
    match vm::tests()? {
        0 => Ok(()),
        _ => Err("not everything is as it should be with Debian's kernel".to_owned()),
    }
}

fn run_tests() -> Result<(), String> {
    if has_nextest() {
        return cargo("nextest run --workspace --locked");
    }
    println!(
        "There is no cargo-nextest here; cargo's own runner does it, too, one test program after the other."
    );
    cargo("test --workspace --locked --lib --bins --tests --no-fail-fast")
}

/// One and then the other, whether the first failed or not: a run shows everything that is broken.
fn both(
    first: impl FnOnce() -> Result<(), String>,
    second: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let first = first().inspect_err(|problem| eprintln!("error: {problem}; the rest is run all the same"));
    second().and(first)
}

fn has_nextest() -> bool {
    let version = Command::new("cargo").args(["nextest", "--version"]).output();
    version.is_ok_and(|output| output.status.success())
}

fn bench(options: &[&str]) -> Result<(), String> {
    require_root("bench")?;
    bench::run(&bench::Options::parse(options)?, cargo)
}

fn docs() -> Result<(), String> {
    let path = root().join(reference::PATH);
    fs::write(&path, reference::render(&viaduct_model::schema()))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn cargo(arguments: &str) -> Result<(), String> {
    println!("$ cargo {arguments}");
    let program = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let status = Command::new(program)
        .args(arguments.split(' '))
        .current_dir(root())
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`cargo {arguments}` failed")) }
}

fn require_root(command: &str) -> Result<(), String> {
    // A process's directory belongs to its effective user.
    let uid = fs::metadata("/proc/self").map_err(|error| format!("/proc: {error}"))?.uid();
    if uid == 0 {
        return Ok(());
    }
    Err(format!(
        "`cargo xtask {command}` needs root: it makes network namespaces and changes what is in them, never the \
         machine's own network. Try `sudo -E make {command}`"
    ))
}
