//! What things cost at rest: memory of the kernel and of a process, time of a process's threads.

use std::{fs, thread, time::Duration};

/// KiB of the kernel's memory that links, routes and filters are made of: its slabs, and what there is once for each
/// processor.
pub(super) fn kernel_kib() -> Result<f64, String> {
    // What was freed stays in the processors' caches for a moment.
    thread::sleep(Duration::from_millis(500));
    let text = read("/proc/meminfo")?;
    Ok(["Slab:", "Percpu:"].iter().filter_map(|name| kib(&text, name)).sum())
}

/// MiB of a process that are in memory, and the most that ever were.
pub(super) fn resident_mib(process: u32) -> Result<(f64, f64), String> {
    let text = read(&format!("/proc/{process}/status"))?;
    let of = |name| kib(&text, name).map(|kib| kib / 1024.0).ok_or("a process without memory");
    Ok((of("VmRSS:")?, of("VmHWM:")?))
}

fn kib(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Milliseconds of the processors that a process takes in so long.
pub(super) fn processor_ms(process: u32, during: Duration) -> Result<f64, String> {
    let before = nanoseconds(process)?;
    thread::sleep(during);
    Ok((nanoseconds(process)? - before) / 1e6)
}

/// What all its threads took so far.
fn nanoseconds(process: u32) -> Result<f64, String> {
    let path = format!("/proc/{process}/task");
    let failed = |error| format!("{path}: {error}");
    let mut sum = 0.0;
    for task in fs::read_dir(&path).map_err(failed)? {
        let text = read(&task.map_err(failed)?.path().join("schedstat").display().to_string())?;
        let first = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
        sum += first.ok_or_else(|| format!("{path}: what is \"{}\"?", text.trim()))?;
    }
    Ok(sum)
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}
