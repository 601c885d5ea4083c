//! What is kept for the engine after this one: the sequences of the NICs that are here, and where this host bridges a segment.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use serde::Serialize;
use tracing::warn;
use viaduct_types::{MacAddr, VnetId};

use super::segment::BRIEFLY;

type Sequences = BTreeMap<(VnetId, MacAddr), u64>;
type Written = BTreeMap<VnetId, BTreeMap<MacAddr, u64>>;

const FILE: &str = "vnet-sequences.json";
const BRIDGED: &str = "vnet-bridged.json";

/// What the last engine wrote. Without it all NICs arrive anew.
pub(super) fn read(run_dir: &Path) -> Sequences {
    let path = run_dir.join(FILE);
    let read = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<Written>(&bytes).map_err(|error| error.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Sequences::new(),
        Err(error) => Err(error.to_string()),
    };
    match read {
        Ok(written) => written
            .into_iter()
            .flat_map(|(vnet, macs)| macs.into_iter().map(move |(mac, sequence)| ((vnet, mac), sequence)))
            .collect(),
        Err(error) => {
            warn!("{} is not read: {error}", path.display());
            Sequences::new()
        }
    }
}

/// Of which vnets another host knows that this one bridges them, and waits for their silence.
pub(super) fn bridged(run_dir: &Path) -> BTreeSet<VnetId> {
    let read = || -> Option<(u64, BTreeSet<VnetId>)> {
        serde_json::from_slice(&fs::read(run_dir.join(BRIDGED)).ok()?).ok()
    };
    let is_late = |then: u64| since_boot().saturating_sub(then) > BRIEFLY.as_secs();
    read().filter(|(then, _)| !is_late(*then)).map(|(_, vnets)| vnets).unwrap_or_default()
}

/// Writes down that these have just been bridged. Without it, the next engine listens first.
pub(super) fn write_bridged(run_dir: &Path, vnets: &BTreeSet<VnetId>) {
    let _ = replace(run_dir, BRIDGED, &(since_boot(), vnets));
}

/// In seconds; nobody sets this clock.
fn since_boot() -> u64 {
    u64::try_from(rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec).unwrap_or_default()
}

pub(super) fn write(run_dir: &Path, sequences: &Sequences) -> io::Result<()> {
    let mut written = Written::new();
    for ((vnet, mac), sequence) in sequences {
        written.entry(*vnet).or_default().insert(*mac, *sequence);
    }
    replace(run_dir, FILE, &written)
}

/// Whole or not at all.
fn replace(run_dir: &Path, file: &str, written: &impl Serialize) -> io::Result<()> {
    let new = run_dir.join(format!("{file}.new"));
    fs::write(&new, serde_json::to_vec(written)?)?;
    fs::rename(&new, run_dir.join(file))
}
