//! Numbers and times.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::{
    report::Report,
    shape::Read,
    suggest::quote,
    tree::{Node, Value},
};

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Integer<const MIN: u32, const MAX: u32>(pub(crate) u32);

impl<const MIN: u32, const MAX: u32> Read for Integer<MIN, MAX> {
    fn read(node: &Node<'_>, report: &mut Report<'_>) -> Option<Self> {
        let Value::Integer(number) = node.value else {
            let problem = report.error(node.span, format!("expected a number, found {}", node.value.kind()));
            if let Value::Text(text) = &node.value
                && text.parse::<u32>().is_ok()
            {
                problem.help(format!("write it without quotes: {text}"));
            } else {
                problem.help(format!("write a whole number from {MIN} to {MAX}"));
            }
            return None;
        };
        match number.and_then(|number| u32::try_from(number).ok()) {
            Some(number) if (MIN..=MAX).contains(&number) => Some(Self(number)),
            _ => {
                report
                    .error(node.span, "the number is out of range")
                    .help(format!("write a number from {MIN} to {MAX}"));
                None
            }
        }
    }

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// One VLAN by its number, or several that follow each other: 2, "10-20". 0 and 4095 are reserved (IEEE 802.1Q).
#[derive(Clone, Copy, Debug)]
pub(crate) struct VlanRange(pub(crate) u16, pub(crate) u16);

impl VlanRange {
    pub(crate) fn iter(self) -> impl Iterator<Item = u16> {
        self.0..=self.1
    }
}

impl Read for VlanRange {
    fn read(node: &Node<'_>, report: &mut Report<'_>) -> Option<Self> {
        const HELP: &str = "write a number from 1 to 4094, or a range like \"10-20\"";
        let number =
            |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let (range, shown) = match &node.value {
            Value::Integer(number) => {
                let vlan = number.and_then(|number| u16::try_from(number).ok());
                (vlan.map(|vlan| (vlan, vlan)), "the number".to_owned())
            }
            Value::Text(text) => {
                let ends = text.split_once('-').unwrap_or((text, text));
                (number(ends.0.trim()).zip(number(ends.1.trim())), quote(text))
            }
            other @ (Value::Float
            | Value::Boolean(_)
            | Value::Datetime
            | Value::List(_)
            | Value::Table(_)) => {
                report.error(node.span, format!("expected a VLAN, found {}", other.kind())).help(HELP);
                return None;
            }
        };
        match range {
            Some((first @ 1..=4094, last @ 1..=4094)) if first <= last => Some(Self(first, last)),
            _ => {
                report.error(node.span, format!("{shown} is no VLAN")).help(HELP);
                None
            }
        }
    }

    fn schema() -> Json {
        json!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 4094 },
            { "type": "string", "pattern": "^ *[0-9]{1,4} *(- *[0-9]{1,4} *)?$" },
        ] })
    }
}

/// A time of 1 second to 1 hour: a number of seconds, or a text like "10s" or "2m".
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeout(pub(crate) Duration);

impl Read for Timeout {
    fn read(node: &Node<'_>, report: &mut Report<'_>) -> Option<Self> {
        const HELP: &str = "write a number of seconds from 1 to 3600, or a text like \"10s\" or \"2m\"";
        let (seconds, shown) = match &node.value {
            Value::Integer(number) => (number.and_then(|n| u64::try_from(n).ok()), "the number".to_owned()),
            Value::Text(text) => (seconds(text), quote(text)),
            other @ (Value::Float
            | Value::Boolean(_)
            | Value::Datetime
            | Value::List(_)
            | Value::Table(_)) => {
                report.error(node.span, format!("expected a time, found {}", other.kind())).help(HELP);
                return None;
            }
        };
        match seconds {
            Some(seconds @ 1..=3600) => Some(Self(Duration::from_secs(seconds))),
            _ => {
                report.error(node.span, format!("{shown} is not a time that a hook can take")).help(HELP);
                None
            }
        }
    }

    fn schema() -> Json {
        json!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 3600 },
            { "type": "string", "pattern": "^[0-9]{1,4}[sm]$" },
        ] })
    }
}

/// What a setting is set to: a number or a text.
#[derive(Clone, Debug)]
pub(crate) struct SettingValue(pub(crate) String);

impl Read for SettingValue {
    fn read(node: &Node<'_>, report: &mut Report<'_>) -> Option<Self> {
        const HELP: &str = "write a number, or a text of one line, like \"4096 131072 6291456\"";
        match &node.value {
            Value::Integer(Some(number)) => Some(Self(number.to_string())),
            Value::Text(text) if !text.trim().is_empty() && !text.chars().any(char::is_control) => {
                Some(Self(text.trim().to_owned()))
            }
            Value::Text(text) => {
                report.error(node.span, format!("{} is no setting's value", quote(text))).help(HELP);
                None
            }
            other @ (Value::Integer(None)
            | Value::Float
            | Value::Boolean(_)
            | Value::Datetime
            | Value::List(_)
            | Value::Table(_)) => {
                report
                    .error(node.span, format!("expected a setting's value, found {}", other.kind()))
                    .help(HELP);
                None
            }
        }
    }

    fn schema() -> Json {
        json!({ "type": ["integer", "string"], "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\u0000-\\u001f\\u007f-\\u009f][^\\u0000-\\u001f\\u007f-\\u009f]*$" })
    }
}

fn seconds(text: &str) -> Option<u64> {
    let (digits, unit) = match (text.strip_suffix('s'), text.strip_suffix('m')) {
        (Some(digits), _) => (digits, 1),
        (None, Some(digits)) => (digits, 60),
        (None, None) => return None,
    };
    if digits.len() > 4 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok().map(|number| number * unit)
}
