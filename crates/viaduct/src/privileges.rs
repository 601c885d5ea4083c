//! What our own processes may do that are not the daemon.

use std::io;

use rustix::{
    io::Errno,
    thread::{
        CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, set_capabilities,
        set_capabilities_secure_bits, set_no_new_privs,
    },
};

/// Those of these that this process has.
pub(crate) fn had(of: CapabilitySet) -> io::Result<CapabilitySet> {
    Ok(capabilities(None)?.permitted & of)
}

/// Keeps only these, also should something of this process's be executed.
pub(crate) fn keep_only(kept: CapabilitySet) -> io::Result<()> {
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED;
    match set_capabilities_secure_bits(bits) {
        // Without CAP_SETPCAP; whoever took that away has set bounds, too.
        Ok(()) | Err(Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    set_no_new_privs(true)?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}
