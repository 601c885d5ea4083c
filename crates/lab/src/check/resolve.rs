use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use viaduct_types::MacAddr;

use super::{AGAIN, Finding, PATIENCE, Scene, packets};
use crate::{
    file::{Name, Role},
    packet::PacketSocket,
    sentence::{Asker, Resolve},
};

/// A neighbour answers at once; a proxy may wait up to 0.8 s with it (proxy_delay in arp(7)).
const LISTEN: Duration = Duration::from_millis(1200);

/// How long is asked and listened.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// Until whoever has the address had time to say so.
    AllAnswered,
    /// Until somebody has.
    OneAnswered,
}

impl Scene<'_> {
    /// Asks by itself, past the kernel's cache, and collects every answer.
    pub(super) fn resolve(self, resolve: &Resolve) -> io::Result<Finding> {
        let asker = match &resolve.asker {
            Asker::Machine(name) => name,
            Asker::SomebodyOn(switch) => self.somebody_on(switch, resolve)?,
        };
        if !self.cards(asker).iter().any(|card| card.source_for(resolve.address).is_some()) {
            let message = format!("{asker} has no address of {}'s family to ask from", resolve.address);
            return Err(io::Error::other(message));
        }
        let answers = self.inside(asker, || self.ask(asker, resolve.address, Until::AllAnswered))?;
        let expected: BTreeSet<MacAddr> = resolve.to.into_iter().collect();
        let told: Vec<String> = answers
            .iter()
            .map(
                |(told, from)| {
                    if told == from { told.to_string() } else { format!("{told} (in a frame from {from})") }
                },
            )
            .collect();
        let all: BTreeSet<MacAddr> = answers.iter().flat_map(|&(told, from)| [told, from]).collect();
        let detail = if told.is_empty() { "nobody answers".to_owned() } else { told.join(", ") };
        Ok(Finding { holds: all == expected, detail })
    }

    /// Asks from within the machine who has the address, past the kernel's cache: the MAC address that each answer tells, and the one that
    /// it comes from.
    pub(super) fn ask(
        &self,
        asker: &Name,
        address: IpAddr,
        until: Until,
    ) -> io::Result<BTreeSet<(MacAddr, MacAddr)>> {
        let (limit, most) = match until {
            // Twice, should the first one be lost.
            Until::AllAnswered => (LISTEN, 2),
            Until::OneAnswered => (PATIENCE, u32::MAX),
        };
        let mut sockets = Vec::new();
        for card in self.cards(asker) {
            if let Some(source) = card.source_for(address)
                && let Some(question) = packets::question(card.mac, source, address)
            {
                sockets.push((PacketSocket::on(card.index)?, question));
            }
        }
        let mut answers = BTreeSet::new();
        let mut buffer = vec![0; 1 << 16];
        let start = Instant::now();
        let mut rounds = 0;
        while start.elapsed() < limit && !sockets.is_empty() {
            let is_due = start.elapsed() >= AGAIN * rounds && rounds < most;
            for (socket, question) in &sockets {
                if is_due {
                    socket.send(question)?;
                }
                while let Some(heard) = socket.hear(&mut buffer) {
                    answers.extend(packets::answer_for(heard.frame, address).filter(|_| !heard.outgoing));
                }
            }
            if matches!(until, Until::OneAnswered) && !answers.is_empty() {
                break;
            }
            rounds += u32::from(is_due);
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(answers)
    }

    fn somebody_on(&self, switch: &Name, resolve: &Resolve) -> io::Result<&Name> {
        let v4 = resolve.address.is_ipv4();
        let fits = |name: &&Name| {
            matches!(self.lab.machines[*name].role, Role::Outside)
                && self.lab.is_on(name, switch)
                && self.inventory.first_address(name, v4).is_some()
        };
        self.lab.machines.keys().find(fits).ok_or_else(|| {
            io::Error::other(format!("no outside machine on {switch} has an address to ask from"))
        })
    }
}
