//! `viaduct set … --save` changes what it was asked to, and nothing else.

#![expect(clippy::unwrap_used, reason = "in tests; the lint's own exception does not reach their helpers")]

mod common;

use common::{EXAMPLES, source};
use proptest::prelude::*;
use viaduct_model::{
    Config, Source,
    edit::{Edit, EditError, EditOutcome, apply},
    load,
};
use viaduct_types::{GuestName, NicId};

const BASE: &str = r#"[uplinks.wan]
interface = "eth0"
[networks.lan]
mode = "nat"
uplink = "wan"
subnets = ["192.168.1.0/24", "2001:db8:1::/64"]
"#;

fn add(nic: &str, address: &str) -> Edit {
    Edit::AddAddress { nic: nic.parse().unwrap(), address: address.parse().unwrap() }
}

fn remove(nic: &str, address: &str) -> Edit {
    Edit::RemoveAddress { nic: nic.parse().unwrap(), address: address.parse().unwrap() }
}

fn publish(guest: &str, publish: &str) -> Edit {
    Edit::Publish { guest: guest.parse().unwrap(), publish: publish.parse().unwrap() }
}

fn unpublish(guest: &str, publish: &str) -> Edit {
    Edit::Unpublish { guest: guest.parse().unwrap(), publish: publish.parse().unwrap() }
}

/// The end of a file after `BASE` with the edit made.
fn edited(rest: &str, edit: &Edit) -> String {
    let mut sources = [source("viaduct.toml", &format!("{BASE}{rest}"))];
    match apply(&mut sources, edit) {
        Ok(outcome) => assert_eq!(outcome, EditOutcome::Changed { source: 0 }, "{rest}"),
        Err(error) => panic!("{rest}\n{error}"),
    }
    sources[0].text.strip_prefix(BASE).unwrap().to_owned()
}

#[test]
fn lists_keep_their_style() {
    let nic =
        |list: &str| format!("[[guests.web.nics]]\nnetwork = \"lan\" # here\naddresses = {list} # ours\n");
    for (before, after) in [
        ("[]", "[\"192.168.1.9\"]"),
        ("[ ]", "[\"192.168.1.9\"]"),
        ("[\"192.168.1.5\"]", "[\"192.168.1.5\", \"192.168.1.9\"]"),
        ("[ \"192.168.1.5\" ]", "[ \"192.168.1.5\", \"192.168.1.9\" ]"),
        ("[\n  \"192.168.1.5\",\n]", "[\n  \"192.168.1.5\",\n  \"192.168.1.9\",\n]"),
        ("[\n  \"192.168.1.5\"\n]", "[\n  \"192.168.1.5\",\n  \"192.168.1.9\"\n]"),
        (
            "[\n  \"192.168.1.5\", # first\n  \"192.168.1.6\" # second\n]",
            "[\n  \"192.168.1.5\", # first\n  \"192.168.1.6\", # second\n  \"192.168.1.9\"\n]",
        ),
        (
            "[\n\t\"192.168.1.5\", \"192.168.1.6\",\n\t# end\n]",
            "[\n\t\"192.168.1.5\", \"192.168.1.6\",\n\t# end\n\t\"192.168.1.9\",\n]",
        ),
        ("[\n  # none\n]", "[\n  # none\n\"192.168.1.9\"\n]"),
    ] {
        assert_eq!(edited(&nic(before), &add("web", "192.168.1.9")), nic(after));
    }
}

#[test]
fn what_goes_takes_its_comment_along_and_no_other() {
    let guest = |list: &str| {
        format!(
            "[guests.web]\npublish = {list}\n[[guests.web.nics]]\nnetwork = \"lan\"\naddresses = [\"192.168.1.5\"]\n"
        )
    };
    for (before, after) in [
        ("[\"80:80\"]", "[]"),
        ("[\"80:80/tcp\", \"81:81\"]", "[\"81:81\"]"),
        ("[\"79:79\", \"80:80\"]", "[\"79:79\"]"),
        ("[ \"79:79\", \"80:80\", \"81:81\" ]", "[ \"79:79\", \"81:81\" ]"),
        ("[\n  \"80:80\",\n]", "[\n]"),
        (
            "[\n  \"79:79\", # a\n  \"80:80\", # b\n  \"81:81\", # c\n]",
            "[\n  \"79:79\", # a\n  \"81:81\", # c\n]",
        ),
        ("[\n  \"79:79\", # a\n  \"80:80\" # b\n]", "[\n  \"79:79\" # a\n]"),
        ("[\n  \"79:79\", \"80:80\", # both\n  \"81:81\"\n]", "[\n  \"79:79\", # both\n  \"81:81\"\n]"),
        ("[\n  \"80:80\", \"81:81\",\n]", "[\n  \"81:81\",\n]"),
        (
            "[\n  # about the next\n  \"80:80\",\n  # about the last\n  \"81:81\",\n]",
            "[\n  # about the next\n  # about the last\n  \"81:81\",\n]",
        ),
    ] {
        assert_eq!(edited(&guest(before), &unpublish("web", "80:80")), guest(after));
    }
}

#[test]
fn lists_are_made_where_there_are_none() {
    for (before, edit, after) in [
        (
            "[[guests.web.nics]]\nnetwork = \"lan\" # z\n\n[guests.b]\nid = 4\n",
            add("web", "192.168.1.9"),
            "[[guests.web.nics]]\nnetwork = \"lan\" # z\naddresses = [\"192.168.1.9\"]\n\n[guests.b]\nid = 4\n",
        ),
        (
            "[guests.web]\nnics = [{ network = \"lan\" }, { network = \"lan\", name = \"x\" }]\n",
            add("web.1", "2001:db8:1::9/64"),
            "[guests.web]\nnics = [{ network = \"lan\" }, { network = \"lan\", name = \"x\", addresses = [\"2001:db8:1::9/64\"] }]\n",
        ),
        (
            "[guests.web]\nnics = [{network=\"lan\"}]\n",
            add("web", "192.168.1.9"),
            "[guests.web]\nnics = [{network=\"lan\", addresses = [\"192.168.1.9\"]}]\n",
        ),
        (
            "[guests.web]\nnics = [{\n  network = \"lan\" # hi\n}]\n",
            add("web", "192.168.1.9"),
            "[guests.web]\nnics = [{\n  network = \"lan\", # hi\n  addresses = [\"192.168.1.9\"]\n}]\n",
        ),
        (
            "[guests.web]\nnics = [{\n  network = \"lan\",\n}]\n",
            add("web", "192.168.1.9"),
            "[guests.web]\nnics = [{\n  network = \"lan\",\n  addresses = [\"192.168.1.9\"],\n}]\n",
        ),
        (
            "\n# The site.\n[[guests.web.nics]] # k\nnetwork = \"lan\"\naddresses = [\"192.168.1.5\"]\n",
            publish("web", "80:80"),
            "\n# The site.\n[guests.web]\npublish = [\"80:80/tcp\"]\n\n[[guests.web.nics]] # k\nnetwork = \"lan\"\naddresses = [\"192.168.1.5\"]\n",
        ),
    ] {
        assert_eq!(edited(before, &edit), after);
    }
}

#[test]
fn dotted_keys_are_found() {
    let mut sources = [source("a.toml", &format!("guests.web.nics = [{{ network = \"lan\" }}]\n{BASE}"))];
    apply(&mut sources, &add("web", "192.168.1.9")).unwrap();
    apply(&mut sources, &publish("web", "80:80")).unwrap();
    let head = "guests.web.nics = [{ network = \"lan\", addresses = [\"192.168.1.9\"] }]\nguests.web.publish = [\"80:80/tcp\"]\n";
    assert_eq!(sources[0].text, format!("{head}{BASE}"));
}

#[test]
fn the_file_that_has_the_list_is_changed() {
    let mut sources = [
        source("viaduct.toml", &format!("{BASE}[guests.web]\nid = 3\n")),
        source("nics.toml", "[[guests.web.nics]]\nnetwork = \"lan\"\naddresses = [\"192.168.1.5\"]\n"),
        source("ports.toml", "[guests.web]\npublish = []\n"),
    ];
    assert_eq!(apply(&mut sources, &add("web", "192.168.1.9")).unwrap(), EditOutcome::Changed { source: 1 });
    assert_eq!(apply(&mut sources, &publish("web", "80:80")).unwrap(), EditOutcome::Changed { source: 2 });
    let mut without = [sources[0].clone(), sources[1].clone()];
    assert_eq!(apply(&mut without, &publish("web", "80:80")).unwrap(), EditOutcome::Changed { source: 0 });
}

#[test]
fn nothing_to_do_is_said() {
    let text = format!(
        "{BASE}[guests.web]\npublish = [\"80:80/tcp\"]\n[[guests.web.nics]]\nnetwork = \"lan\"\naddresses = [\"192.168.1.5/24\"]\n"
    );
    let mut sources = [source("a.toml", &text)];
    for (edit, outcome) in [
        (add("web", "192.168.1.5"), EditOutcome::AlreadyThere),
        (publish("web", "80:80"), EditOutcome::AlreadyThere),
        (remove("web", "192.168.1.6"), EditOutcome::NotThere),
        (unpublish("web", "80:80/udp"), EditOutcome::NotThere),
    ] {
        assert_eq!(apply(&mut sources, &edit).unwrap(), outcome);
        assert_eq!(sources[0].text, text);
    }
}

#[test]
fn what_cannot_be_is_refused_and_nothing_changes() {
    let text = format!(
        "{BASE}[guests.web]\nid = 3\n[[guests.web.nics]]\nnetwork = \"lan\"\n[guests.mail]\nnics = 7\n"
    );
    let right = text.replace("nics = 7\n", "");
    for (text, edit, message) in [
        (
            &right,
            add("wep", "192.168.1.5"),
            "there is no guest `wep` in the configuration; did you mean `web`?",
        ),
        (&right, add("web.1", "192.168.1.5"), "guest `web` has 1 NIC, so there is no web.1"),
        (&right, add("mail", "192.168.1.5"), "guest `mail` has no NICs, so there is no mail.0"),
        (
            &right,
            add("web", "192.168.2.5"),
            "the configuration would be wrong after this change:\nerror: 192.168.2.5 is outside",
        ),
        (
            &right,
            publish("web", "80:80"),
            "the configuration would be wrong after this change:\nerror: guest `web` has no address",
        ),
        (&"[guests.web".to_owned(), publish("web", "80:80"), "a.toml has to be mended first: unclosed table"),
        (
            &text.replace("id = 3", "publish = \"x\""),
            publish("web", "80:80"),
            "a.toml has to be mended first: a list",
        ),
    ] {
        let before = [source("a.toml", text)];
        let mut sources = before.clone();
        let error = apply(&mut sources, &edit).unwrap_err();
        assert!(error.to_string().starts_with(message), "{error}");
        assert_eq!(sources, before);
        assert!(!matches!(error, EditError::Refused(ref d) if d.is_empty()));
    }
}

/// What the configuration says, without where it says it.
fn meaning(sources: &[Source]) -> String {
    let config: Config = load(sources).unwrap().config;
    let text = format!("{config:#?}");
    text.lines().filter(|line| !line.trim_start().starts_with("line: ")).collect::<Vec<_>>().join("\n")
}

/// A guest's NIC in one of the examples, with an address that it could get.
const ROOM: [(usize, &str, &str); 7] = [
    (0, "mail", "192.168.1.77"),
    (0, "wwwinfo16.0", "192.168.1.78"),
    (1, "shop", "198.51.100.114"),
    (1, "fresh", "2001:db8:48:1::77"),
    (2, "deb6", "2001:db8:28::77/128"),
    (2, "probe", "203.0.113.79/24"),
    (4, "one", "10.97.0.77"),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn undoing_restores_the_meaning(room in 0..ROOM.len(), port in 1u16.., steps in prop::collection::vec(any::<bool>(), 1..4)) {
        let (example, nic, address) = ROOM[room];
        let mut sources = vec![source("x.toml", EXAMPLES[example].1)];
        let before = meaning(&sources);
        let nic: NicId = nic.parse().unwrap();
        let guest: GuestName = nic.guest.clone();
        let publish: viaduct_types::Publish = format!("192.0.2.1:{port}:{port}/udp").parse().unwrap();
        let address: viaduct_model::Address = address.parse().unwrap();
        let mut undo = Vec::new();
        for step in steps {
            let (edit, back) = if step {
                (
                    Edit::AddAddress { nic: nic.clone(), address },
                    Edit::RemoveAddress { nic: nic.clone(), address },
                )
            } else {
                (
                    Edit::Publish { guest: guest.clone(), publish },
                    Edit::Unpublish { guest: guest.clone(), publish },
                )
            };
            match apply(&mut sources, &edit) {
                Ok(EditOutcome::Changed { .. }) => undo.push(back),
                Ok(outcome) => prop_assert_eq!(outcome, EditOutcome::AlreadyThere),
                Err(EditError::Refused(_)) => {}
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
        }
        for edit in undo.iter().rev() {
            let outcome = apply(&mut sources, edit).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(outcome, EditOutcome::Changed { source: 0 });
        }
        prop_assert_eq!(meaning(&sources), before);
        for line in EXAMPLES[example].1.lines().filter_map(|line| line.split_once('#')) {
            prop_assert!(sources[0].text.contains(line.1), "lost: #{}", line.1);
        }
    }
}
