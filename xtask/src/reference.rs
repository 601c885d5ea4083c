//! docs/configuration.md: every key of the configuration, from the descriptions in its JSON Schema.

use std::fmt::Write as _;

use serde_json::Value;

/// Where it is kept.
pub const PATH: &str = "docs/configuration.md";

const HEAD: &str = "\
# Configuration

<!-- Made by `cargo xtask docs` from the descriptions in crates/model; edit them there. -->

One TOML file, `/etc/viaduct/viaduct.toml`, or several: the files of `/etc/viaduct/conf.d` are added in the order of their
names, and a key that two of them define is an error. `--config` names another file or directory. `viaduct check` says
what is wrong, all of it at once, each at its place; `viaduct schema` prints the JSON Schema that this page is made from, for
editors that complete and check TOML with one.

Names that you choose, like NAME below, are made of letters, digits, `-`, `_` and `.`, and have at most 63 characters.
";

/// The tables of the file, in the order in which one writes them; others follow.
const ORDER: [&str; 7] = ["host", "uplinks", "networks", "guests", "namespaces", "vnets", "peers"];

/// The whole page.
pub fn render(schema: &Value) -> String {
    let mut page = HEAD.to_owned();
    let keys = keys(schema);
    let known = ORDER.iter().filter_map(|name| keys.iter().find(|(key, _)| key == name));
    let others = keys.iter().filter(|(key, _)| !ORDER.contains(&key.as_str()));
    for (name, value) in known.chain(others) {
        section(name, value, &mut page);
    }
    page
}

/// A table of the file with its keys, then the tables in it.
fn section(path: &str, schema: &Value, page: &mut String) {
    let (header, table) = unwrap(path, schema);
    let path = header.trim_matches(['[', ']']);
    let _ = write!(page, "\n## `{header}`\n\n{}\n\n| key | value | meaning |\n|---|---|---|\n", text(table));
    let keys = keys(table);
    for (name, value) in &keys {
        let meaning = [text(value), condition(name, table)].join(" ");
        let _ = writeln!(page, "| `{name}` | {} | {} |", form(value), cell(meaning.trim_end()));
    }
    for (name, value) in keys.iter().filter(|(_, value)| is_table(value)) {
        section(&format!("{path}.{name}"), value, page);
    }
}

/// How the tables behind a key are headed in the file, and what is in one of them.
fn unwrap<'a>(path: &str, schema: &'a Value) -> (String, &'a Value) {
    if schema["items"]["properties"].is_object() {
        return (format!("[[{path}]]"), &schema["items"]);
    }
    if schema["additionalProperties"]["properties"].is_object() {
        return (format!("[{path}.NAME]"), &schema["additionalProperties"]);
    }
    (format!("[{path}]"), schema)
}

fn is_table(schema: &Value) -> bool {
    unwrap("", schema).1["properties"].is_object()
}

/// The keys of a table: first those that have to be there. Otherwise in order of their names, however the schema
/// orders them.
fn keys(table: &Value) -> Vec<(String, &Value)> {
    let properties = table["properties"].as_object();
    let mut keys: Vec<_> =
        properties.into_iter().flatten().map(|(key, value)| (key.clone(), value)).collect();
    keys.sort_by_key(|(key, _)| (!requires(table, key), key.clone()));
    keys
}

fn requires(table: &Value, key: &str) -> bool {
    table["required"].as_array().is_some_and(|required| required.iter().any(|name| name == key))
}

/// When a key has to be there, and when it may not be.
fn condition(key: &str, table: &Value) -> String {
    if requires(table, key) {
        return "**Required.**".to_owned();
    }
    // As schemas say it: one rule for each value of some other key, or one rule with its opposite.
    if let Some(rules) = table["allOf"].as_array() {
        let value = |rule: &Value| discriminant(rule).map(|(_, value)| value).unwrap_or_default();
        let of = rules.first().and_then(discriminant).map_or_else(|| "mode".to_owned(), |(key, _)| key);
        let needed: Vec<_> = rules.iter().filter(|rule| requires(&rule["then"], key)).map(value).collect();
        let refused = |rule: &&Value| rule["then"]["properties"][key] == Value::Bool(false);
        if !rules.iter().any(|rule| refused(&rule)) {
            return String::new();
        }
        let optional =
            rules.iter().filter(|rule| !refused(rule)).map(value).filter(|mode| !needed.contains(mode));
        let optional: Vec<_> = optional.collect();
        return match (needed.is_empty(), optional.is_empty()) {
            (true, _) => format!("Only with {of} {}.", list(&optional)),
            (false, true) => format!("Only with {of} {}, where it is required.", list(&needed)),
            (false, false) => format!("Required with {of} {}; also with {}.", list(&needed), list(&optional)),
        };
    }
    match discriminant(table) {
        Some((other, value)) if requires(&table["then"], key) => {
            format!("Only with `{other} = \"{value}\"`, where it is required.")
        }
        Some(_) | None => String::new(),
    }
}

/// The key and its value that a rule is about.
fn discriminant(rule: &Value) -> Option<(String, String)> {
    let (key, value) = rule["if"]["properties"].as_object()?.iter().next()?;
    Some((key.clone(), value["const"].as_str()?.to_owned()))
}

fn list(words: &[String]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// What can be written as a value.
fn form(schema: &Value) -> String {
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    }
    if let Some(forms) = schema["anyOf"].as_array() {
        return forms.iter().map(form).collect::<Vec<_>>().join(", or ");
    }
    match schema["type"].as_str() {
        Some("boolean") => "`true`, `false`".to_owned(),
        Some("integer") => match (schema["minimum"].as_i64(), schema["maximum"].as_i64()) {
            (Some(least), Some(most)) => format!("{least} to {most}"),
            _ => "a number".to_owned(),
        },
        Some("array") if is_table(schema) => "tables".to_owned(),
        Some("array") => match form(&schema["items"]).as_str() {
            "text" => "list of texts".to_owned(),
            other => format!("list of {other}"),
        },
        Some("object") => "a table".to_owned(),
        _ => "text".to_owned(),
    }
}

fn text(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
