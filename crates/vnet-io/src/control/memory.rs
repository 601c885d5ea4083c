//! The sequences of the NICs that are here, kept for the engine after this one.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use tracing::warn;
use viaduct_types::{MacAddr, VnetId};

type Sequences = BTreeMap<(VnetId, MacAddr), u64>;
type Written = BTreeMap<VnetId, BTreeMap<MacAddr, u64>>;

const FILE: &str = "vnet-sequences.json";

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

/// Whole or not at all.
pub(super) fn write(run_dir: &Path, sequences: &Sequences) -> io::Result<()> {
    let mut written = Written::new();
    for ((vnet, mac), sequence) in sequences {
        written.entry(*vnet).or_default().insert(*mac, *sequence);
    }
    let new = run_dir.join(format!("{FILE}.new"));
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(&written)?)?;
    fs::rename(&new, run_dir.join(FILE))
}
