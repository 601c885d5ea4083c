//! `cargo xtask bench`: what Viaduct costs, with the hand-made way measured in the same run.
//!
//! The parts run in a process of their own, in namespaces of their own: mounts, processes and network. Whatever they
//! make ends with it, however it ends; see [`sandbox`].

mod cost;
mod datapath;
mod document;
mod guests;
mod mesh;
mod sandbox;
mod scale;
mod services;
mod table;
mod traffic;
mod viaduct;
mod vnet;

use std::{fs, path::PathBuf, process::ExitCode};

use xtask::root;

use crate::vm;

pub(crate) use sandbox::INSIDE;
pub(crate) use traffic::{WORK, work};

/// Where the tables are kept.
const PATH: &str = "docs/benchmarks.md";

/// How often each of the four hosts of that test is killed.
const KILLS: usize = 250;

/// The words after `cargo xtask bench`.
const USAGE: &str = "cargo xtask bench [cost] [scale] [changes] [vlans] [datapath] [services] [vnet] [mesh] [kernel] [kills] [--quick] [--write] [--program PATH]";

/// What to measure, and how thoroughly.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    cost: bool,
    scale: bool,
    /// Of scale, only what one guest's changes cost; a part of its tables, which is kept with all of them.
    changes: bool,
    /// Namespaces with VLANs, in a machine with Debian's kernel.
    vlans: bool,
    datapath: bool,
    services: bool,
    vnet: bool,
    mesh: bool,
    /// The kernel crate's own measurements, which have no competitor.
    kernel: bool,
    /// Hosts that are killed all the time; nothing is measured but that they stay closed and arrive.
    kills: bool,
    quick: bool,
    write: bool,
    /// The program, when it is not to be built from this workspace.
    program: Option<PathBuf>,
}

impl Options {
    /// All parts unless some are named; in a hurry only those with a competitor.
    pub(crate) fn parse(arguments: &[&str]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match *argument {
                "cost" => options.cost = true,
                "scale" => options.scale = true,
                "changes" => options.changes = true,
                "vlans" => options.vlans = true,
                "datapath" => options.datapath = true,
                "services" => options.services = true,
                "vnet" => options.vnet = true,
                "mesh" => options.mesh = true,
                "kernel" => options.kernel = true,
                "kills" => options.kills = true,
                "--quick" => options.quick = true,
                "--write" => options.write = true,
                "--program" => options.program = Some(rest.next().ok_or("--program needs a path")?.into()),
                other => return Err(format!("what is \"{other}\"? {USAGE}")),
            }
        }
        if !(options.measured() || options.changes || options.vlans || options.kernel || options.kills) {
            (options.cost, options.scale, options.datapath) = (true, true, true);
            options.vlans = !options.quick;
            (options.services, options.vnet, options.mesh) = (true, true, true);
            (options.kernel, options.kills) = (!options.quick, !options.quick);
        }
        if options.write && (options.quick || !(options.measured() || options.vlans)) {
            return Err(
                "--write keeps the parts cost, scale, vlans, datapath, services, vnet and mesh, measured thoroughly: not with --quick"
                    .to_owned(),
            );
        }
        Ok(options)
    }

    /// Whether there is a part whose tables are kept.
    fn measured(&self) -> bool {
        self.cost || self.scale || self.datapath || self.services || self.vnet || self.mesh
    }

    /// How many guests are configured.
    fn sizes(&self) -> &'static [u32] {
        if self.quick { &[10, 1_000] } else { &[10, 100, 1_000, 10_000] }
    }

    fn words(&self) -> Vec<String> {
        let flags = [
            (self.cost, "cost"),
            (self.scale, "scale"),
            (self.changes, "changes"),
            (self.vlans, "vlans"),
            (self.datapath, "datapath"),
            (self.services, "services"),
            (self.vnet, "vnet"),
            (self.mesh, "mesh"),
            (self.quick, "--quick"),
            (self.write, "--write"),
        ];
        flags.iter().filter(|(set, _)| *set).map(|(_, word)| (*word).to_owned()).collect()
    }
}

/// Builds what is measured, and measures it in a sandbox.
pub(crate) fn run(options: &Options, cargo: fn(&str) -> Result<(), String>) -> Result<(), String> {
    let here = options.measured() || options.changes;
    if here || options.vlans {
        // This program, too: it makes the traffic.
        cargo("build --release --locked --package viaduct --package xtask")?;
        if options.mesh {
            cargo("build --release --locked --package viaduct-vnet-io --example mesh")?;
        }
        let release = target()?.join("release");
        let (xtask, program) = (release.join("xtask"), release.join("viaduct"));
        let program = options.program.as_ref().unwrap_or(&program);
        if here {
            let all_others = Options { vlans: false, ..options.clone() };
            sandbox::enter(&xtask, program, &all_others.words())?;
        }
        if options.vlans {
            let alone = Options { vlans: true, quick: options.quick, ..Options::default() };
            let tables = vm::bench(&xtask, program, &alone.words())?;
            if options.write {
                let old = fs::read_to_string(root().join(PATH)).unwrap_or_default();
                let (head, _) = old.split_once("\n## ").unwrap_or((&old, ""));
                keep(&document::renewed(&old, head, &tables))?;
            }
        }
    }
    if options.kernel {
        let kernel = "test --release --locked --package viaduct-kernel";
        cargo(&format!("{kernel} --test nft -- --ignored --nocapture --test-threads=1 measure"))?;
        cargo(&format!("{kernel} --test kernel -- --include-ignored --nocapture --test-threads=1 timing"))?;
    }
    if options.kills {
        cargo(&format!(
            "--config env.VIADUCT_KILLS=\"{KILLS}\" test --release --locked --package viaduct --test kills -- --nocapture"
        ))?;
    }
    Ok(())
}

/// In the sandbox: the program first, then the options.
pub(crate) fn inside(arguments: &[&str]) -> ExitCode {
    match measure(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &[&str]) -> Result<(), String> {
    let (program, words) = arguments.split_first().ok_or("the program to measure is missing")?;
    let options = Options::parse(words)?;
    let sandbox = sandbox::Sandbox::prepare(program.into())?;
    let mut page = table::Page::default();
    if options.cost {
        cost::measure(&sandbox, &options, &mut page)?;
    }
    if options.scale {
        scale::measure(&sandbox, &options, &mut page)?;
    } else if options.changes {
        scale::measure_changes(&sandbox, &options, &mut page)?;
    }
    if options.vlans {
        scale::measure_vlans(&sandbox, &options, &mut page)?;
    }
    if options.datapath {
        datapath::measure(&sandbox, &options, &mut page)?;
    }
    if options.services {
        services::measure(&sandbox, &options, &mut page)?;
    }
    if options.vnet {
        vnet::measure(&sandbox, &options, &mut page)?;
    }
    if options.mesh {
        mesh::measure(&sandbox, &options, &mut page)?;
    }
    if options.write {
        let old = fs::read_to_string(root().join(PATH)).unwrap_or_default();
        keep(&document::renewed(&old, &head(&sandbox), page.text()))?;
    }
    Ok(())
}

fn keep(document: &str) -> Result<(), String> {
    let path = root().join(PATH);
    fs::write(&path, document).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("Written to {PATH}.");
    Ok(())
}

/// Where cargo puts each profile's programs beside the other's (target/debug/xtask, target/release/xtask), and
/// `scripts/prepare.sh` what it makes.
fn target() -> Result<PathBuf, String> {
    let this = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
    let target = this.parent().and_then(|profile| profile.parent());
    target.map(PathBuf::from).ok_or_else(|| "this program stands in no target".to_owned())
}

/// What stands before the tables, with the machine they are from.
fn head(sandbox: &sandbox::Sandbox) -> String {
    let said = |command: &str, arguments: &[&str]| {
        sandbox.here(command, arguments).map(|text| text.lines().next().unwrap_or_default().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.split('-').next().unwrap_or_default().trim();
    let versions = [said("nft", &["--version"]), said("iptables", &["--version"])];
    let versions: Vec<_> = versions.into_iter().flatten().collect();
    format!(
        "# Benchmarks\n\n\
         <!-- Written by `cargo xtask bench --write`. -->\n\n\
         `make bench` measures all of this again, as root, in namespaces of its own; nothing of the machine's network is \
         touched. `cargo xtask bench --quick` takes a few minutes once everything is built; with \
         `--write` and the name of a part, only its tables are renewed.\n\n\
         The numbers below are from a machine with {cores} cores, Linux {kernel}, {}. Others are other \
         machines: compare rows, not machines. Outside, host and guest are namespaces of one machine, so that every \
         number contains the sender and the receiver, too. The ways take turns in every round; a cell is the median of \
         the rounds with the least and the greatest, a ratio is the median of each round's own ratio.\n",
        versions.join(", ")
    )
}
