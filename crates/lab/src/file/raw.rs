//! The file as it is written; serde checks its form.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

type Text = Spanned<String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) switches: BTreeMap<Text, Switch>,
    #[serde(default)]
    pub(super) machines: BTreeMap<Text, Machine>,
    #[serde(default)]
    pub(super) hosts: BTreeMap<Text, Host>,
    #[serde(default)]
    pub(super) guests: BTreeMap<Text, Guest>,
    #[serde(default)]
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Switch {
    pub(super) mtu: Option<u32>,
    pub(super) delay: Option<Text>,
    pub(super) loss_percent: Option<Spanned<f64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Machine {
    #[serde(default)]
    pub(super) interfaces: BTreeMap<Text, Interface>,
    #[serde(default)]
    pub(super) routes: Vec<Text>,
    #[serde(default)]
    pub(super) forwarding: bool,
    #[serde(default)]
    pub(super) listen: Vec<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Host {
    pub(super) config: Option<Text>,
    #[serde(default)]
    pub(super) interfaces: BTreeMap<Text, Interface>,
    #[serde(default)]
    pub(super) routes: Vec<Text>,
    #[serde(default)]
    pub(super) listen: Vec<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Guest {
    pub(super) host: Option<Text>,
    pub(super) guest: Option<Text>,
    #[serde(default = "yes")]
    pub(super) attach: bool,
    #[serde(default)]
    pub(super) listen: Vec<Text>,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Interface {
    pub(super) switch: Text,
    #[serde(default)]
    pub(super) addresses: Vec<Text>,
    #[serde(default)]
    pub(super) gateways: Vec<Text>,
    pub(super) mac: Option<Text>,
    pub(super) vlan: Option<Spanned<u16>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    #[serde(default)]
    pub(super) because: String,
    #[serde(default, rename = "do")]
    pub(super) commands: OneOrMore,
    #[serde(default)]
    pub(super) expect: OneOrMore,
}

/// A text or a list of them.
#[derive(Debug, Default)]
pub(super) struct OneOrMore(pub(super) Vec<Text>);

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Spanned::<Either>::deserialize(deserializer)?;
        let span = value.span();
        Ok(Self(match value.into_inner() {
            Either::One(text) => vec![Spanned::new(span, text)],
            Either::More(texts) => texts,
        }))
    }
}

enum Either {
    One(String),
    More(Vec<Text>),
}

// Not `#[serde(untagged)]`: that buffers values, and what is buffered has lost its place.
impl<'de> Deserialize<'de> for Either {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Either;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Either, E> {
                Ok(Either::One(text.to_owned()))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut texts: A) -> Result<Either, A::Error> {
                let mut all = Vec::new();
                while let Some(text) = texts.next_element()? {
                    all.push(text);
                }
                Ok(Either::More(all))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
