//! How values are read from the tree and described in the JSON Schema: both come from one definition. A table is
//! defined by [`table!`], a set of words by [`words!`], a form of text by [`Text`].

mod number;
mod text;

use std::{borrow::Borrow, collections::BTreeMap, fmt::Display};

use serde_json::{Value as Json, json};

pub(crate) use number::{Integer, SettingValue, Timeout, VlanRange};
pub use text::{Address, ParseTextError};
pub(crate) use text::{
    AllowEnd, BootFile, BootParameter, DomainName, Group, HookPath, HostNet, Parent, PeerKey, PoolPrefix,
    PortSpec, PriorityPair, ProtocolSpec, RuleSpec, StaticRoute, SubnetPrefix, SysctlName, Text,
};

use crate::{
    report::{At, Report, Span},
    suggest::{nearest, one_of, quote},
    tree::{Entry, Node, Table, Value},
};

/// Something that a configuration can say.
pub(crate) trait Read: Sized {
    /// Reads it, and reports everything that is wrong with it; none when too much is.
    fn read(node: &Node<'_>, report: &mut Report<'_>) -> Option<Self>;

    /// Its JSON Schema.
    fn schema() -> Json;
}

/// What stands (or does not) behind one key of a table.
#[derive(Clone, Debug)]
pub(crate) struct Slot<T> {
    /// Where the key stands.
    pub(crate) key: Option<Span>,
    /// None when the key is not there, or its value is of no use (which has been reported).
    pub(crate) value: Option<At<T>>,
}

impl<T> Slot<T> {
    pub(crate) fn get(&self) -> Option<&T> {
        self.value.as_ref().map(|at| &at.value)
    }
}

impl<T> Slot<List<T>> {
    pub(crate) fn items(&self) -> impl Iterator<Item = &At<T>> {
        self.get().into_iter().flat_map(|list| &list.items)
    }

    /// Whether everything that was written could be read.
    pub(crate) fn is_whole(&self) -> bool {
        self.key.is_none() || self.get().is_some_and(|list| list.whole)
    }
}

impl<T> Slot<OneOrMany<T>> {
    pub(crate) fn each(&self) -> impl Iterator<Item = &At<T>> {
        self.get().into_iter().flat_map(|list| &list.0)
    }
}

impl Slot<bool> {
    pub(crate) fn is_set(&self) -> bool {
        self.get() == Some(&true)
    }
}

/// A list; bad elements are left out, after having been reported.
#[derive(Clone, Debug)]
pub(crate) struct List<T> {
    pub(crate) items: Vec<At<T>>,
    /// Whether no element was left out.
    pub(crate) whole: bool,
}

/// A list that may be written without brackets when it has one element.
#[derive(Debug)]
pub(crate) struct OneOrMany<T>(pub(crate) Vec<At<T>>);

/// Tables by name, with the place of the name; none for tables that are of no use.
pub(crate) type Named<K, T> = BTreeMap<K, (Span, Option<T>)>;

impl<T: Read> Read for List<T> {
    fn read(node: &Node<'_>, report: &mut Report<'_>) -> Option<Self> {
        let Value::List(nodes) = &node.value else {
            let problem = report.error(node.span, format!("expected a list, found {}", node.value.kind()));
            match &node.value {
                Value::Text(text) => {
                    problem.help(format!("write it in brackets: [\"{}\"]", text.escape_default()))
                }
                Value::Table(_) => problem.help("a list of tables has a header in double brackets, [[…]]"),
                Value::Integer(_) | Value::Float | Value::Boolean(_) | Value::Datetime | Value::List(_) => {
                    problem
                }
            };
            return None;
        };
        let read = |node: &Node<'_>| T::read(node, report).map(|value| At { value, span: node.span });
        let items: Vec<_> = nodes.iter().filter_map(read).collect();
        Some(Self { whole: items.len() == nodes.len(), items })
    }

    fn schema() -> Json {
        json!({ "type": "array", "items": T::schema() })
    }
}

impl<T: Read> Read for OneOrMany<T> {
    fn read(node: &Node<'_>, report: &mut Report<'_>) -> Option<Self> {
        if matches!(node.value, Value::List(_)) {
            return List::read(node, report).map(|list| Self(list.items));
        }
        T::read(node, report).map(|value| Self(vec![At { value, span: node.span }]))
    }

    fn schema() -> Json {
        json!({ "anyOf": [T::schema(), List::<T>::schema()] })
    }
}

impl<K: Text + Ord, T: Read> Read for Named<K, T> {
    fn read(node: &Node<'_>, report: &mut Report<'_>) -> Option<Self> {
        let table = expect_table(node, report)?;
        let mut named = Self::new();
        for (name, Entry { key, node }) in table {
            let value = T::read(node, report);
            match K::parse(name) {
                Ok(name) => {
                    named.insert(name, (*key, value));
                }
                Err(wrong) => {
                    report
                        .error(*key, format!("{} cannot be {}: {}", quote(name), K::WHAT, wrong.problem))
                        .help(wrong.help);
                }
            }
        }
        Some(named)
    }

    fn schema() -> Json {
        json!({
            "type": "object",
            "propertyNames": { "pattern": format!("^(?:{})$", K::PATTERN) },
            "additionalProperties": T::schema(),
        })
    }
}

impl Read for bool {
    fn read(node: &Node<'_>, report: &mut Report<'_>) -> Option<Self> {
        if let Value::Boolean(flag) = node.value {
            return Some(flag);
        }
        report
            .error(node.span, format!("expected `true` or `false`, found {}", node.value.kind()))
            .help("write true or false, without quotes");
        None
    }

    fn schema() -> Json {
        json!({ "type": "boolean" })
    }
}

pub(crate) fn expect_table<'n, 's>(node: &'n Node<'s>, report: &mut Report<'_>) -> Option<&'n Table<'s>> {
    if let Value::Table(table) = &node.value {
        return Some(table);
    }
    let problem = report.error(node.span, format!("expected a table, found {}", node.value.kind()));
    if matches!(node.value, Value::List(_)) {
        problem.help("a single table has a header in single brackets, […]");
    }
    None
}

/// One key of a table.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) required: bool,
    pub(crate) schema: fn() -> Json,
}

/// Reads a table, and reports keys that it does not have, and keys that it lacks.
pub(crate) fn read_keys<'n, 's>(
    node: &'n Node<'s>,
    keys: &[Key],
    report: &mut Report<'_>,
) -> Option<&'n Table<'s>> {
    let table = expect_table(node, report)?;
    for (name, entry) in table.iter().filter(|(name, _)| keys.iter().all(|key| key.name != **name)) {
        let known = || keys.iter().map(|key| key.name);
        let meant = if report.has_room() { nearest(name, known()) } else { None };
        report.error(entry.key, format!("there is no key {} here", quote(name))).help(match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("the keys here are {}", one_of(known()).replace(" or ", " and ")),
        });
    }
    for key in keys.iter().filter(|key| key.required && !table.contains_key(key.name)) {
        report.absent(node.span, format!("the key `{}` is missing", key.name)).help(format!(
            "`{}`: {}",
            key.name,
            key.doc.trim()
        ));
    }
    Some(table)
}

/// The schema of a table with these keys.
pub(crate) fn table_schema(doc: &str, keys: &[Key]) -> Json {
    let property = |key: &Key| {
        let mut schema = (key.schema)();
        schema["description"] = key.doc.trim().into();
        (key.name.to_owned(), schema)
    };
    json!({
        "type": "object",
        "description": doc.trim(),
        "properties": keys.iter().map(property).collect::<serde_json::Map<_, _>>(),
        "required": keys.iter().filter(|key| key.required).map(|key| key.name).collect::<Vec<_>>(),
        "additionalProperties": false,
    })
}

/// Reads what stands behind one key.
pub(crate) fn slot<T: Read>(table: &Table<'_>, key: &str, report: &mut Report<'_>) -> Slot<T> {
    let Some(entry) = table.get(key) else { return Slot { key: None, value: None } };
    let value = T::read(&entry.node, report).map(|value| At { value, span: entry.node.span });
    Slot { key: Some(entry.key), value }
}

/// Reads one of a set of words.
pub(crate) fn word<T: Copy>(
    node: &Node<'_>,
    what: &str,
    words: &[(&str, T)],
    report: &mut Report<'_>,
) -> Option<T> {
    let known = || words.iter().map(|&(word, _)| word);
    let Value::Text(text) = &node.value else {
        report
            .error(node.span, format!("expected {what}, found {}", node.value.kind()))
            .help(format!("write {}, in quotes", one_of(known())));
        return None;
    };
    if let Some(&(_, value)) = words.iter().find(|&&(word, _)| word == text) {
        return Some(value);
    }
    report.error(node.span, format!("{} is not {what}", quote(text))).help(match nearest(text, known()) {
        Some(meant) => format!("did you mean `{meant}`? It is one of {}", one_of(known())),
        None => format!("write {}", one_of(known())),
    });
    None
}

/// Reports a reference to something that the files do not define; says whether they do.
pub(crate) fn is_known<K: Ord + Display + Borrow<str>, V>(
    name: &At<K>,
    what: &str,
    known: &BTreeMap<K, V>,
    report: &mut Report<'_>,
) -> bool {
    if known.contains_key(name.value.borrow()) {
        return true;
    }
    let names = || known.keys().map(Borrow::borrow);
    let meant = if report.has_room() { nearest(name.value.borrow(), names()) } else { None };
    report.absent(name.span, format!("there is no {what} `{}`", name.value)).help(match meant {
        Some(meant) => format!("did you mean `{meant}`?"),
        None if known.is_empty() => format!("define it: [{what}s.{}]", name.value),
        None if known.len() <= 8 => format!("the {what}s are {}", one_of(names()).replace(" or ", " and ")),
        None => format!("define it: [{what}s.{}]", name.value),
    });
    false
}

/// Defines a table: its keys with their descriptions, types and whether they have to be there. Makes the struct, its
/// reader and its JSON Schema.
macro_rules! table {
    (
        $(#[doc = $doc:literal])+
        $name:ident {
            $( $(#[doc = $key_doc:literal])+ $($required:ident)? $key:literal => $field:ident: $type:ty, )+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug)]
        pub(crate) struct $name {
            $( $(#[doc = $key_doc])+ pub(crate) $field: $crate::shape::Slot<$type>, )+
        }

        impl $name {
            const KEYS: &'static [$crate::shape::Key] = &[$( $crate::shape::Key {
                name: $key,
                doc: concat!($($key_doc),+),
                required: $crate::shape::table!(@$($required)?),
                schema: <$type as $crate::shape::Read>::schema,
            } ),+];

            /// Every key that is written, with its place.
            #[allow(dead_code, reason = "only tables whose keys depend on each other need it")]
            pub(crate) fn written(&self) -> impl Iterator<Item = (&'static str, $crate::report::Span)> {
                [$( ($key, self.$field.key) ),+].into_iter().filter_map(|(key, span)| Some((key, span?)))
            }
        }

        impl $crate::shape::Read for $name {
            fn read(
                node: &$crate::tree::Node<'_>,
                report: &mut $crate::report::Report<'_>,
            ) -> Option<Self> {
                let table = $crate::shape::read_keys(node, Self::KEYS, report)?;
                Some(Self { $( $field: $crate::shape::slot(table, $key, report), )+ })
            }

            fn schema() -> serde_json::Value {
                $crate::shape::table_schema(concat!($($doc),+), Self::KEYS)
            }
        }
    };
    (@required) => { true };
    (@) => { false };
}

/// Defines how an enum is written: one word for each variant.
macro_rules! words {
    ($name:ty, $what:literal, $( $word:literal => $value:expr ),+ $(,)?) => {
        impl $crate::shape::Read for $name {
            fn read(
                node: &$crate::tree::Node<'_>,
                report: &mut $crate::report::Report<'_>,
            ) -> Option<Self> {
                $crate::shape::word(node, $what, &[$( ($word, $value) ),+], report)
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({ "enum": [$($word),+] })
            }
        }
    };
}

pub(crate) use {table, words};
