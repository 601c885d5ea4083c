//! Whatever a file holds, the loader comes back soon, with diagnostics that can be shown.

mod common;

use common::{EXAMPLES, load_text, source};
use proptest::prelude::*;
use viaduct_model::load;

/// Pieces that have a meaning, so that mutations reach beyond the parser.
const PIECES: &[&str] = &[
    "[",
    "]",
    "[[",
    "]]",
    "=",
    "\"",
    "'",
    "\n",
    "\"\"\"",
    "#",
    ".",
    ",",
    "{",
    "}",
    "guests",
    "networks",
    "nics",
    "mode",
    "0",
    "-1",
    "/0",
    "/33",
    "::",
    "0.0.0.0",
    "255.255.255.255",
    "65536",
    "99999999999999999999",
    "é",
    "\u{1b}",
    "\0",
    "\r\n",
    "true",
    "[guests.a]\n",
    "[[guests.a.nics]]\n",
    "\nnetwork = \"lan\"\n",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
    "\u{feff}",
    "\t",
    "\\",
    "\\u0000",
    "inf",
    "1979-05-27",
];

fn boundary(text: &str, at: usize) -> usize {
    let mut at = at % (text.len() + 1);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[derive(Clone, Debug)]
enum Mutation {
    Insert(usize, usize),
    Delete(usize, usize),
    Copy(usize, usize, usize),
    Replace(usize, char),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        (any::<usize>(), 0..PIECES.len()).prop_map(|(at, piece)| Mutation::Insert(at, piece)),
        (any::<usize>(), 1usize..40).prop_map(|(at, len)| Mutation::Delete(at, len)),
        (any::<usize>(), 1usize..200, any::<usize>()).prop_map(|(at, len, to)| Mutation::Copy(at, len, to)),
        (any::<usize>(), any::<char>()).prop_map(|(at, c)| Mutation::Replace(at, c)),
    ]
}

fn mutate(text: &mut String, mutation: &Mutation) {
    match *mutation {
        Mutation::Insert(at, piece) => text.insert_str(boundary(text, at), PIECES[piece]),
        Mutation::Delete(at, len) => {
            let start = boundary(text, at);
            let end = boundary(text, (start + len).min(text.len())).max(start);
            text.replace_range(start..end, "");
        }
        Mutation::Copy(at, len, to) => {
            let start = boundary(text, at);
            let end = boundary(text, (start + len).min(text.len())).max(start);
            let piece = text[start..end].to_owned();
            text.insert_str(boundary(text, to), &piece);
        }
        Mutation::Replace(at, c) => {
            let start = boundary(text, at);
            if let Some(old) = text[start..].chars().next() {
                text.replace_range(start..start + old.len_utf8(), c.encode_utf8(&mut [0; 4]));
            }
        }
    }
}

fn survive(texts: &[&str]) {
    let sources: Vec<_> = texts.iter().map(|text| source("x.toml", text)).collect();
    let diagnostics = match load(&sources) {
        Ok(loaded) => loaded.warnings,
        Err(diagnostics) => {
            assert!(!diagnostics.is_empty());
            diagnostics
        }
    };
    let shown = diagnostics.render(false);
    assert!(!shown.contains('\u{1b}'));
    diagnostics.render(true);
    let places: Vec<_> = diagnostics.iter().map(|d| (&d.place.file, d.place.line, d.place.column)).collect();
    assert!(texts.len() > 1 || places.is_sorted());
    assert!(serde_json::to_string(&diagnostics).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_examples(example in 0..EXAMPLES.len(), mutations in prop::collection::vec(mutation(), 1..8)) {
        let mut text = EXAMPLES[example].1.to_owned();
        for mutation in &mutations {
            mutate(&mut text, mutation);
        }
        survive(&[&text]);
    }

    #[test]
    fn any_text(text in "\\PC{0,200}") {
        survive(&[&text]);
    }

    #[test]
    fn any_two_examples(one in 0..EXAMPLES.len(), other in 0..EXAMPLES.len()) {
        survive(&[EXAMPLES[one].1, EXAMPLES[other].1]);
    }
}

#[test]
fn depth_is_bounded() {
    for text in [
        "a.".repeat(100_000) + "a = 1\n",
        format!("[{}a]\n", "a.".repeat(100_000)),
        "a = ".to_owned() + &"[".repeat(100_000),
        "a = ".to_owned() + &"{a=".repeat(100_000),
        "a = ".to_owned() + &"[{a.b.c.d=".repeat(50_000),
        (0..60)
            .map(|n| format!("[{}]\n{} = 1\n", vec!["a"; 70].join("."), format!("b{n}.").repeat(70) + "c"))
            .collect(),
    ] {
        survive(&[&text]);
    }
}

#[test]
fn many_mistakes_take_no_longer_than_many_lines() {
    for text in [
        "a = 1\n".repeat(20_000),
        "=\n".repeat(100_000),
        "[\n".repeat(100_000),
        format!("[host]\nname = [{}]\n", "1,".repeat(100_000)),
        (0..20_000).map(|n| format!("[[guests.g{n}.nics]]\nnetwork = \"none-{n}\"\n")).collect(),
        (0..20_000).map(|n| format!("wrong-{n} = {n}\n")).collect(),
        format!("[guests.a]\npublish = [{}]\n", "\"80:80\",".repeat(20_000)),
        format!("[networks.a]\nmode = \"isolated\"\nsubnets = [{}]\n", "\"10.0.0.0/24\",".repeat(20_000)),
        format!("{} = 1\n", "x".repeat(1_000_000)),
        format!("[guests.a]\n{}", "[[guests.a.nics]]\nnetwork = \"x\"\n".repeat(20_000)),
    ] {
        survive(&[&text]);
    }
}

#[test]
fn only_the_first_thousand_mistakes_are_kept() {
    let diagnostics =
        load_text(&(0..5000).map(|n| format!("wrong-{n} = {n}\n")).collect::<String>()).unwrap_err();
    assert_eq!(diagnostics.len(), 5000);
    assert_eq!(diagnostics.iter().count(), 1000);
    assert!(diagnostics.summary().ends_with("and 4000 more not shown"), "{}", diagnostics.summary());
}
