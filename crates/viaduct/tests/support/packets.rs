//! What a host's guests are for: packets. Somebody outside who answers, and guests who ask.

use serde_json::Value;

use super::World;

impl World {
    /// Gives the outside addresses, ways to the guests of [`super::GOOD`], and the host a way to it.
    pub(crate) fn connect_outside(&self) {
        for line in [
            "ip -n outside link set lo up",
            "ip -n outside address add 203.0.113.1/24 dev eth0",
            "ip -n outside address add 2001:db8:28::1/64 dev eth0 nodad",
            "ip -n outside -6 route add 2001:db8:28:1::/64 via 2001:db8:28::2",
            "ip -6 route replace default via 2001:db8:28::1 dev eth0",
        ] {
            self.sh(line);
        }
    }

    /// Makes what is configured, with a guest of each kind of [`super::GOOD`] and somebody outside.
    pub(crate) fn made(&self) {
        self.connect_outside();
        self.good("apply");
        for guest in ["ldap", "web", "deb6"] {
            self.attach(guest);
        }
    }

    /// Whether an echo comes back.
    pub(crate) fn echoes(&self, from: &str, to: &str) -> bool {
        let line = format!(
            "ip netns exec {from} ping -n -c 3 -i 0.2 -W 2 {to} >/dev/null 2>&1 && echo yes || echo no"
        );
        self.sh(&line) == "yes\n"
    }

    /// The ways of the guests of [`super::GOOD`], each with its name.
    pub(crate) fn ways(&self) -> Vec<(&'static str, bool)> {
        vec![
            ("nat", self.echoes("web", "203.0.113.1")),
            ("nat IPv6", self.echoes("web", "2001:db8:28::1")),
            ("routed", self.echoes("deb6", "203.0.113.1")),
            ("routed IPv6", self.echoes("deb6", "2001:db8:28::1")),
            ("from outside", self.echoes("outside", "203.0.113.100")),
        ]
    }

    /// All of these ways work, or none does.
    #[track_caller]
    pub(crate) fn all_ways(&self, work: bool, when: &str) {
        let ways = self.ways();
        assert!(ways.iter().all(|(_, works)| *works == work), "{when}: {ways:?}");
    }

    /// What the daemon says of its repairs.
    pub(crate) fn repairs(&self) -> Vec<Value> {
        self.good("status --json").json()["daemon"]["repairs"].as_array().unwrap().clone()
    }
}
