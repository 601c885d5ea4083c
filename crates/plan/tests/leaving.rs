//! Guests that leave, and what could reach them on the way.

mod common;

use common::{attach_all, config, converge, host, look};
use viaduct_model::Config;
use viaduct_plan::{Attachments, Op, nft::Change, sim::Host};
use viaduct_types::IfName;

#[test]
fn a_guest_leaves_before_the_filter_forgets_its_own_list() {
    let text = "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n\
         [networks.public]\nmode = \"routed\"\nuplink = \"wan\"\npool = [\"198.51.100.0/24\"]\n\
         [guests.closed]\nallow-in = []\n[[guests.closed.nics]]\nnetwork = \"public\"\naddresses = [\"198.51.100.9\"]\n";
    let with = config(text);
    let without = config(text.split("[guests.closed]").next().unwrap());
    let mut host = host();
    let attachments = attach_all(&mut host, &with);
    converge(&mut host, &with, &attachments);
    for (config, attachments) in [(&without, &attachments), (&with, &Attachments::new())] {
        let steps = look(&mut host, config, attachments).3.ops;
        let link = steps.iter().position(|op| matches!(op, Op::DeleteLinks(_))).unwrap();
        let filter = steps.iter().position(|op| matches!(op, Op::Nft(_))).unwrap();
        assert!(link < filter, "{steps:?}");
    }
}

#[test]
fn an_address_is_given_up_before_the_filter_forgets_what_was_let_in_to_it() {
    let text = |mode: &str, address: &str| {
        config(&format!(
            "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n[networks.n]\nuplink = \"wan\"\n{mode}\n\
             [guests.closed]\nallow-in = []\n[[guests.closed.nics]]\nnetwork = \"n\"\naddresses = [\"198.51.100.{address}\"]\n"
        ))
    };
    for mode in
        ["mode = \"routed\"\npool = [\"198.51.100.0/24\"]", "mode = \"nat\"\nsubnets = [\"198.51.100.0/24\"]"]
    {
        let (before, after) = (text(mode, "9"), text(mode, "10"));
        let mut host = host();
        let attachments = attach_all(&mut host, &before);
        converge(&mut host, &before, &attachments);
        let steps = look(&mut host, &after, &attachments).3.ops;
        let filter = steps.iter().position(|op| matches!(op, Op::Nft(_))).unwrap();
        let lines: Vec<String> = steps[..filter].iter().map(Op::to_string).collect();
        let gives_up = |what: &str| lines.iter().any(|line| line.starts_with('-') && line.contains(what));
        assert!(gives_up("closed.0: address 198.51.100.9"), "{mode}: {lines:?}");
        assert!(mode.contains("nat") || gives_up("route 198.51.100.9"), "{mode}: {lines:?}");
        converge(&mut host, &after, &attachments);
    }
}

#[test]
fn an_address_is_used_when_its_earlier_flows_have_ended() {
    let text = |address: &str| {
        config(&format!(
            "[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n[networks.n]\nuplink = \"wan\"\n\
             mode = \"routed\"\npool = [\"198.51.100.0/24\"]\n\
             [guests.closed]\nallow-out = []\n[[guests.closed.nics]]\nnetwork = \"n\"\naddresses = [\"198.51.100.{address}\"]\n"
        ))
    };
    let (before, after) = (text("9"), text("10"));
    let mut host = host();
    let attachments = attach_all(&mut host, &before);
    converge(&mut host, &before, &attachments);
    let steps = look(&mut host, &after, &attachments).3.ops;
    let sends = |op: &Op| {
        let Op::Nft(changes) = op else { return false };
        changes.iter().any(|c| matches!(c, Change::AddElements { name, .. } if name == "source4"))
    };
    let ended = steps.iter().position(|op| matches!(op, Op::EndFlows { .. })).unwrap();
    assert!(ended < steps.iter().position(sends).unwrap(), "{steps:?}");
}

/// An interface is given back as it was, whatever it was in between, and however often it was looked at.
#[test]
fn a_port_of_a_vnet_is_down_again_if_it_was() {
    let card = "card2".parse().unwrap();
    let text =
        |vnets: &str| config(&format!("[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n{vnets}"));
    let free = text("[vnets.red]\nid = \"97\"\n");
    let port = text("[vnets.red]\nid = \"97\"\nport = \"card2\"\n");
    let tagged = text("[vnets.red]\nid = \"97\"\nport = \"card2\"\nvlan = 20\n");
    let elsewhere = text("[vnets.blue]\nid = \"98\"\nport = \"card2\"\n");
    for was_up in [false, true] {
        let mut host = host();
        host.hardware(&card, Some("52:54:00:12:34:58".parse().unwrap()));
        host.state.links.get_mut(&card).unwrap().up = was_up;
        let mut is = |config| {
            converge(&mut host, config, &Attachments::new());
            let link = &host.state.links[&card];
            (link.up, link.master.is_some(), link.alias.clone())
        };
        for _ in 0..2 {
            let (up, held, alias) = is(&port);
            assert!(up && held && alias.starts_with("viaduct:port:red"), "{alias}");
        }
        let (up, held, alias) = is(&elsewhere);
        assert!(up && held && alias.starts_with("viaduct:port:blue"), "{alias}");
        assert_eq!(is(&free), (was_up, false, String::new()));
        // What carries a VLAN has to be up, whatever it was, and is down again afterwards.
        let carries = if was_up { "" } else { "viaduct:carrier:down" };
        for between in [&port, &free] {
            is(between);
            for _ in 0..2 {
                assert_eq!(is(&tagged), (true, false, carries.to_owned()));
            }
        }
        let (up, held, alias) = is(&port);
        assert!(up && held && alias.starts_with("viaduct:port:red"), "{alias}");
        is(&tagged);
        assert_eq!(is(&free), (was_up, false, String::new()));
    }
}

/// What stands on a card that was down has it up; taken away, the card is down, unless somebody else uses it by then.
#[test]
fn what_carried_a_vlan_is_down_again_if_it_was() {
    let card: IfName = "card2".parse().unwrap();
    let text =
        |more: &str| config(&format!("[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n{more}"));
    let trunk = "[uplinks.trunk]\ninterface = \"card2\"\n";
    let free = text("");
    let idle = text(trunk);
    let on_bridge =
        text(&format!("{trunk}[networks.n]\nmode = \"bridged\"\nuplink = \"trunk\"\nvlan = 20\n"));
    let inside = text(&format!(
        "{trunk}[namespaces.n]\nid = 1\n[[namespaces.n.interfaces]]\nname = \"v\"\ntype = \"vlan\"\nparent = \"trunk\"\nvlan = 20\n\
         addresses = [\"10.2.0.5/24\"]\n"
    ));
    let set_up = text(&format!(
        "{trunk}addresses = [\"192.0.2.9/24\"]\n[networks.n]\nmode = \"bridged\"\nuplink = \"trunk\"\nvlan = 20\n"
    ));
    let with = |alias: &str, up: bool| {
        let mut host = host();
        host.hardware(&card, Some("52:54:00:12:34:58".parse().unwrap()));
        let link = host.state.links.get_mut(&card).unwrap();
        (link.up, link.alias) = (up, alias.to_owned());
        host
    };
    let is = |host: &mut Host, config: &Config| {
        converge(host, config, &Attachments::new());
        let link = &host.state.links[&card];
        (link.up, link.alias.clone())
    };
    let mark = "viaduct:carrier:down".to_owned();
    for carried in [&on_bridge, &inside] {
        for without in [&free, &idle] {
            let mut host = with("", false);
            for _ in 0..2 {
                assert_eq!(is(&mut host, carried), (true, mark.clone()));
            }
            assert_eq!(is(&mut host, without), (false, String::new()));
        }
        let mut host = with("", true);
        assert_eq!(is(&mut host, carried), (true, String::new()));
        assert_eq!(is(&mut host, &free), (true, String::new()));
        // Others' words on a card stay, and beside them nothing can be remembered.
        let mut host = with("to the annex", false);
        assert_eq!(is(&mut host, carried), (true, "to the annex".to_owned()));
        assert_eq!(is(&mut host, &free), (true, "to the annex".to_owned()));
        // The system has given it an address since.
        let mut host = with("", false);
        is(&mut host, carried);
        host.address(&card, "198.51.100.77/24".parse().unwrap());
        assert_eq!(is(&mut host, &free), (true, String::new()));
    }
    // What the file sets up for the host itself is no mere carrier.
    let mut host = with("", false);
    assert_eq!(is(&mut host, &set_up), (true, String::new()));
}
