//! What other programs do on this host: their filters, their files, their marks.

use std::{
    collections::BTreeMap, fs, io, num::NonZeroUsize, path::Path, process::Command, sync::Arc, thread,
};

use viaduct_doctor::{ConfigFile, Facts, filter, legacy_tables};

use crate::{Kernel, KernelError};

/// Files longer than this are no configuration.
const LONGEST: u64 = 1 << 20;
/// Where programs are.
const PATHS: [&str; 6] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"];

impl Kernel {
    /// Gathers what a [`viaduct_doctor`] has to know, with the settings asked for.
    ///
    /// # Errors
    /// When the kernel does not tell the tables of nf_tables or the devices.
    pub fn facts(&mut self, sysctls: impl IntoIterator<Item = String>) -> Result<Facts, KernelError> {
        let names = self.links()?.into_iter().map(|(name, link)| (link.index, name.to_string())).collect();
        let mut tables = self.nft.foreign(&names).map_err(|e| KernelError::Filter { source: Arc::new(e) })?;
        tables.extend(legacy());
        Ok(Facts {
            tables,
            sysctls: settings(sysctls),
            programs: Facts::PROGRAMS
                .into_iter()
                .filter(|name| program(name).is_some())
                .map(str::to_owned)
                .collect(),
            files: files(),
            marks: Facts::MARKS
                .into_iter()
                .filter(|path| Path::new(path).exists())
                .map(str::to_owned)
                .collect(),
            processors: thread::available_parallelism().map_or(1, NonZeroUsize::get),
            machine: ["sys_vendor", "product_name", "board_vendor"]
                .map(|field| fs::read_to_string(format!("/sys/class/dmi/id/{field}")).unwrap_or_default())
                .iter()
                .map(|text| text.trim())
                .collect::<Vec<_>>()
                .join(" "),
            // No matter of the kernel's.
            daemon_runs: false,
            vnets_are_carried: false,
        })
    }
}

/// Where a program is.
fn program(name: &str) -> Option<std::path::PathBuf> {
    PATHS.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.exists())
}

/// The rules of iptables-legacy. Asking for a table makes it, so only those are asked for that are there.
fn legacy() -> Vec<filter::Table> {
    let mut tables = Vec::new();
    for (family, names, tool) in [
        (filter::Family::Ip, "/proc/net/ip_tables_names", "iptables-legacy-save"),
        (filter::Family::Ip6, "/proc/net/ip6_tables_names", "ip6tables-legacy-save"),
    ] {
        // No such file: no such interface.
        let Ok(names) = fs::read_to_string(names.replace("/proc/net", "/proc/thread-self/net")) else {
            continue;
        };
        for name in names.lines().filter(|name| *name != "nat") {
            let Some(tool) = program(tool).or_else(|| program(&tool.replace("-legacy", ""))) else {
                continue;
            };
            match Command::new(&tool).args(["-t", name]).output() {
                Ok(output) if output.status.success() => {
                    let text = String::from_utf8_lossy(&output.stdout);
                    // The plain tool may be the one of nf_tables, whose rules are known.
                    if !text.lines().next().is_some_and(|line| line.contains("nf_tables")) {
                        tables.extend(legacy_tables(family, &text));
                    }
                }
                Ok(output) => {
                    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                    tracing::warn!(tool = %tool.display(), table = name, said, "cannot list the rules of iptables-legacy");
                }
                Err(error) => tracing::warn!(tool = %tool.display(), %error, "cannot be run"),
            }
        }
    }
    tables
}

fn settings(paths: impl IntoIterator<Item = String>) -> BTreeMap<String, String> {
    let value = |path: String| {
        let text = fs::read_to_string(Path::new("/proc/sys").join(&path)).ok()?;
        Some((path, text.trim().to_owned()))
    };
    paths.into_iter().filter_map(value).collect()
}

fn files() -> Vec<ConfigFile> {
    let mut paths: Vec<String> = Facts::FILES.map(str::to_owned).into();
    for (directory, ending) in Facts::DIRECTORIES {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let all = entries.filter_map(|entry| entry.path().to_str().map(str::to_owned));
        paths.extend(all.filter(|path| path.ends_with(&format!(".{ending}"))));
    }
    paths.into_iter().filter_map(|path| Some(ConfigFile { text: read(&path).ok()?, path })).collect()
}

fn read(path: &str) -> io::Result<String> {
    let data = fs::metadata(path)?;
    if !data.is_file() || data.len() > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}
