//! Changes brought together: each thing once, and not without bound.

use std::collections::{BTreeMap, BTreeSet};

use viaduct_plan::Sysctl;

use super::{By, Event, What};

/// Events, each about another thing.
#[derive(Default)]
pub(super) struct Gathered {
    events: Vec<Event>,
    /// Where in `events` each object is.
    places: BTreeMap<String, usize>,
    /// Whether there was more.
    pub(super) lost: bool,
}

impl Gathered {
    /// So many are told; whoever has to look at more may as well look at everything.
    pub(super) const ROOM: usize = 1024;

    pub(super) fn add(&mut self, mut event: Event) {
        event.object = plain(&event.object);
        let full = self.events.len() == Self::ROOM;
        match self.places.get(&event.object).and_then(|place| self.events.get_mut(*place)) {
            Some(known) => {
                known.removed = event.removed;
                known.ours |= event.ours;
                match (&known.by, &event.by) {
                    (By::Untold, _) | (_, By::Process(_)) => known.by = event.by,
                    (By::Somebody | By::Process(_), By::Untold | By::Somebody) => {}
                }
            }
            None if full => self.lost = true,
            None => {
                self.places.insert(event.object.clone(), self.events.len());
                self.events.push(event);
            }
        }
    }

    /// Adds what somebody did.
    pub(super) fn extend(&mut self, others: Self, by: &By) {
        self.lost |= others.lost;
        others.events.into_iter().for_each(|event| self.add(Event { by: by.clone(), ..event }));
    }

    pub(super) fn finish(mut self) -> Vec<Event> {
        if self.lost {
            let object = "more than could be kept".to_owned();
            self.events.push(Event { what: What::Lost, removed: false, object, ours: false, by: By::Untold });
        }
        self.events
    }
}

/// A text that somebody else chose, for a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Settings that rtnetlink tells of and files that were written to, by none when only we did, are two sides of one
/// thing. Gives those that others changed.
pub(super) fn settle(told: BTreeSet<Sysctl>, written: BTreeMap<Sysctl, Option<By>>) -> BTreeMap<Sysctl, By> {
    let mut settled = BTreeMap::new();
    for key in told {
        match causes(&key).iter().find_map(|cause| written.get(cause)) {
            Some(Some(by)) => drop(settled.insert(key, by.clone())),
            Some(None) => {}
            None => drop(settled.insert(key, By::Untold)),
        }
    }
    settled.extend(written.into_iter().filter_map(|(key, by)| Some((key, by?))));
    settled
}

/// What somebody may have written to that changes a setting: itself, or the one for all devices (`inet_forward_change`
/// in net/ipv4/devinet.c and `addrconf_forward_change` in net/ipv6/addrconf.c).
fn causes(key: &Sysctl) -> Vec<Sysctl> {
    let mut causes = vec![key.clone()];
    if let ["net", family, "conf", _, name] = key.path().split('/').collect::<Vec<_>>()[..] {
        causes.push(Sysctl::all(family, name));
        if (family, name) == ("ipv4", "forwarding") {
            causes.push(Sysctl::from_path("net/ipv4/ip_forward".to_owned()));
        }
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::Culprit;

    fn process(pid: u32) -> By {
        By::Process(Culprit { pid, program: "ip".to_owned(), parent: None })
    }

    fn event(object: &str, removed: bool, by: By) -> Event {
        Event { what: What::Link, removed, object: object.to_owned(), ours: false, by }
    }

    #[test]
    fn each_thing_is_told_once_with_what_is_known_best() {
        let mut gathered = Gathered::default();
        gathered.add(event("link a", true, By::Untold));
        gathered.add(event("link \u{1b}b", true, By::Somebody));
        gathered.add(event("link a", false, process(1)));
        gathered.add(Event { ours: true, ..event("link a", true, By::Somebody) });
        gathered.add(event("link \u{1b}b", false, By::Untold));
        let expected = [
            Event { ours: true, ..event("link a", true, process(1)) },
            event("link \u{fffd}b", false, By::Somebody),
        ];
        assert_eq!(gathered.finish(), expected);
    }

    #[test]
    fn a_transaction_is_its_makers() {
        let (mut gathered, mut transaction) = (Gathered::default(), Gathered::default());
        transaction.add(event("table", true, By::Untold));
        transaction.lost = true;
        gathered.extend(transaction, &process(2));
        let told = gathered.finish();
        assert_eq!(told[0], event("table", true, process(2)));
        assert_eq!(told.iter().map(|event| event.what).collect::<Vec<_>>(), [What::Link, What::Lost]);
    }

    #[test]
    fn a_storm_is_cut_and_says_so() {
        let mut gathered = Gathered::default();
        for i in 0..10_000 {
            gathered.add(event(&format!("link {}", i / 2), false, By::Untold));
        }
        let told = gathered.finish();
        assert_eq!(told.len(), Gathered::ROOM + 1);
        assert_eq!(told.iter().filter(|event| event.what == What::Lost).count(), 1);
    }

    #[test]
    fn a_setting_has_the_one_who_wrote_to_it_or_to_that_of_all() {
        let key = |path: &str| Sysctl::from_path(path.to_owned());
        let told = [
            key("net/ipv4/conf/a/forwarding"),
            key("net/ipv4/conf/a/rp_filter"),
            key("net/ipv6/conf/a/forwarding"),
            key("net/ipv6/conf/b/forwarding"),
        ];
        let written = [
            (key("net/ipv4/ip_forward"), Some(process(1))),
            (key("net/ipv4/conf/a/send_redirects"), None),
            (key("net/ipv6/conf/all/forwarding"), None),
            (key("net/ipv6/conf/b/forwarding"), Some(process(2))),
        ];
        let settled = settle(told.clone().into(), written.into());
        let expected = [
            (key("net/ipv4/ip_forward"), process(1)),
            (told[0].clone(), process(1)),
            (told[1].clone(), By::Untold),
            // Ours: net/ipv6/conf/a/forwarding.
            (told[3].clone(), process(2)),
        ];
        assert_eq!(settled, expected.into());
    }
}
