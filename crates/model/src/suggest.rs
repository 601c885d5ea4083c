//! Words for messages: the nearest known name, lists, and foreign text made safe to show.

use std::fmt::Display;

/// Longer ones are no misspelling of anything, and comparing them costs.
const LONGEST: usize = 64;

/// The known name that was probably meant.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if wrong.len() > LONGEST {
        return None;
    }
    let wrong = wrong.to_ascii_lowercase().replace('_', "-");
    let allowed = 1 + wrong.chars().count() / 4;
    known
        .into_iter()
        .filter(|name| name.len().abs_diff(wrong.len()) <= allowed)
        .map(|name| (strsim::osa_distance(&wrong, &name.to_ascii_lowercase()), name))
        .filter(|&(distance, _)| distance <= allowed)
        .min()
        .map(|(_, name)| name)
}

/// `` `a`, `b` or `c` ``.
pub(crate) fn one_of<T: Display>(words: impl IntoIterator<Item = T>) -> String {
    let mut words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match words.pop() {
        None => String::new(),
        Some(last) if words.is_empty() => last,
        Some(last) => format!("{} or {last}", words.join(", ")),
    }
}

/// Text from a file in back quotes, short and without control characters.
pub(crate) fn quote(text: &str) -> String {
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    shown = shown.replace("\\'", "'").replace("\\\"", "\"");
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognized_and_another_word_is_not() {
        assert_eq!(nearest("adresses", ["addresses", "gateways"]), Some("addresses"));
        assert_eq!(nearest("allow_in", ["allow-in", "allow-out"]), Some("allow-in"));
        assert_eq!(nearest("colour", ["mtu", "interface"]), None);
        assert_eq!(nearest(&"x".repeat(100), ["x"]), None);
    }

    #[test]
    fn foreign_text_cannot_reach_the_terminal() {
        assert_eq!(quote("a\u{1b}[31m"), "`a\\u{1b}[31m`");
        assert_eq!(quote(&"é".repeat(65)), format!("`{}…`", "é".repeat(64)));
    }
}
