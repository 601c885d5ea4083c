//! Which addresses are lent to NICs that the file gives none; in the directory that survives a reboot, so that a guest
//! keeps its address.

use std::path::PathBuf;

use viaduct_model::Leases;

use super::{Store, StoreError, read, write};

impl Store {
    /// The addresses that are lent.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn leases(&self) -> Result<Leases, StoreError> {
        let way_out = "Remove it: guests without addresses of their own are lent others";
        Ok(read(&self.leases_path(), way_out)?.unwrap_or_default())
    }

    /// Remembers the addresses that are lent.
    ///
    /// # Errors
    /// When the file cannot be written; then the old one is still there.
    pub fn set_leases(&self, leases: &Leases) -> Result<(), StoreError> {
        write(&self.leases_path(), leases)
    }

    fn leases_path(&self) -> PathBuf {
        self.state.join("leases.json")
    }
}
