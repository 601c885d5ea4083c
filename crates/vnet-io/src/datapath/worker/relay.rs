//! What goes by way of others, and what others send by way of this host.

use viaduct_vnet_proto::data::Spi;

use super::{Worker, inbound::Decided, outbox::Target, receive::Arrived, wait::By};
use crate::datapath::{api::Via, cipher::ROOM, mailbox::Relayed};

impl Worker {
    /// A datagram that begins with a number that stands for no keys. What was passed on to this host is never passed on from
    /// here, and what is in it is taken out once. What is to be passed on comes to the first port: from one address to it all is one
    /// worker's, which knows how much that is.
    pub(super) fn relayed(
        &mut self,
        arrived: &Arrived,
        spi: Spi,
        (begin, end): (usize, usize),
        last: &mut Option<Decided>,
    ) {
        let Self { receive, host, relays, buckets, outbox, routes, .. } = self;
        let length = end - begin;
        match relays.get(&spi) {
            Some(Relayed::Onward(relay, counters))
                if relay.from == arrived.from
                    && !arrived.is_brought
                    && arrived.by == By::First
                    && length > Via::HEADER =>
            {
                let bucket = buckets.entry(spi).or_default();
                if !bucket.take(self.start.elapsed(), relay.bytes_per_second, length as u64) {
                    counters.over_rate.one();
                    host.over_rate.one();
                    return;
                }
                let place = outbox.datagram(Target::Relayed(spi), length, routes);
                let place = &mut place[ROOM..];
                place.copy_from_slice(&receive.bytes()[begin..end]);
                place[..Via::HEADER].copy_from_slice(&relay.onward.value().to_be_bytes());
                counters.datagrams.one();
                counters.bytes.add(length as u64);
            }
            Some(Relayed::Brought(brought))
                if brought.relay == arrived.from && !arrived.is_brought && length > Via::HEADER =>
            {
                let inner = Arrived { from: brought.from, to: None, is_brought: true, ..*arrived };
                self.datagram(&inner, begin + Via::HEADER, end, last);
            }
            Some(_) | None => host.unknown_spi.one(),
        }
    }
}
