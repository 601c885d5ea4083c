//! `cargo xtask vm`: programs, test programs and labs of this workspace in a machine with Debian's own kernel.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use viaduct_vm::{HOST_MODULES, HOST_PROGRAMS, Image, Kernel, Machine, Setup};
use xtask::root;

/// What `make test` runs there: what depends most on the kernel's version, and takes no minutes where processors are
/// emulated.
pub(crate) fn tests() -> Result<i32, String> {
    let programs = ["test", "--package", "viaduct-kernel", "--test", "kernel", "--test", "nft", "--"];
    let kinds = [
        "addresses",
        "announcements",
        "errors",
        "flows",
        "guests",
        "links",
        "sysctls",
        // What nft makes of our rules, and the kernel of both.
        "differential",
        "examples",
        "round_trip",
        // Says how long it may take, which an emulated processor does not keep to.
        "--skip",
        "hundreds",
    ];
    let tested = run(&[&programs[..], &kinds].concat())?;
    let labs = run(&["lab", "examples/dedicated-xen", "examples/vserver"])?;
    let mut processors = 0;
    for count in ["1", "4"] {
        let lab = run(&["lab", "--processors", count, "crates/viaduct/tests/labs/vnet-workers"])?;
        processors = processors.max(lab);
    }
    // Those that say that they need it.
    let others = run(&[
        "test",
        "--package",
        "viaduct",
        "--test",
        "labs",
        "--test",
        "vlans",
        "--test",
        "trunks",
        "--",
        "--ignored",
        "--test-threads",
        "1",
    ])?;
    Ok(tested.max(labs).max(processors).max(others))
}

/// Does what the words after `vm` say; the exit status of what was run in the machine.
pub(crate) fn run(words: &[&str]) -> Result<i32, String> {
    let [verb, rest @ ..] = words else {
        return Err("`cargo xtask vm` wants run, test or lab".to_owned());
    };
    let order = Order::parse(rest)?;
    match *verb {
        "run" => command(&order),
        "test" => test(&order),
        "lab" => lab(&order),
        other => Err(format!("`cargo xtask vm {other}`? There are run, test and lab")),
    }
}

/// Options, and the words that are no options of ours.
#[derive(Debug, PartialEq, Eq)]
struct Order<'a> {
    copy: Vec<PathBuf>,
    programs: Vec<&'a str>,
    modules: Vec<&'a str>,
    memory: u32,
    processors: u32,
    limit: Duration,
    words: Vec<&'a str>,
}

impl<'a> Order<'a> {
    fn parse(words: &[&'a str]) -> Result<Self, String> {
        let mut order = Self {
            copy: Vec::new(),
            programs: HOST_PROGRAMS.to_vec(),
            modules: HOST_MODULES.to_vec(),
            memory: 1024,
            processors: 2,
            limit: Duration::from_secs(600),
            words: Vec::new(),
        };
        let mut rest = words;
        while let &[
            option @ ("--copy" | "--program" | "--module" | "--memory" | "--processors" | "--timeout"),
            ref after @ ..,
        ] = rest
        {
            let &[value, ref after @ ..] = after else { return Err(format!("{option} wants a value")) };
            let number = || value.parse::<u32>().map_err(|_| format!("{option} {value}: that is no number"));
            match option {
                "--copy" => order.copy.push(absolute(value)?),
                "--program" => order.programs.push(value),
                "--module" => order.modules.push(value),
                "--memory" => order.memory = number()?,
                "--processors" => order.processors = number()?,
                _ => order.limit = Duration::from_secs(number()?.into()),
            }
            rest = after;
        }
        order.words = rest.strip_prefix(&["--"]).unwrap_or(rest).to_vec();
        if order.words.is_empty() { Err("what is to be run in the machine?".to_owned()) } else { Ok(order) }
    }

    /// What every machine for us is given.
    fn image(&self, kernel: &Kernel) -> Result<Image, String> {
        let mut image = Image::new(kernel).map_err(told)?;
        image.modules(&self.modules).map_err(told)?;
        for program in &self.programs {
            // What is not installed here, nobody can expect there.
            let _ = image.program(program);
        }
        // By which nft knows "ipv6-icmp".
        let _ = image.copy(Path::new("/etc/protocols"));
        for path in &self.copy {
            image.copy(path).map_err(told)?;
        }
        Ok(image)
    }

    /// Boots it, runs the command line, and passes on what it says.
    fn boot(
        &self,
        kernel: &Kernel,
        image: &Image,
        line: &str,
        to: impl io::Write + Send,
    ) -> Result<i32, String> {
        let begin = Instant::now();
        let setup = Setup { memory: self.memory, processors: self.processors, netns: None, qemu: Vec::new() };
        let mut machine = Machine::boot(kernel, image, &setup).map_err(told)?;
        let console = machine.console();
        if !console.trim().is_empty() {
            eprintln!("The machine's console: {}", console.trim());
        }
        eprintln!("Linux {} is up after {:.1} s.", kernel.release(), begin.elapsed().as_secs_f32());
        machine.patience(self.limit).map_err(told)?;
        machine.show(line, to).map_err(told)
    }
}

/// `run [OPTIONS] COMMAND…`: a program of this machine, or one of busybox.
fn command(order: &Order<'_>) -> Result<i32, String> {
    let kernel = Kernel::debian().map_err(told)?;
    let mut image = order.image(&kernel)?;
    let [program, arguments @ ..] = &order.words[..] else { return Err("what is to be run?".to_owned()) };
    // One that is a file here, by its path; else the machine has it, or says that it has not.
    let mut line = if program.contains('/') && Path::new(program).is_file() {
        let path = absolute(program)?;
        image.program_at(&path, &path).map_err(told)?;
        quoted(&path.to_string_lossy())
    } else {
        let _ = image.program(program);
        quoted(program)
    };
    for argument in arguments {
        line += &format!(" {}", quoted(argument));
    }
    order.boot(&kernel, &image, &line, io::stdout())
}

/// `test [OPTIONS] ARGUMENTS OF CARGO TEST [-- ARGUMENTS OF THE TEST PROGRAMS]`
fn test(order: &Order<'_>) -> Result<i32, String> {
    let end = order.words.iter().position(|word| *word == "--").unwrap_or(order.words.len());
    let (selection, arguments) = (&order.words[..end], order.words.get(end + 1..).unwrap_or_default());
    let built = build(&[&["test", "--no-run"], selection].concat())?;
    if !built.iter().any(|program| program.is_test) {
        return Err(format!("`cargo test {}` builds no test program", selection.join(" ")));
    }
    let kernel = Kernel::debian().map_err(told)?;
    let mut image = order.image(&kernel)?;
    image.copy(&root().join("examples")).map_err(told)?;
    let arguments: String = arguments.iter().map(|argument| format!(" {}", quoted(argument))).collect();
    // All of them, whether one failed or not.
    let mut line = "status=0\n".to_owned();
    for Program { path, package, is_test } in &built {
        image.program_at(path, path).map_err(told)?;
        if *is_test {
            let data = package.join("tests");
            if data.is_dir() {
                image.copy(&data).map_err(told)?;
            }
            let (directory, path) = (quoted(&package.to_string_lossy()), quoted(&path.to_string_lossy()));
            line += &format!("mkdir -p {directory}; cd {directory} && {path}{arguments} || status=1\n");
        }
    }
    order.boot(&kernel, &image, &format!("{line}exit $status"), io::stdout())
}

/// `lab [OPTIONS] DIRECTORY…`
fn lab(order: &Order<'_>) -> Result<i32, String> {
    let built = build(&["build", "--package", "viaduct"])?;
    let Some(viaduct) = built.iter().find(|program| program.path.ends_with("viaduct")) else {
        return Err("cargo did not say where it built viaduct".to_owned());
    };
    let kernel = Kernel::debian().map_err(told)?;
    let mut image = order.image(&kernel)?;
    image.program_at(&viaduct.path, Path::new("/usr/local/bin/viaduct")).map_err(told)?;
    let mut line = "status=0\n".to_owned();
    for directory in &order.words {
        let directory = absolute(directory)?;
        image.copy(&directory).map_err(told)?;
        line += &format!("viaduct lab run {} || status=1\n", quoted(&directory.to_string_lossy()));
    }
    order.boot(&kernel, &image, &format!("{line}exit $status"), io::stdout())
}

/// Measures in the machine what needs its kernel: `xtask` runs there again, with these words. Gives what it printed.
pub(crate) fn bench(xtask: &Path, viaduct: &Path, words: &[String]) -> Result<String, String> {
    let mut order = Order::parse(&["bench"])?;
    order.limit = Duration::from_secs(1800);
    let kernel = Kernel::debian().map_err(told)?;
    let mut image = order.image(&kernel)?;
    for program in [xtask, viaduct] {
        image.program_at(program, program).map_err(told)?;
    }
    image.program("nsenter").map_err(told)?;
    let [xtask, viaduct] = [xtask, viaduct].map(|path| quoted(&path.to_string_lossy()));
    // It ends with its standard input, and this one never does.
    let line = format!(
        "mkfifo /tmp/alive && exec {xtask} {} {viaduct} {} <>/tmp/alive",
        super::bench::INSIDE,
        words.join(" ")
    );
    let mut said = Both(Vec::new());
    match order.boot(&kernel, &image, &line, &mut said)? {
        0 => Ok(String::from_utf8_lossy(&said.0).into_owned()),
        status => Err(format!("measuring in the machine failed ({status})")),
    }
}

/// Passes on what is written, and keeps it.
struct Both(Vec<u8>);

impl Write for Both {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        io::stdout().write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// What cargo has built.
struct Program {
    path: PathBuf,
    /// The directory of its package.
    package: PathBuf,
    is_test: bool,
}

fn build(arguments: &[&str]) -> Result<Vec<Program>, String> {
    let program = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let output = Command::new(program)
        .args(arguments)
        .args(["--locked", "--message-format", "json-render-diagnostics"])
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("`cargo {}` failed", arguments.join(" ")));
    }
    let messages = output.stdout.split(|byte| *byte == b'\n');
    Ok(messages.filter_map(|line| serde_json::from_slice(line).ok()).filter_map(|m| executable(&m)).collect())
}

fn executable(message: &Value) -> Option<Program> {
    let path = PathBuf::from(message["executable"].as_str()?);
    let package = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
    Some(Program { path, package, is_test: message["profile"]["test"] == true })
}

fn absolute(path: &str) -> Result<PathBuf, String> {
    fs::canonicalize(path).map_err(|error| format!("{path}: {error}"))
}

/// For the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// An error with its causes.
fn told(error: viaduct_vm::VmError) -> String {
    let _ = io::stdout().flush();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        text += &format!(": {next}");
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_before_what_is_run() {
        let order = Order::parse(&["--memory", "64", "--module", "sit", "ls", "--copy", "x"]).unwrap();
        assert_eq!((order.memory, &order.words[..]), (64, &["ls", "--copy", "x"][..]));
        assert!(order.modules.contains(&"sit"));
        let order = Order::parse(&["--processors", "4", "--program", "ss", "ls"]).unwrap();
        assert_eq!((order.processors, order.programs.contains(&"ss")), (4, true));
        assert_eq!(Order::parse(&["--", "--memory"]).unwrap().words, ["--memory"]);
        for (wrong, said) in
            [(&["--memory", "much", "ls"][..], "no number"), (&["--copy"], "wants"), (&[], "what")]
        {
            let error = Order::parse(wrong).unwrap_err();
            assert!(error.contains(said), "{wrong:?}: {error}");
        }
    }

    #[test]
    fn words_reach_the_shell_as_they_are() {
        let word = "it's $HOME; \"x\"";
        let output =
            Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), word);
    }
}
