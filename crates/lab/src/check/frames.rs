use std::{
    collections::BTreeMap,
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use viaduct_types::MacAddr;

use super::{Finding, Scene};
use crate::{
    file::{Name, Role},
    packet::PacketSocket,
    sentence::{Frames, Reach, Target},
    world::inside,
};

use super::packets;

/// Enough for a ping from everybody who may cause the frames.
const LISTEN: Duration = Duration::from_millis(1500);
/// On a busy machine the pings of a round may all be late.
const ATTEMPTS: usize = 4;

/// How many frames were seen, by source MAC and VLAN.
type Seen = BTreeMap<(MacAddr, Option<u16>), usize>;

impl Scene<'_> {
    /// Looks at all frames of the address while everybody gives it reason to speak.
    pub(super) fn frames(self, frames: &Frames) -> io::Result<Finding> {
        let ear = self.ear_at(&frames.on)?;
        let mut seen = Seen::new();
        for _ in 0..ATTEMPTS {
            self.watch(frames, &ear, &mut seen);
            if !seen.is_empty() {
                break;
            }
        }
        if ear.overrun() {
            return Err(io::Error::other("more frames than could be looked at"));
        }
        let tag = |vlan: &Option<u16>| vlan.map_or_else(String::new, |vlan| format!(" in VLAN {vlan}"));
        let told: Vec<String> =
            seen.iter().map(|((mac, vlan), count)| format!("{count} from {mac}{}", tag(vlan))).collect();
        if told.is_empty() {
            return Ok(Finding::fails(format!("no frame of {} was seen on {}", frames.of, frames.on)));
        }
        let right = |&(mac, vlan): &(_, Option<u16>)| {
            mac == frames.carry && (frames.vlan.is_none() || vlan == frames.vlan)
        };
        Ok(Finding { holds: seen.keys().all(right), detail: told.join(", ") })
    }

    fn watch(self, frames: &Frames, ear: &PacketSocket, seen: &mut Seen) {
        let deadline = Instant::now() + LISTEN;
        std::thread::scope(|scope| {
            for (from, to) in self.causes(frames) {
                scope.spawn(move || {
                    let reach = Reach {
                        from,
                        source: None,
                        reaches: false,
                        to: None,
                        at: Some(Target { address: to, service: None }),
                        seen_as: None,
                    };
                    // Only what is seen on the way counts.
                    let _ = self.ping(&reach, to, LISTEN / 2);
                });
            }
            let mut buffer = vec![0; 1 << 16];
            while Instant::now() < deadline {
                while let Some(heard) = ear.hear(&mut buffer) {
                    let relevant = !heard.outgoing || self.lab.switches.contains_key(&frames.on);
                    if let Some((mac, sender)) = packets::sender(heard.frame).filter(|_| relevant)
                        && sender == frames.of
                    {
                        *seen.entry((mac, heard.vlan)).or_default() += 1;
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
    }

    fn ear_at(&self, place: &Name) -> io::Result<PacketSocket> {
        if self.lab.switches.contains_key(place) {
            return self.ear_on_switch(place);
        }
        inside(self.world.machines[place].net.as_fd(), PacketSocket::everywhere)
    }

    /// Who pings whom so that the address speaks: outside machines ping it; hosts and guests ping outside machines,
    /// whose answers come back through whatever the address stands for.
    fn causes(&self, frames: &Frames) -> Vec<(Name, std::net::IpAddr)> {
        let v4 = frames.of.is_ipv4();
        let outside = |name: &Name| matches!(self.lab.machines[name].role, Role::Outside);
        let goal = self
            .lab
            .machines
            .keys()
            .filter(|name| outside(name) && (self.lab.is_on(name, &frames.on) || **name == frames.on))
            .find_map(|name| self.inventory.first_address(name, v4));
        let mut causes = Vec::new();
        for name in self.lab.machines.keys() {
            if self.inventory.first_address(name, v4).is_none() {
                continue;
            }
            if outside(name) {
                causes.push((name.clone(), frames.of));
            } else if let Some(goal) = goal {
                causes.push((name.clone(), goal));
            }
        }
        causes
    }
}
