//! What was carried and what was dropped. Each number has one writer, a worker; readers see some recent value.

use std::{
    collections::BTreeMap,
    ops::AddAssign,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use viaduct_types::VnetId;
use viaduct_vnet_proto::data::{PeerId, Spi};

/// A number with one writer.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Only its own worker may call this: it is no atomic addition, which costs more.
    pub(super) fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    pub(super) fn one(&self) {
        self.add(1);
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($(#[$about:meta])* $public:ident, $live:ident { $($(#[$doc:meta])* $name:ident,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $public { $($(#[$doc])* pub $name: u64,)* }

        #[derive(Debug, Default)]
        pub(super) struct $live { $(pub(super) $name: Counter,)* }

        impl $live {
            pub(super) fn read(&self) -> $public {
                $public { $($name: self.$name.value(),)* }
            }
        }

        impl AddAssign for $public {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }

        impl $public {
            /// Each number with its name, in the order of the definition.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// What came to the sockets and could not be told to belong to anybody, and what did not get further.
    HostCounters, LiveHost {
        /// Datagrams of QUIC.
        quic,
        /// Those that the control side was too slow for.
        quic_dropped,
        /// Events that the control side was too slow for, and those of one machine that were more than its part.
        events_dropped,
        /// Datagrams that are too short to be ESP, or longer than any may be.
        malformed,
        /// For no association.
        unknown_spi,
        /// Received before, or too old to tell.
        replayed,
        /// Not by whoever has the key, or changed on the way.
        forged,
        /// Authentic, and yet no Ethernet frame.
        not_a_frame,
        /// Sent to find out whether a peer's further ports are reached.
        probes,
        /// Of others, passed on.
        relayed,
        /// Of others, not passed on: more than they may send.
        over_rate,
        /// Not received: more than a socket holds while its worker is busy, or with a wrong checksum. The kernel counts both
        /// as one.
        overflow,
        /// Calls that received.
        receive_calls,
        /// Calls that sent.
        send_calls,
        /// Calls that read something from taps.
        tap_reads,
        /// Calls that wrote to taps.
        tap_writes,
    }
}

counters! {
    /// Frames of one vnet.
    VnetCounters, LiveVnet {
        /// From this host's bridge. A super-frame counts as the frames it is cut into.
        frames_out,
        /// Their bytes.
        bytes_out,
        /// To this host's bridge.
        frames_in,
        /// Their bytes.
        bytes_in,
        /// From the bridge, dropped: no frame, or a super-frame of a kind that there is not.
        malformed,
        /// From the bridge, dropped: nobody claimed the source.
        unknown_source,
        /// From or to a muted port, dropped.
        muted,
        /// From the bridge, dropped: the destination is nowhere.
        unknown_destination,
        /// From the bridge, dropped: more for everybody than one bridge may give.
        storm,
        /// From the bridge, dropped: there are no keys or no path yet.
        no_association,
        /// From the bridge, dropped: longer than the path.
        too_big,
        /// From the bridge, longer than the path: packets of IPv4 that may be cut, and were, into fragments that count as frames.
        cut_ipv4,
        /// From a peer, dropped: the source is not that peer's.
        foreign_source,
        /// From a peer, dropped: the destination is not here.
        not_here,
        /// From a peer, sent on to where the guest has gone.
        forwarded,
        /// To the bridge, dropped: the tap did not take it (it is down, or the host is out of memory).
        tap_refused,
    }
}

counters! {
    /// Datagrams to and from one peer.
    PeerCounters, LivePeer {
        /// Sent.
        datagrams_out,
        /// Their bytes, as UDP carries them.
        bytes_out,
        /// Received and authentic.
        datagrams_in,
        /// Their bytes.
        bytes_in,
        /// Of what was received, the datagrams that came at the first port.
        datagrams_in_first,
        /// How often the kernel would not cut datagrams for this path; what it refused was sent one by one.
        segmentation_refused,
        /// Sent one by one because of that.
        sent_singly,
        /// How many workers send to it one by one at the moment.
        unsegmented,
        /// Frames sent in two, as they are longer than the path is known to take.
        in_two,
        /// Not sent: too large for the path.
        too_big,
        /// Not sent for another reason: no route, the firewall, no memory.
        send_failed,
    }
}

counters! {
    /// What is passed on from one host to another one.
    RelayCounters, LiveRelay {
        /// Datagrams.
        datagrams,
        /// Their bytes, as UDP carries them.
        bytes,
        /// Datagrams that were more than may be sent.
        over_rate,
        /// How often the kernel would not cut datagrams for where they go; what it refused was sent one by one.
        segmentation_refused,
        /// Sent one by one because of that.
        sent_singly,
        /// How many are sent so, over all workers, before the kernel is asked to cut again.
        unsegmented,
        /// Not sent: too large for where they go, or for another reason.
        send_failed,
    }
}

impl HostCounters {
    /// Those that say what was done, and not that something was lost.
    const WORK: [&str; 7] =
        ["quic", "probes", "relayed", "receive_calls", "send_calls", "tap_reads", "tap_writes"];

    /// What was lost, each with its name.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.named().filter(|(name, _)| !Self::WORK.contains(name))
    }

    /// What was done, each with its name.
    pub fn work(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.named().filter(|(name, _)| Self::WORK.contains(name))
    }
}

/// All numbers since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Of the sockets.
    pub host: HostCounters,
    /// Of each vnet that there is.
    pub vnets: BTreeMap<VnetId, VnetCounters>,
    /// Of each peer with a path.
    pub peers: BTreeMap<PeerId, PeerCounters>,
    /// The same of each worker.
    pub workers: BTreeMap<PeerId, Vec<PeerCounters>>,
    /// Of what is passed on, by what it begins with when it comes.
    pub relays: BTreeMap<Spi, RelayCounters>,
}
