//! Lists keep their style: what stands between two elements (white space, comments) is a gap, and elements come and
//! go between gaps.

use toml_edit::{Array, Decor, Value};

/// Appends a text: on a line of its own where the list has such lines, after a space otherwise.
pub(super) fn push(list: &mut Array, text: &str) {
    let line =
        list.iter().filter_map(|value| line_break(part(value.decor().prefix()))).last().map(str::to_owned);
    let end = take_end(list);
    let (before, end) = around_new(&end, line.as_deref(), list.is_empty());
    let mut value = Value::from(text);
    *value.decor_mut() = Decor::new(before, "");
    list.push_formatted(value);
    list.set_trailing(end);
}

/// Removes an element; with it goes the rest of its line when that was only a comment on it.
pub(super) fn remove(list: &mut Array, index: usize) {
    let before = gap(list, index);
    let after = gap(list, index + 1);
    let is_last = index + 1 == list.len();
    let merged = match (before.rfind('\n'), after.find('\n')) {
        (Some(line), Some(next)) => before[..line].to_owned() + &after[next..],
        (Some(_), None) => before,
        (None, Some(_)) => after,
        (None, None) => {
            if is_last {
                after
            } else {
                before
            }
        }
    };
    list.remove(index);
    if let Some(previous) = index.checked_sub(1).and_then(|i| list.get_mut(i)) {
        previous.decor_mut().set_suffix("");
    }
    match list.get_mut(index) {
        Some(next) => next.decor_mut().set_prefix(merged),
        None => list.set_trailing(merged),
    }
    if list.is_empty() {
        list.set_trailing_comma(false);
    }
}

/// What to put before a new last part, and after it, given what stands at the end and how lines begin.
pub(super) fn around_new(end: &str, line: Option<&str>, is_first: bool) -> (String, String) {
    match (line, end.rfind('\n')) {
        (Some(line), last) => (end.trim_end().to_owned() + line, last.map_or("", |at| &end[at..]).to_owned()),
        (None, Some(last)) => (end.trim_end().to_owned() + "\n", end[last..].to_owned()),
        (None, None) if is_first => (String::new(), String::new()),
        (None, None) => (" ".to_owned(), end.to_owned()),
    }
}

/// The last line break in a gap, with the indentation after it.
pub(super) fn line_break(gap: &str) -> Option<&str> {
    gap.rfind('\n').map(|at| &gap[at..])
}

/// What stands before the element, back to the one before it.
fn gap(list: &Array, index: usize) -> String {
    let suffix =
        index.checked_sub(1).and_then(|i| list.get(i)).map_or("", |value| part(value.decor().suffix()));
    let rest = match list.get(index) {
        Some(value) => part(value.decor().prefix()),
        None => list.trailing().as_str().unwrap_or_default(),
    };
    suffix.to_owned() + rest
}

fn take_end(list: &mut Array) -> String {
    let end = gap(list, list.len());
    if let Some(last) = list.len().checked_sub(1).and_then(|i| list.get_mut(i)) {
        last.decor_mut().set_suffix("");
    }
    end
}

pub(super) fn part(raw: Option<&toml_edit::RawString>) -> &str {
    raw.and_then(toml_edit::RawString::as_str).unwrap_or_default()
}
