//! Copies of the examples that users start from, and how tests speak to the loader.

#![allow(dead_code, reason = "each test uses its part")]

use viaduct_model::{Diagnostics, Loaded, Source, load};

pub(crate) const EXAMPLES: [(&str, &str); 6] = [
    ("dedicated-xen", include_str!("../examples/dedicated-xen.toml")),
    ("hetzner", include_str!("../examples/hetzner.toml")),
    ("openvz", include_str!("../examples/openvz.toml")),
    ("vserver", include_str!("../examples/vserver.toml")),
    ("xen-vnet-hosta", include_str!("../examples/xen-vnet-hosta.toml")),
    ("xen-vnet-hostb", include_str!("../examples/xen-vnet-hostb.toml")),
];

pub(crate) fn source(name: &str, text: &str) -> Source {
    Source { name: name.to_owned(), text: text.to_owned() }
}

pub(crate) fn load_text(text: &str) -> Result<Loaded, Diagnostics> {
    load(&[source("viaduct.toml", text)])
}

/// What is said about a text, errors or warnings.
pub(crate) fn said(text: &str) -> String {
    match load_text(text) {
        Ok(loaded) if loaded.warnings.is_empty() => "nothing is wrong\n".to_owned(),
        Ok(loaded) => loaded.warnings.render(false),
        Err(diagnostics) => diagnostics.render(false),
    }
}
