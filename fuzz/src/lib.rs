//! What holds for every input.

use std::{fmt, str::FromStr};

use viaduct_model::{Source, load, sxp};
use viaduct_types::{IfName, MacAddr, NicId, PortRange, Publish, VnetId};

/// Files, separated by NUL, come back as a configuration, or as diagnostics that can be shown.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let sources: Vec<Source> = text
        .split('\0')
        .enumerate()
        .map(|(number, text)| Source { name: format!("{number}.toml"), text: text.to_owned() })
        .collect();
    let diagnostics = match load(&sources) {
        Ok(loaded) => loaded.warnings,
        Err(diagnostics) => {
            assert!(!diagnostics.is_empty(), "refused without a word");
            diagnostics
        }
    };
    // What is in a file must not reach a terminal as it stands.
    let shown = diagnostics.render(false);
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    for diagnostic in diagnostics.iter() {
        assert!(diagnostic.place.line >= 1 && diagnostic.place.column <= diagnostic.place.end_column);
    }
    assert!(serde_json::to_string(&diagnostics).is_ok());
}

/// A file of Xen's for vnets comes back as vnets, or as what is wrong in one of its lines.
pub fn vnets(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let lines = 1..=text.matches('\n').count() + 1;
    let is_shown = |line: usize, message: &str| {
        assert!(lines.contains(&line), "{line}: {message}");
        assert!(!message.is_empty() && !message.contains(char::is_control), "{message:?}");
    };
    match sxp::read(text) {
        Ok(file) => {
            assert!(!file.vnets.is_empty());
            file.hints.iter().for_each(|(line, hint)| is_shown(*line, hint));
            for vnet in file.vnets {
                assert_eq!(sxp::vnet_id(&vnet.id_text), Ok(vnet.id));
                // Written as it was understood, it is understood the same.
                let field = |name: &str, value: Option<String>| {
                    value.map_or(String::new(), |value| format!(" ({name} {value})"))
                };
                let again = format!(
                    "(vnet (id {}){}{}{})",
                    vnet.id_text,
                    field("bridge", vnet.bridge.as_ref().map(|name| format!("'{name}'"))),
                    field("vnetif", vnet.vnetif.as_ref().map(|name| format!("'{name}'"))),
                    field("security", vnet.security.map(|level| level.word().to_owned())),
                );
                // No name of a device has both kinds of quotation marks in it, as few have one.
                if !again.matches('\'').count().is_multiple_of(2) || again.contains("''") {
                    continue;
                }
                assert_eq!(sxp::read(&again).map(|file| file.vnets), Ok(vec![vnet]), "{again}");
            }
        }
        Err(error) => is_shown(error.line, &error.message),
    }
}

/// What is a word is the same word when it is printed and read again.
pub fn words(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    word::<Publish>(text);
    word::<PortRange>(text);
    word::<MacAddr>(text);
    word::<VnetId>(text);
    word::<IfName>(text);
    word::<NicId>(text);
}

fn word<T: FromStr<Err: fmt::Display> + fmt::Display + fmt::Debug + PartialEq>(text: &str) {
    match text.parse::<T>() {
        Ok(word) => {
            let again = word.to_string().parse::<T>();
            assert!(again.as_ref().is_ok_and(|again| *again == word), "{text:?} is {word:?}, printed {word}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
