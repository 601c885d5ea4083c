//! An edit that reads only its guest anew gives what reading everything anew gives.

#![expect(clippy::unwrap_used, reason = "in tests; the lint's own exception does not reach their helpers")]

mod common;

use std::fmt::Write as _;

use common::{EXAMPLES, source};
use proptest::{prelude::*, sample::Index};
use viaduct_model::{
    Config, Source,
    edit::{Edit, EditOutcome, Edited, apply, apply_to_loaded},
    load,
};

const NETWORKS: &str = "# first\n[host]\nname = \"h\"\n[uplinks.wan]\ninterface = \"eth0\"\n\n[networks.lan] # inside\n\
    mode = \"nat\"\nuplink = \"wan\"\nsubnets = [\n  \"10.0.0.0/24\",\n  \"fd00::/64\",\n]\n\
    [networks.seg]\nmode = \"bridged\"\nuplink = \"wan\"\n\
    [networks.pub]\nmode = \"routed\"\nuplink = \"wan\"\npool = [\"198.51.100.0/28\"]\n";

/// A guest, written in one way or another.
fn guest(number: usize, style: u8, lets_in: Option<usize>) -> String {
    let mut text = format!("\n# about g{number}\n");
    let addresses = format!("\"10.0.0.{}\", \"fd00::{}\"", number + 10, number + 10);
    let list = if style & 1 == 0 { format!("[{addresses}]") } else { format!("[\n  {addresses}, # two\n]") };
    let _ = writeln!(text, "[guests.g{number}]");
    if style & 2 == 0 {
        let _ = writeln!(text, "publish = [\"203.0.113.2:{}:80/tcp\"] # open", 8000 + number);
    }
    if let Some(other) = lets_in {
        let _ = writeln!(text, "allow-in = [\n  {{ from = \"guest:g{other}\", ports = [\"1/tcp\"] }},\n]");
    }
    if style & 4 == 0 {
        let _ = write!(text, "[[guests.g{number}.nics]]\nnetwork = \"lan\"\naddresses = {list}");
        text.push_str(if style & 8 == 0 { "\n" } else { "\n\n\n" });
    } else {
        let _ = writeln!(text, "nics = [{{ network = \"lan\", addresses = [{addresses}] }}]");
    }
    text
}

/// The long way.
fn by_reading_all(sources: &[Source], edits: &[Edit]) -> Option<Edited> {
    let mut sources = sources.to_vec();
    let mut outcomes = Vec::new();
    for edit in edits {
        outcomes.push(apply(&mut sources, edit).ok()?);
    }
    let config = load(&sources).ok()?.config;
    Some(Edited { sources, config, outcomes })
}

fn same(quick: &Edited, whole: &Edited) -> Result<(), TestCaseError> {
    for (quick, whole) in quick.sources.iter().zip(&whole.sources) {
        prop_assert_eq!(&quick.text, &whole.text);
    }
    prop_assert_eq!(&quick.outcomes, &whole.outcomes);
    prop_assert_eq!(&quick.config, &whole.config);
    Ok(())
}

fn loaded(sources: &[Source]) -> Config {
    load(sources).unwrap_or_else(|diagnostics| panic!("{diagnostics}")).config
}

fn edit(kind: u8, guest: usize, value: u8) -> Edit {
    let nic = format!("g{guest}.0").parse().unwrap();
    let address = |value: u8| {
        let v6 = value % 2 == 1;
        let host = 10 + value / 2;
        if v6 { format!("fd00::{host}") } else { format!("10.0.0.{host}") }.parse().unwrap()
    };
    let publish = || {
        let text = match value % 3 {
            0 => format!("203.0.113.2:{}:80/tcp", 8000 + usize::from(value / 3)),
            1 => format!("{}:81/tcp", 8000 + usize::from(value / 3)),
            _ => format!("[2001:db8::1]:{}:82/udp", 8000 + usize::from(value / 3)),
        };
        text.parse().unwrap()
    };
    let guest = format!("g{guest}").parse().unwrap();
    match kind % 4 {
        0 => Edit::AddAddress { nic, address: address(value) },
        1 => Edit::RemoveAddress { nic, address: address(value) },
        2 => Edit::Publish { guest, publish: publish() },
        _ => Edit::Unpublish { guest, publish: publish() },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_the_same(
        guests in prop::collection::vec((any::<u8>(), any::<Option<Index>>()), 1..6),
        cut in any::<Index>(),
        edited in any::<Index>(),
        edits in prop::collection::vec((any::<u8>(), 0u8..30), 1..4),
    ) {
        let texts: Vec<String> = guests
            .iter()
            .enumerate()
            .map(|(number, (style, lets_in))| guest(number, *style, lets_in.map(|i| i.index(guests.len()))))
            .collect();
        let cut = cut.index(texts.len() + 1);
        let sources = [
            source("a.toml", &format!("{NETWORKS}{}", texts[..cut].concat())),
            source("b.toml", &texts[cut..].concat()),
        ];
        let config = loaded(&sources);
        let edited = edited.index(guests.len());
        let edits: Vec<Edit> = edits.into_iter().map(|(kind, value)| edit(kind, edited, value)).collect();
        if let Some(quick) = apply_to_loaded(&sources, &config, &edits) {
            let whole = by_reading_all(&sources, &edits);
            prop_assert!(whole.is_some(), "refused otherwise: {edits:?}");
            same(&quick, &whole.unwrap())?;
        }
    }
}

#[test]
fn everyday_edits_are_quick() {
    for style in 0..16 {
        let texts: Vec<String> = (0..4).map(|n| guest(n, style, (n == 1).then_some(2))).collect();
        let sources = [source("viaduct.toml", &format!("{NETWORKS}{}", texts.concat()))];
        let config = loaded(&sources);
        for number in 0..4 {
            for edits in [
                vec![edit(0, number, 20)],
                vec![edit(0, number, 21), edit(2, number, 28)],
                vec![edit(2, number, 28), edit(3, number, 28)],
                vec![edit(1, number, u8::try_from(2 * number + 1).unwrap())],
            ] {
                let quick = apply_to_loaded(&sources, &config, &edits)
                    .unwrap_or_else(|| panic!("style {style}: {edits:?}"));
                assert!(quick.outcomes.iter().any(|o| matches!(o, EditOutcome::Changed { .. })));
                same(&quick, &by_reading_all(&sources, &edits).unwrap()).unwrap();
            }
        }
    }
}

#[test]
fn what_may_clash_is_read_with_everything() {
    let texts: Vec<String> = (0..3).map(|n| guest(n, 0, None)).collect();
    let sources = [source("viaduct.toml", &format!("{NETWORKS}{}", texts.concat()))];
    let config = loaded(&sources);
    // Another guest's address, and its port.
    for edit in [edit(0, 0, 2), edit(2, 0, 3), edit(2, 0, 4)] {
        assert!(apply_to_loaded(&sources, &config, std::slice::from_ref(&edit)).is_none(), "{edit:?}");
    }
}

#[test]
fn examples_are_as_well() {
    for (name, text) in EXAMPLES {
        let sources = [source(name, text)];
        let config = loaded(&sources);
        for guest in config.guests.keys() {
            let edits = [Edit::Publish {
                guest: guest.clone(),
                publish: "203.0.113.10:64999:9/udp".parse().unwrap(),
            }];
            if let Some(quick) = apply_to_loaded(&sources, &config, &edits) {
                same(&quick, &by_reading_all(&sources, &edits).unwrap()).unwrap();
            }
        }
    }
}
