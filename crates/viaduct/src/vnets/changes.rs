//! What is different about vnets and peers between two configurations: the kernel has none of it, so that no step that is
//! done with the kernel tells of it.

use std::collections::BTreeMap;

use viaduct_model::{Config, Discovery, Peer, Relay, Security, Vnet};

/// A line for each vnet and peer that comes, goes or is different. What was found out about them is no difference.
pub(crate) fn changes(before: Option<&Config>, after: Option<&Config>) -> Vec<String> {
    let (no_peers, no_vnets) = (BTreeMap::new(), BTreeMap::new());
    let peers = |config: Option<&Config>| config.map_or(no_peers.clone(), |config| config.peers.clone());
    let vnets = |config: Option<&Config>| config.map_or(no_vnets.clone(), |config| config.vnets.clone());
    let discovery = |config: Option<&Config>| {
        let discovery = config.and_then(|config| Some((config.host.clone(), config.discovery.clone()?)));
        discovery.into_iter().collect::<BTreeMap<_, _>>()
    };
    // There is one, of this host.
    let relay = |config: Option<&Config>| {
        let relay = config.and_then(|config| Some((config.host.clone(), config.relay.clone()?)));
        relay.into_iter().collect::<BTreeMap<_, _>>()
    };
    let is_single = |config: Option<&Config>| {
        config
            .is_some_and(|config| config.single_port && (!config.vnets.is_empty() || config.relay.is_some()))
    };
    let mut lines = compared("peer", &peers(before), &peers(after), of_peer);
    lines.extend(compared("vnet", &vnets(before), &vnets(after), of_vnet));
    lines.extend(compared("discovery", &discovery(before), &discovery(after), of_discovery));
    if after.is_some() && is_single(before) != is_single(after) {
        let what = if is_single(after) { "one carries everything" } else { "one for each thread" };
        lines.push(format!("~ ports of vnets: {what}"));
    }
    lines.extend(compared("relay", &relay(before), &relay(after), of_relay));
    lines
}

/// What each property is, in words.
type Properties = Vec<String>;

fn compared<N: Ord + std::fmt::Display, T>(
    kind: &str,
    before: &BTreeMap<N, T>,
    after: &BTreeMap<N, T>,
    words: impl Fn(&T) -> Properties,
) -> Vec<String> {
    let mut lines = Vec::new();
    for name in before.keys().filter(|name| !after.contains_key(name)) {
        lines.push(format!("- {kind} {name}"));
    }
    for (name, wanted) in after {
        let wanted = words(wanted);
        match before.get(name).map(&words) {
            None => lines.push(format!("+ {kind} {name}: {}", wanted.join(", "))),
            Some(known) => {
                let other: Vec<&str> = wanted
                    .iter()
                    .zip(&known)
                    .filter(|(wanted, known)| wanted != known)
                    .map(|(wanted, _)| wanted.as_str())
                    .collect();
                if !other.is_empty() {
                    lines.push(format!("~ {kind} {name}: {}", other.join(", ")));
                }
            }
        }
    }
    lines
}

fn of_peer(peer: &Peer) -> Properties {
    let endpoints: Vec<String> = peer.endpoints.iter().map(ToString::to_string).collect();
    let place =
        if endpoints.is_empty() { "it dials".to_owned() } else { format!("at {}", endpoints.join(" or ")) };
    vec![place, format!("key {}", peer.key)]
}

fn of_discovery(discovery: &Discovery) -> Properties {
    let interfaces: Vec<&str> = discovery.interfaces.iter().map(viaduct_types::IfName::as_str).collect();
    let groups: Vec<String> = discovery.groups.iter().map(ToString::to_string).collect();
    let port = discovery.port;
    vec![format!("on {}", interfaces.join(" ")), format!("groups {}, port {port}", groups.join(" "))]
}

fn of_relay(relay: &Relay) -> Properties {
    let peers: Vec<&str> = relay.peers.iter().map(viaduct_types::PeerName::as_str).collect();
    vec![format!("for {}", peers.join(" ")), format!("{} Mbit/s each", relay.rate)]
}

fn of_vnet(vnet: &Vnet) -> Properties {
    let peers: Vec<&str> = vnet.peers.iter().map(viaduct_types::PeerName::as_str).collect();
    let peers = if peers.is_empty() { "no peers".to_owned() } else { format!("peers {}", peers.join(" ")) };
    let learning = if vnet.learning {
        "machines that no file knows are reached"
    } else {
        "only machines that are attached"
    };
    let cipher = match (vnet.security, vnet.cipher) {
        (Security::None, _) => "sealed by nothing".to_owned(),
        (_, Some(cipher)) => format!("sealed by {cipher}"),
        (_, None) => "sealed by whatever both ends do best".to_owned(),
    };
    let security = format!("security {}", vnet.security);
    vec![format!("id {}", vnet.id), security, cipher, peers, learning.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(peers: &str, vnet: &str) -> Config {
        let text = format!(
            "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n{peers}\n[vnets.blue]\nid = \"97\"\n{vnet}\n"
        );
        let source = viaduct_model::Source { name: "viaduct.toml".to_owned(), text };
        viaduct_model::load(&[source]).unwrap_or_else(|errors| panic!("{}", errors.render(false))).config
    }

    const PEER: &str =
        "[peers.b]\nendpoint = \"192.0.2.1:1798\"\nkey = \"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\"";

    #[test]
    fn what_only_the_other_hosts_notice_is_said() {
        let before = config("", "");
        let after = config(PEER, "peers = [\"b\"]\nsecurity = \"auth\"");
        assert_eq!(
            changes(Some(&before), Some(&after)),
            [
                "+ peer b: at 192.0.2.1:1798, key AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=",
                "~ vnet blue: security auth, peers b",
            ]
        );
        assert_eq!(
            changes(Some(&after), Some(&before)),
            ["- peer b", "~ vnet blue: security conf, no peers"]
        );
        assert_eq!(changes(Some(&after), None), ["- peer b", "- vnet blue"]);
        let two = format!("{PEER}\n{}", PEER.replace("peers.b", "peers.c").replace("AQI", "AQM"));
        let relaying = config(&format!("{two}\n[relay]\nfor = [\"b\", \"c\"]"), "");
        let not = config(&two, "");
        let mut single = after.clone();
        single.single_port = true;
        assert_eq!(changes(Some(&after), Some(&single)), ["~ ports of vnets: one carries everything"]);
        assert_eq!(changes(Some(&single), Some(&after)), ["~ ports of vnets: one for each thread"]);
        let plain = config("", "security = \"none\"");
        assert_eq!(changes(Some(&before), Some(&plain)), ["~ vnet blue: security none, sealed by nothing"]);
        assert_eq!(changes(Some(&not), Some(&relaying)), ["+ relay h: for b c, 100 Mbit/s each"]);
    }

    #[test]
    fn what_was_found_out_is_no_change() {
        let before = config(PEER, "");
        let mut after = before.clone();
        after.vnets.values_mut().for_each(|vnet| vnet.mtu = Some(1400));
        assert_eq!(changes(Some(&before), Some(&after)), Vec::<String>::new());
    }
}
