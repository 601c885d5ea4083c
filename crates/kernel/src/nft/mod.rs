//! nf_tables over netlink: reads our tables, and changes them in transactions that happen whole or not at all.

mod attr;
mod decode;
mod encode;
mod error;
mod foreign;
mod notice;
mod read;
mod socket;
mod uapi;

use std::{collections::BTreeMap, io};

pub use error::NftError;
pub(crate) use notice::{Notice, notice};
use viaduct_plan::nft::{Change, Family, Ruleset};

use self::{
    encode::Batch,
    socket::{Connection, Refusal},
};

/// How often a read starts again because tables changed meanwhile, and a transaction because the kernel asks for it.
const ATTEMPTS: u32 = 20;

/// nf_tables of one network namespace.
pub struct Nft {
    connection: Connection,
    /// The generation that was read last, or made of it by our own transactions since.
    seen: Option<u32>,
}

/// An element of a dynamic set with what its counter says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynamicCounter {
    /// Of the set's table.
    pub family: Family,
    /// The set's name.
    pub set: String,
    /// The fields of the key, each padded to four bytes as in [`viaduct_plan::nft::Key`].
    pub key: Vec<u8>,
    /// How many.
    pub packets: u64,
    /// How long together.
    pub bytes: u64,
}

impl Nft {
    /// In the network namespace of the calling thread, whatever namespace later callers are in.
    ///
    /// # Errors
    /// When the kernel has no nf_tables.
    pub fn open() -> Result<Self, NftError> {
        Ok(Self { connection: Connection::open().map_err(NftError::Open)?, seen: None })
    }

    /// The address of its socket.
    pub(crate) fn port(&self) -> u32 {
        self.connection.port()
    }

    /// Our tables as they are at one moment, without the elements of dynamic sets and without counters' values.
    ///
    /// # Errors
    /// When the kernel refuses to tell, or others change tables without pause.
    pub fn read(&mut self) -> Result<Ruleset, NftError> {
        self.seen = None;
        let (ruleset, generation) = self.settled(read::ruleset)?;
        self.seen = Some(generation);
        Ok(ruleset)
    }

    /// The generation, when nobody but us has made a transaction since the last [`Self::read`]: then our tables are
    /// what was read and what was committed since.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn seen(&mut self) -> Result<Option<u32>, NftError> {
        let now = self.generation()?;
        Ok(self.seen.filter(|seen| *seen == now))
    }

    /// The counters in the elements of our dynamic sets, by family and set.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn counters(&mut self) -> Result<Vec<DynamicCounter>, NftError> {
        Ok(self.settled(read::counters)?.0)
    }

    /// The tables of others that have a filter for packets that are forwarded, or come to this host or from it. Names of
    /// devices by their ifindex are for rules that have the number.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn foreign(
        &mut self,
        names: &BTreeMap<u32, String>,
    ) -> Result<Vec<viaduct_doctor::filter::Table>, NftError> {
        self.settled(|connection| foreign::tables(connection, names)).map(|(tables, _)| tables)
    }

    /// A number that changes with every transaction of anybody in this network namespace.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn generation(&mut self) -> Result<u32, NftError> {
        read::generation(&mut self.connection)
    }

    /// Does all changes in one transaction. A table that is added takes the place of one that has meanwhile come to
    /// be; one that is deleted may be missing.
    ///
    /// # Errors
    /// When the kernel refuses one of them; nothing is changed then, and the error says which step it was.
    pub fn commit(&mut self, changes: &[Change]) -> Result<(), NftError> {
        if changes.is_empty() {
            return Ok(());
        }
        let seen = self.seen.take();
        self.transact(changes)?;
        // Each transaction counts one up, and leaves 0 out (`nf_tables_commit`).
        if let Some(next) = seen.map(|seen| seen.checked_add(1).unwrap_or(1)) {
            self.seen = self.generation().ok().filter(|now| *now == next);
        }
        Ok(())
    }

    fn transact(&mut self, changes: &[Change]) -> Result<(), NftError> {
        let mut attempt = 1;
        loop {
            let batch = Batch::new(changes, self.connection.next_seq());
            if batch.overlong() {
                return Err(NftError::Overlong);
            }
            let outcome = self.connection.batch(batch.bytes(), batch.len())?;
            match outcome.refusal {
                None if outcome.acknowledged => return Ok(()),
                None => return Err(NftError::Unanswered { messages: batch.len() }),
                Some(refusal) if transient(&refusal.error) && attempt < ATTEMPTS => attempt += 1,
                Some(Refusal { seq, error, message, offset }) => {
                    return Err(NftError::Refused {
                        step: batch.describe(seq, offset),
                        message,
                        source: error,
                    });
                }
            }
        }
    }

    /// What is read, and its generation.
    fn settled<T>(
        &mut self,
        read: impl Fn(&mut Connection) -> Result<T, NftError>,
    ) -> Result<(T, u32), NftError> {
        for _ in 0..ATTEMPTS {
            let before = read::generation(&mut self.connection)?;
            match read(&mut self.connection) {
                Err(NftError::Unsettled { .. }) => {}
                Err(e) => return Err(e),
                // Several lists make a ruleset only when nothing happened between them.
                Ok(value) if read::generation(&mut self.connection)? == before => {
                    return Ok((value, before));
                }
                Ok(_) => {}
            }
        }
        Err(NftError::Unsettled { attempts: ATTEMPTS })
    }
}

/// The kernel wants to be asked again.
fn transient(error: &io::Error) -> bool {
    /// ERESTART, which libc does not name on every target.
    const ERESTART: i32 = 85;
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR | ERESTART))
}

#[cfg(test)]
mod tests;
