//! Packets on their way.

use rustix::{
    fs::CWD,
    mount::{OpenTreeFlags, open_tree},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    thread::{MembarrierCommand, membarrier},
};

/// Waits until each packet that was on its way through the host has gone its way, be it by the filter as it was before.
///
/// The kernel takes a packet from one hook to the next without leaving the processor to others (RCU), and enters its
/// flow in the connection tracking at the last one. So who looks for flows right after a change of the filter would not
/// see the flow of a packet that an earlier hook has let through.
pub(crate) fn packets_have_passed() -> Result<(), std::io::Error> {
    // Each of them waits for all readers of RCU. The first one in a hurry, which takes a tenth of a millisecond; the
    // others until every processor has come to it by itself, some ten.
    if mount_has_gone().is_ok() {
        return Ok(());
    }
    // kernel/sched/membarrier.c; not on kernels with nohz_full.
    if membarrier(MembarrierCommand::Global).is_ok() {
        return Ok(());
    }
    // The end of a packet socket does so, too (`packet_release` in net/packet/af_packet.c).
    drop(socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?);
    Ok(())
}

/// Makes a mount that is nowhere, and that nobody else can see, and takes it away: the kernel does not go on before
/// nobody can be reading of it (`namespace_unlock` in fs/namespace.c calls `synchronize_rcu_expedited`).
fn mount_has_gone() -> rustix::io::Result<()> {
    drop(open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?);
    Ok(())
}
