//! What a client is told.

use std::net::Ipv4Addr;

use viaduct_plan::Client;
use viaduct_types::Ipv4Net;
use viaduct_wire::{
    dhcp4::{Kind, Reply, option, routes},
    dns_names,
};

/// Seconds that an address is given for. A guest learns of a change in its configuration after half of that.
const LEASE: u32 = 3600;
/// The same for an address that was lent until the guest has one of its own, which is soon.
const LENT: u32 = 120;

/// An address with everything that belongs to it.
pub(super) fn whole(kind: Kind, client: &Client) -> Reply {
    let lease = if client.lent { LENT } else { LEASE };
    let seconds = |seconds: u32| seconds.to_be_bytes().to_vec();
    let mut options = vec![
        (option::SERVER, client.server.octets().to_vec()),
        (option::LEASE, seconds(lease)),
        (option::RENEW, seconds(lease / 2)),
        // Seven eighths (RFC 2131, 4.4.5).
        (option::REBIND, seconds(lease / 8 * 7)),
    ];
    options.extend(rest(client).options.into_iter().filter(|(number, _)| *number != option::SERVER));
    Reply { kind, yiaddr: client.address.addr(), options }
}

/// What a client with an address wants to know besides (RFC 2131, 4.3.5).
pub(super) fn rest(client: &Client) -> Reply {
    let mut options = vec![
        (option::SERVER, client.server.octets().to_vec()),
        (option::MASK, client.address.netmask().octets().to_vec()),
    ];
    if let Some(router) = client.router {
        // Who reads the routes ignores the router (RFC 3442); it is for all others.
        options.push((option::ROUTES, routes(&ways(client, router))));
        options.push((option::ROUTER, router.octets().to_vec()));
    }
    if !client.dns.is_empty() {
        options.push((option::DNS, client.dns.iter().flat_map(|server| server.octets()).collect()));
    }
    options.push((option::MTU, client.mtu.to_be_bytes().to_vec()));
    options.push((option::HOST_NAME, client.nic.guest.as_str().as_bytes().to_vec()));
    if let Some(domain) = &client.domain {
        options.push((option::DOMAIN, domain.as_bytes().to_vec()));
        options.push((option::SEARCH, dns_names([domain.as_str()])));
    }
    // Option 119 may come out empty, which is none.
    options.retain(|(_, value)| !value.is_empty());
    Reply { kind: Kind::Ack, yiaddr: Ipv4Addr::UNSPECIFIED, options }
}

/// No.
pub(super) fn refusal(client: &Client) -> Reply {
    let options = vec![(option::SERVER, client.server.octets().to_vec())];
    Reply { kind: Kind::Nak, yiaddr: Ipv4Addr::UNSPECIFIED, options }
}

/// The way out; where the gateway is outside the prefix, first that it is on the link.
fn ways(client: &Client, router: Ipv4Addr) -> Vec<(Ipv4Net, Ipv4Addr)> {
    let mut ways = Vec::new();
    if !client.address.contains(&router) {
        ways.push((Ipv4Net::from(router), Ipv4Addr::UNSPECIFIED));
    }
    ways.push((Ipv4Net::default(), router));
    ways
}
