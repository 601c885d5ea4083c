//! A host's key pair: who it is for the hosts that it shares vnets with.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use viaduct_types::HostKey;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use viaduct_types::{from_base64, to_base64};
use zeroize::Zeroizing;

/// Its file's name in the state directory.
const FILE: &str = "identity.key";

/// Why the key pair is not there.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file system refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Not as it was written.
    #[error(
        "{} is no host key: put back what it was; without it, remove it, and give the other hosts the new key that \
         `viaduct identity` prints then",
        path.display()
    )]
    Damaged {
        /// Which.
        path: PathBuf,
    },
    /// Others may read it.
    #[error("{} can be read by others (mode {mode:03o}): chmod 600, and make a new one if somebody has read it", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// No randomness, or a bad library.
    #[error("cannot make a key pair")]
    Crypto,
}

/// A host's key pair.
pub struct Identity {
    seed: Zeroizing<[u8; 32]>,
    public: HostKey,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.public)
    }
}

impl Identity {
    /// The file that the one of a state directory is in.
    pub fn path(state: &Path) -> PathBuf {
        state.join(FILE)
    }

    /// The one of this state directory, made when there is none.
    ///
    /// # Errors
    /// When its file cannot be read or written, is none, or others may read it.
    pub fn open(state: &Path) -> Result<Self, IdentityError> {
        let path = Self::path(state);
        match Self::load(&path) {
            Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::make(&path)
            }
            other => other,
        }
    }

    /// The public key, if there is a pair.
    pub fn known(state: &Path) -> Option<HostKey> {
        Self::load(&Self::path(state)).ok().map(|identity| identity.public)
    }

    fn load(path: &Path) -> Result<Self, IdentityError> {
        let failed = |what| move |source| IdentityError::Io { what, path: path.to_owned(), source };
        let mode = fs::metadata(path).map_err(failed("read"))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Open { path: path.to_owned(), mode });
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(failed("read"))?);
        let damaged = || IdentityError::Damaged { path: path.to_owned() };
        Self::from_seed(Zeroizing::new(from_base64(text.trim_end()).ok_or_else(damaged)?))
    }

    /// Whole or not at all, and the first of two who do it at once.
    fn make(path: &Path) -> Result<Self, IdentityError> {
        let failed = |what| move |source| IdentityError::Io { what, path: path.to_owned(), source };
        let mut seed = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(&mut *seed).map_err(|_| IdentityError::Crypto)?;
        let identity = Self::from_seed(seed)?;
        let new = path.with_extension(format!("new.{}", std::process::id()));
        let write = || {
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            writeln!(file, "{}", *Zeroizing::new(to_base64(&identity.seed)))?;
            file.sync_all()
        };
        let written = write().map_err(failed("write"));
        let linked = written.and_then(|()| fs::hard_link(&new, path).map_err(failed("make")));
        let _ = fs::remove_file(&new);
        match linked {
            Ok(()) => Ok(identity),
            Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                Self::load(path)
            }
            Err(error) => Err(error),
        }
    }

    /// The pair that follows from 32 secret bytes.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn from_seed(seed: Zeroizing<[u8; 32]>) -> Result<Self, IdentityError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).map_err(|_| IdentityError::Crypto)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| IdentityError::Crypto)?;
        Ok(Self { seed, public: HostKey(public) })
    }

    /// What other hosts know it by.
    pub fn public(&self) -> HostKey {
        self.public
    }

    /// The pair as TLS takes it: PKCS #8 (RFC 8410, section 7).
    pub(super) fn pkcs8(&self) -> Zeroizing<Vec<u8>> {
        const HEAD: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        Zeroizing::new([&HEAD[..], &*self.seed].concat())
    }

    /// Its signature, by Ed25519.
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        // The seed was good when it was read.
        let pair = Ed25519KeyPair::from_seed_unchecked(&*self.seed);
        pair.map_or_else(|_| Vec::new(), |pair| pair.sign(message).as_ref().to_vec())
    }

    /// Something that only this host knows, and is the same at each start.
    pub(super) fn secret(&self, purpose: &[u8]) -> Zeroizing<[u8; 32]> {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &*self.seed);
        let tag = aws_lc_rs::hmac::sign(&key, purpose);
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(tag.as_ref());
        secret
    }
}
