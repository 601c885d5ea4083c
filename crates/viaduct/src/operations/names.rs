//! Names that nobody has, and the one that was probably meant.

use viaduct_model::{Config, nearest};
use viaduct_types::NicId;

use crate::failure::Failure;

/// No such guest or NIC, and what there is.
pub(crate) fn unknown(id: &NicId, config: &Config) -> Failure {
    Failure::usage(match config.guests.get(&id.guest) {
        Some(guest) if guest.nics.is_empty() => format!("the guest {} has no NICs of its own", id.guest),
        Some(guest) if guest.nics.len() == 1 => {
            format!("the guest {0} has one NIC, {0}.0; there is no {id}", id.guest)
        }
        Some(guest) => format!(
            "the guest {0} has {1} NICs, {0}.0 to {0}.{2}; there is no {id}",
            id.guest,
            guest.nics.len(),
            guest.nics.len() - 1
        ),
        None => {
            let names = || config.guests.keys().map(|name| name.as_str());
            format!("there is no guest {} in the configuration{}", id.guest, hint(id.guest.as_str(), names))
        }
    })
}

fn hint<'a, I: Iterator<Item = &'a str>>(wrong: &str, known: impl Fn() -> I) -> String {
    const SHOWN: usize = 10;
    if let Some(name) = nearest(wrong, known()) {
        return format!("; did you mean {name}?");
    }
    let names: Vec<&str> = known().take(SHOWN).collect();
    if names.is_empty() {
        return "; it has none".to_owned();
    }
    let more = if known().nth(SHOWN).is_some() { ", …" } else { "" };
    format!("; there are {}{more}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_when_none_is_near() {
        assert_eq!(hint("x", || ["web"].into_iter()), "; there are web");
        assert_eq!(hint("x", std::iter::empty), "; it has none");
    }
}
