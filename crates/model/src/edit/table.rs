//! Tables under a header and tables in braces get new keys in their own style.

use toml_edit::{Array, Decor, InlineTable, Item, Key, Table, TableLike, Value};

use super::array::{around_new, line_break, part};

/// A table of either kind.
pub(super) enum Editable<'d> {
    Table(&'d mut Table),
    Inline(&'d mut InlineTable),
}

impl<'d> Editable<'d> {
    pub(super) fn of(item: &'d mut Item) -> Option<Self> {
        match item {
            Item::Table(table) => Some(Self::Table(table)),
            Item::Value(Value::InlineTable(table)) => Some(Self::Inline(table)),
            Item::None | Item::Value(_) | Item::ArrayOfTables(_) => None,
        }
    }

    fn into_table_like(self) -> &'d mut dyn TableLike {
        match self {
            Self::Table(table) => table,
            Self::Inline(table) => table,
        }
    }

    pub(super) fn contains_key(&self, key: &str) -> bool {
        match self {
            Self::Table(table) => table.contains_key(key),
            Self::Inline(table) => table.contains_key(key),
        }
    }

    pub(super) fn into_item(self, key: &str) -> Option<&'d mut Item> {
        self.into_table_like().get_mut(key)
    }

    /// The list behind the key; an empty one is made where there is none.
    pub(super) fn list_or_new(self, key: &str) -> Option<&'d mut Array> {
        if !self.contains_key(key) {
            match self {
                Self::Table(table) => {
                    insert(table, key);
                    return table.get_mut(key)?.as_array_mut();
                }
                Self::Inline(table) => {
                    insert_inline(table, key);
                    return table.get_mut(key)?.as_array_mut();
                }
            }
        }
        self.into_item(key)?.as_array_mut()
    }
}

fn insert(table: &mut Table, key: &str) {
    if table.is_implicit() {
        // The header that it gets now comes before its first part: the comment there is about all of it.
        let first = table.iter_mut().find_map(|(_, item)| match item {
            Item::ArrayOfTables(tables) => tables.get_mut(0),
            Item::Table(table) => Some(table),
            Item::None | Item::Value(_) => None,
        });
        if let Some(prefix) = first.and_then(|first| {
            let prefix = first.decor().prefix().cloned();
            first.decor_mut().set_prefix("\n");
            prefix
        }) {
            table.decor_mut().set_prefix(prefix);
        }
    }
    table.insert(key, Item::Value(Array::new().into()));
}

fn insert_inline(table: &mut InlineTable, key: &str) {
    let mut line = None;
    let mut end = String::new();
    for (key, value) in table.iter_mut() {
        line = line_break(part(key.leaf_decor().prefix())).map(str::to_owned).or(line);
        end = part(value.decor().suffix()).to_owned();
    }
    end += table.trailing().as_str().unwrap_or_default();
    if let Some((_, last)) = table.iter_mut().last() {
        last.decor_mut().set_suffix("");
    }
    let (before, end) = around_new(&end, line.as_deref(), false);
    let key = Key::new(key).with_leaf_decor(Decor::new(before, " "));
    let mut list = Array::new();
    // What follows it is the table's end, which is set next.
    *list.decor_mut() = Decor::new(" ", "");
    table.insert_formatted(&key, list.into());
    table.set_trailing(end);
}
