//! Networks in namespaces: what belongs together is in one stack, and stacks need not know of each other.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::source;
use viaduct_model::{Config, load};
use viaduct_types::NamespaceName;

const ZONES: &str = include_str!("../../../examples/zones/viaduct.toml");

fn config(text: &str) -> Config {
    load(&[source("viaduct.toml", text)]).unwrap_or_else(|diagnostics| panic!("{diagnostics}")).config
}

#[test]
fn each_part_has_its_own() {
    let config = config(ZONES);
    let names: Vec<&str> = config.stacks().into_iter().map(NamespaceName::as_str).collect();
    assert_eq!(names, ["blue", "red"]);
    let guests = |config: &Config| config.guests.keys().map(ToString::to_string).collect::<Vec<_>>();
    let host = config.of_host();
    assert_eq!(guests(&host), ["desk"]);
    assert_eq!(host.namespaces.len(), 2);
    assert_eq!(guests(&config.of_stack(&"red".parse().unwrap())), ["red-db", "red-mail", "red-web"]);
    let blue = config.of_stack(&"blue".parse().unwrap());
    assert_eq!(guests(&blue), ["blue-a", "blue-b", "blue-web"]);
    assert_eq!(blue.uplinks.keys().map(ToString::to_string).collect::<Vec<_>>(), ["blue"]);
    assert_eq!(blue.networks.len(), 2);
}

#[test]
fn equal_addresses_ports_and_prefixes_clash_within_a_stack_only() {
    config(ZONES);
    let in_one = ZONES.replace("namespace = \"blue\"", "namespace = \"red\"");
    let said = load(&[source("viaduct.toml", &in_one)]).unwrap_err().to_string();
    for words in [
        "the prefix 10.0.0.0/24 is used twice",
        "port 80 (tcp) of all addresses is published twice",
        "two uplinks have the interface `out` of the namespace `red`",
        "the address 10.0.0.5 is used twice",
    ] {
        assert!(said.contains(words), "nothing about {words}:\n{said}");
    }
}

#[test]
fn namespaces_do_not_stand_in_circles() {
    let circle = r#"
[networks.a]
mode = "isolated"
namespace = "a"
subnets = ["10.0.0.0/24"]
[networks.b]
mode = "isolated"
namespace = "b"
subnets = ["10.0.1.0/24"]
[[namespaces.a.interfaces]]
name = "up"
type = "veth"
network = "b"
addresses = ["10.0.1.2"]
[[namespaces.b.interfaces]]
name = "up"
type = "veth"
network = "a"
addresses = ["10.0.0.2"]
"#;
    let said = load(&[source("viaduct.toml", circle)]).unwrap_err().to_string();
    assert!(said.contains("a cable to a network that is in itself, by way of b"), "{said}");
}
