//! The files as one tree of values, each with its place. What is not TOML is reported here, and the rest is read on.

use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map},
    ops::Range,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    Source,
    report::{Report, Span},
    suggest::quote,
};

/// All files together; far more than the largest host needs.
const MOST_BYTES: usize = 16 << 20;

/// What the parser says of a key that stands twice.
const DUPLICATE: &str = "duplicate key";

/// One value and its place; a table's place is its header.
#[derive(Debug)]
pub(crate) struct Node<'s> {
    pub(crate) value: Value<'s>,
    pub(crate) span: Span,
}

#[derive(Debug)]
pub(crate) enum Value<'s> {
    Text(Cow<'s, str>),
    /// None when it has more than 64 bits.
    Integer(Option<i64>),
    Float,
    Boolean(bool),
    Datetime,
    List(Vec<Node<'s>>),
    Table(Table<'s>),
}

impl Value<'_> {
    /// With its article, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float => "a floating-point number",
            Self::Boolean(_) => "a boolean",
            Self::Datetime => "a date or time",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// Keys with the place of their first mention.
pub(crate) type Table<'s> = BTreeMap<Cow<'s, str>, Entry<'s>>;

#[derive(Debug)]
pub(crate) struct Entry<'s> {
    pub(crate) key: Span,
    pub(crate) node: Node<'s>,
}

/// Reads all files and puts their tables together.
pub(crate) fn read<'s>(sources: &'s [Source], report: &mut Report<'_>) -> Table<'s> {
    let mut root = Table::new();
    let mut bytes = 0usize;
    for (file, source) in sources.iter().enumerate() {
        bytes = bytes.saturating_add(source.text.len());
        if bytes > MOST_BYTES {
            report
                .error(Span::new(file, 0..0), "the configuration is too large")
                .help(format!("at most {} MiB in all files together are read", MOST_BYTES >> 20));
            break;
        }
        let (document, errors) = DeTable::parse_recoverable(&source.text);
        for (nth, error) in errors.into_iter().enumerate() {
            let range = error.span().unwrap_or(0..0);
            // Recovery reports positions between tokens; keep them inside the text.
            let end = range.end.min(source.text.len());
            let range = range.start.min(end)..end;
            // Looking for first definitions reads the text again; for hundreds of them that would take long.
            let first = if error.message() == DUPLICATE && nth < 20 {
                first_definition(&source.text, &range)
            } else {
                None
            };
            syntax_error(file, &source.text, range, error.message(), first, report);
        }
        merge(&mut root, table(file, document.into_inner()), report);
    }
    root
}

fn table<'s>(file: usize, table: DeTable<'s>) -> Table<'s> {
    let entry = |(key, value): (Spanned<Cow<'s, str>>, Spanned<DeValue<'s>>)| {
        let span = Span::new(file, key.span());
        (key.into_inner(), Entry { key: span, node: node(file, value) })
    };
    table.into_iter().map(entry).collect()
}

fn node(file: usize, value: Spanned<DeValue<'_>>) -> Node<'_> {
    let span = Span::new(file, value.span());
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text),
        DeValue::Integer(number) => Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Float(_) => Value::Float,
        DeValue::Boolean(flag) => Value::Boolean(flag),
        DeValue::Datetime(_) => Value::Datetime,
        DeValue::Array(list) => Value::List(list.into_iter().map(|value| node(file, value)).collect()),
        DeValue::Table(inner) => Value::Table(table(file, inner)),
    };
    Node { value, span }
}

/// Tables of the same name become one; anything else that two files define is a mistake. Depth is bounded by the
/// parser.
fn merge<'s>(into: &mut Table<'s>, from: Table<'s>, report: &mut Report<'_>) {
    for (key, entry) in from {
        match into.entry(key) {
            btree_map::Entry::Vacant(vacant) => {
                vacant.insert(entry);
            }
            btree_map::Entry::Occupied(mut occupied) => {
                let key = quote(occupied.key());
                let first = occupied.get_mut();
                match (&mut first.node.value, entry.node.value) {
                    (Value::Table(into), Value::Table(from)) => merge(into, from, report),
                    _ => {
                        report
                            .error(entry.key, format!("the key {key} is defined twice"))
                            .label("here again")
                            .help(
                                "keep one of them; files add to each other's tables but do not override keys",
                            )
                            .related(first.key, "first defined here");
                    }
                }
            }
        }
    }
}

fn syntax_error(
    file: usize,
    text: &str,
    range: Range<usize>,
    message: &str,
    first: Option<Range<usize>>,
    report: &mut Report<'_>,
) {
    let span = Span::new(file, range.clone());
    let written = text.get(range.clone()).unwrap_or_default();
    if message == DUPLICATE {
        let problem = report.syntax(span, format!("the key {} is defined twice", quote(written)));
        problem.label("here again").help("keep one of them");
        if let Some(first) = first {
            problem.related(Span::new(file, first), "first defined here");
        }
    } else if message.starts_with("string values must be quoted") && written.is_empty() {
        report.syntax(span, "there is no value after `=`").help("write a value, or remove the key");
    } else if message.starts_with("string values must be quoted") {
        report
            .syntax(span, format!("{} is neither a number nor `true` or `false`", quote(written)))
            .help(format!("text stands in quotes: \"{}\"", written.escape_default()));
    } else {
        report.syntax(span, format!("this is not TOML: {message}"));
    }
}

/// Where the key that stands again at `second` was defined first. The parser does not say; reading only the text
/// before that line does, since then the first definition is the one in the tree.
fn first_definition(text: &str, second: &Range<usize>) -> Option<Range<usize>> {
    let line = text.get(..second.start)?.rfind('\n').map_or(0, |at| at + 1);
    let (before, _) = DeTable::parse_recoverable(&text[..line]);
    let rest = text.get(line..second.end)?;
    let mut open = (0, Vec::new());
    if !rest.trim_start().starts_with('[') {
        open_table(text, before.get_ref(), &mut Vec::new(), &mut open);
    }
    let rest = rest.trim_start().trim_start_matches('[');
    // Keys of inline tables are not looked up: then this finds nothing.
    let keys = rest.split('.').map(|key| key.trim().trim_matches(['"', '\'']).to_owned());
    let mut table = before.get_ref();
    let mut found = None;
    for key in open.1.into_iter().chain(keys) {
        let (name, value) = table.get_key_value(key.as_str())?;
        found = Some(name.span());
        table = match value.get_ref() {
            DeValue::Table(inner) => inner,
            DeValue::Array(list) => match list.last().map(Spanned::get_ref) {
                Some(DeValue::Table(inner)) => inner,
                _ => return found,
            },
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => return found,
        };
    }
    found
}

/// The path of the table whose header stands last in the text.
fn open_table(text: &str, table: &DeTable<'_>, path: &mut Vec<String>, last: &mut (usize, Vec<String>)) {
    for (key, value) in table {
        let (span, inner) = match value.get_ref() {
            DeValue::Table(inner) => (value.span(), inner),
            DeValue::Array(list) => match list.last().map(|element| (element.span(), element.get_ref())) {
                Some((span, DeValue::Table(inner))) => (span, inner),
                _ => continue,
            },
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => continue,
        };
        path.push(key.get_ref().clone().into_owned());
        if text[span.start..].starts_with('[') && span.start >= last.0 {
            *last = (span.start, path.clone());
        }
        open_table(text, inner, path, last);
        path.pop();
    }
}
