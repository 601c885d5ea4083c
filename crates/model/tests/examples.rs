//! The examples that users start from load as they stand, and say what their comments say.

mod common;

use common::{EXAMPLES, source};
use viaduct_model::{Allow, AllowPeer, Config, Diagnostics, GuestId, Mode, Policy, Service, load};
use viaduct_types::{NicId, PortRange, Proto};

fn example(name: &str) -> Config {
    let (_, text) = EXAMPLES.iter().find(|(example, _)| *example == name).expect("an example");
    match load(&[source(&format!("{name}.toml"), text)]) {
        Ok(loaded) => {
            assert_eq!(loaded.warnings, Diagnostics::default(), "{name}: {}", loaded.warnings);
            loaded.config
        }
        Err(diagnostics) => panic!("{name} does not load:\n{diagnostics}"),
    }
}

#[test]
fn every_example_loads_without_a_word() {
    for (name, _) in EXAMPLES {
        insta::assert_debug_snapshot!(name, example(name));
    }
}

#[test]
fn openvz_says_what_its_comments_say() {
    let config = example("openvz");
    let nic = |id: &str| config.nic(&id.parse::<NicId>().unwrap()).unwrap();
    assert_eq!(nic("probe").device.as_str(), "veth1000.0");
    assert_eq!(nic("probe").mac.to_string(), "02:00:00:03:e8:00");
    assert_eq!(nic("probe").addresses, ["203.0.113.77/24".parse().unwrap()]);
    assert_eq!(nic("deb6").device.as_str(), "veth100.0");
    assert_eq!(nic("ldap").device.as_str(), "v-ldap.0");
    assert_eq!(nic("ldap").addresses, ["192.168.1.3/24".parse().unwrap()]);
    let Mode::Nat { subnets, source_address, bridge } = &config.networks["services"].mode else { panic!() };
    assert_eq!(subnets[0].gateway.to_string(), "192.168.1.1");
    assert_eq!(source_address[0].to_string(), "203.0.113.10");
    assert_eq!(bridge.as_str(), "br-services");
    assert_eq!(config.networks["lan"].to_host, Policy::Allow);
    assert_eq!(config.networks["public"].inbound, Policy::Allow);
}

#[test]
fn hetzner_says_what_its_comments_say() {
    let config = example("hetzner");
    let Mode::Routed { pool, install_pool, proxy, probe: _ } = &config.networks["public"].mode else {
        panic!()
    };
    assert_eq!(pool.len(), 5);
    assert_eq!(pool[1], "203.0.113.211/32".parse().unwrap());
    assert_eq!(install_pool[..], ["172.30.0.0/16".parse().unwrap()]);
    assert!(!proxy);
    let allow = config.guests["db"].allow_in.as_ref().unwrap();
    assert_eq!(
        allow[0],
        Allow {
            peer: AllowPeer::Guest("shop".parse().unwrap()),
            services: vec![Service::Ports(Proto::Tcp, PortRange::new(5432, 5432).unwrap())],
            origin: allow[0].origin.clone(),
        }
    );
    assert_eq!(allow[0].origin.to_string(), "hetzner.toml:28");
    assert!(config.guests["fresh"].nics[0].addresses.is_empty());
}

#[test]
fn vserver_says_what_its_comments_say() {
    let config = example("vserver");
    let dmz = &config.namespaces["dmz"];
    assert_eq!(dmz.id, GuestId::Given(42));
    assert_eq!(dmz.interfaces[0].mac.unwrap().to_string(), "02:00:02:00:2a:00");
    assert!(config.guests["dhcpd"].hooks.stopped.is_some());
}
