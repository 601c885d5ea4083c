//! Changes one thing in a configuration's files and leaves everything else as it was written: comments, order, style.

mod array;
mod quick;
mod table;

pub use quick::{Edited, apply_to_loaded};
use table::Editable;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Value};
use viaduct_types::{GuestName, NicId, Publish};

use crate::{
    Diagnostics, Source, load,
    shape::{Address, Text},
    suggest::nearest,
};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Gives a NIC another address.
    AddAddress {
        /// Which.
        nic: NicId,
        /// As it is to be written.
        address: Address,
    },
    /// Takes an address from a NIC.
    RemoveAddress {
        /// Which.
        nic: NicId,
        /// Found whatever prefix length it is written with.
        address: Address,
    },
    /// Makes a port reachable.
    Publish {
        /// Whose.
        guest: GuestName,
        /// What.
        publish: Publish,
    },
    /// Makes a port unreachable again.
    Unpublish {
        /// Whose.
        guest: GuestName,
        /// Exactly what was published.
        publish: Publish,
    },
}

/// What came of an edit that is not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditOutcome {
    /// This one of the sources has a new text.
    Changed {
        /// Its place in the list.
        source: usize,
    },
    /// What was to be added is there; nothing changed.
    AlreadyThere,
    /// What was to be removed is not there; nothing changed.
    NotThere,
}

/// Why an edit cannot be made; nothing changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EditError {
    /// No file has the guest.
    #[error("there is no guest `{guest}` in the configuration{}", did_you_mean(.nearest))]
    UnknownGuest {
        /// As asked for.
        guest: GuestName,
        /// A guest whose name is nearly that.
        nearest: Option<String>,
    },
    /// The guest has fewer NICs.
    #[error("guest `{}` has {}, so there is no {nic}", nic.guest, nics(*.count))]
    UnknownNic {
        /// As asked for.
        nic: NicId,
        /// How many it has.
        count: usize,
    },
    /// A file that would have to be changed is not TOML, or the key does not hold what it should.
    #[error("{file} has to be mended first: {reason}")]
    Broken {
        /// The file's name.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The changed configuration would be wrong.
    #[error("the configuration would be wrong after this change:\n{0}")]
    Refused(Diagnostics),
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

fn nics(count: usize) -> String {
    match count {
        0 => "no NICs".into(),
        1 => "1 NIC".into(),
        _ => format!("{count} NICs"),
    }
}

/// Makes the change in the file that defines the guest. The result has been loaded: it is right.
///
/// # Errors
/// When the guest or NIC does not exist, or the result would not load; then the sources are as they were.
pub fn apply(sources: &mut [Source], edit: &Edit) -> Result<EditOutcome, EditError> {
    let (guest, key) = match edit {
        Edit::AddAddress { nic, .. } | Edit::RemoveAddress { nic, .. } => (&nic.guest, "nics"),
        Edit::Publish { guest, .. } | Edit::Unpublish { guest, .. } => (guest, "publish"),
    };
    let (index, mut document) = document_with(sources, guest, key)?;
    let broken =
        |reason: &str| EditError::Broken { file: sources[index].name.clone(), reason: reason.to_owned() };
    let table = guest_table(&mut document, guest).ok_or_else(|| broken("the guest is not a table"))?;
    let same_address = |address: &Address, text: &str| Address::parse(text).is_ok_and(|a| a.ip == address.ip);
    let same_port = |publish: &Publish, text: &str| text.parse::<Publish>().is_ok_and(|p| p == *publish);
    let outcome = match edit {
        Edit::AddAddress { nic, address } => nic_table(table, nic)?.and_then(|table| {
            add(table, "addresses", &address.to_string(), |text| same_address(address, text))
        }),
        Edit::RemoveAddress { nic, address } => nic_table(table, nic)?
            .and_then(|table| remove(table, "addresses", |text| same_address(address, text))),
        Edit::Publish { publish, .. } => {
            add(table, "publish", &publish.to_string(), |text| same_port(publish, text))
        }
        Edit::Unpublish { publish, .. } => remove(table, "publish", |text| same_port(publish, text)),
    };
    match outcome.ok_or_else(|| broken("a list of texts is needed there"))? {
        Change::AlreadyThere => return Ok(EditOutcome::AlreadyThere),
        Change::NotThere => return Ok(EditOutcome::NotThere),
        Change::Made => {}
    }
    let before = std::mem::replace(&mut sources[index].text, document.to_string());
    match load(sources) {
        Ok(_) => Ok(EditOutcome::Changed { source: index }),
        Err(diagnostics) => {
            sources[index].text = before;
            Err(EditError::Refused(diagnostics))
        }
    }
}

enum Change {
    Made,
    AlreadyThere,
    NotThere,
}

/// The file to change: the one that has the key, since files add to each other; else the first that has the guest.
fn document_with(
    sources: &[Source],
    guest: &GuestName,
    key: &str,
) -> Result<(usize, DocumentMut), EditError> {
    let mut without_key = None;
    let mut guests: Vec<String> = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let mut document: DocumentMut = source.text.parse().map_err(|error: toml_edit::TomlError| {
            EditError::Broken { file: source.name.clone(), reason: error.message().to_owned() }
        })?;
        match guest_table(&mut document, guest).map(|table| table.contains_key(key)) {
            Some(true) => return Ok((index, document)),
            Some(false) => without_key = without_key.or(Some((index, document))),
            None => {
                let table = document.get("guests").and_then(Item::as_table_like);
                guests.extend(table.into_iter().flat_map(|t| t.iter().map(|(name, _)| name.to_owned())));
            }
        }
    }
    without_key.ok_or_else(|| EditError::UnknownGuest {
        guest: guest.clone(),
        nearest: nearest(guest.as_str(), guests.iter().map(String::as_str)).map(str::to_owned),
    })
}

fn guest_table<'d>(document: &'d mut DocumentMut, guest: &GuestName) -> Option<Editable<'d>> {
    Editable::of(document.get_mut("guests")?.as_table_like_mut()?.get_mut(guest.as_str())?)
}

/// The NIC's table; none when it is none.
fn nic_table<'d>(guest: Editable<'d>, nic: &NicId) -> Result<Option<Editable<'d>>, EditError> {
    let index = usize::from(nic.index);
    let nics = guest.into_item("nics");
    let tables = nics.as_ref().and_then(|item| item.as_array_of_tables()).map(ArrayOfTables::len);
    let inline = nics.as_ref().and_then(|item| item.as_array()).map(Array::len);
    let count = tables.or(inline).unwrap_or(0);
    if index >= count {
        return Err(EditError::UnknownNic { nic: nic.clone(), count });
    }
    Ok(nics.and_then(|nics| match nics {
        Item::ArrayOfTables(tables) => tables.get_mut(index).map(Editable::Table),
        Item::Value(Value::Array(array)) => {
            array.get_mut(index).and_then(Value::as_inline_table_mut).map(Editable::Inline)
        }
        Item::None | Item::Table(_) | Item::Value(_) => None,
    }))
}

fn add(table: Editable<'_>, key: &str, text: &str, same: impl Fn(&str) -> bool) -> Option<Change> {
    let list = table.list_or_new(key)?;
    if list.iter().any(|value| value.as_str().is_some_and(&same)) {
        return Some(Change::AlreadyThere);
    }
    array::push(list, text);
    Some(Change::Made)
}

fn remove(table: Editable<'_>, key: &str, same: impl Fn(&str) -> bool) -> Option<Change> {
    let Some(item) = table.into_item(key) else { return Some(Change::NotThere) };
    let list = item.as_array_mut()?;
    let Some(index) = list.iter().position(|value| value.as_str().is_some_and(&same)) else {
        return Some(Change::NotThere);
    };
    array::remove(list, index);
    Some(Change::Made)
}
