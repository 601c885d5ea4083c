//! What a client is told.

use std::net::Ipv4Addr;

use viaduct_plan::Client;
use viaduct_types::Ipv4Net;
use viaduct_wire::{
    boot::HTTP_CLIENT,
    dhcp4::{FILE, Kind, Reply, Request, option, routes},
    dns_names,
};

/// Seconds that an address is given for. A guest learns of a change in its configuration after half of that.
const LEASE: u32 = 3600;
/// The same for an address that was lent until the guest has one of its own, which is soon.
const LENT: u32 = 120;

/// What iPXE is told instead of the mask of a /32.
const WIDER: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

/// An address with everything that belongs to it.
pub(super) fn whole(kind: Kind, client: &Client, request: &Request) -> Reply {
    let lease = if client.lent { LENT } else { LEASE };
    let seconds = |seconds: u32| seconds.to_be_bytes().to_vec();
    let mut options = vec![
        (option::SERVER, client.server.octets().to_vec()),
        (option::LEASE, seconds(lease)),
        (option::RENEW, seconds(lease / 2)),
        // Seven eighths (RFC 2131, 4.4.5).
        (option::REBIND, seconds(lease / 8 * 7)),
    ];
    let rest = rest(client, request);
    options.extend(rest.options.into_iter().filter(|(number, _)| *number != option::SERVER));
    Reply { kind, yiaddr: client.address.addr(), options, ..rest }
}

/// What a client with an address wants to know besides (RFC 2131, 4.3.5).
pub(super) fn rest(client: &Client, request: &Request) -> Reply {
    let mut options = vec![
        (option::SERVER, client.server.octets().to_vec()),
        (option::MASK, mask(client, request).octets().to_vec()),
    ];
    if let Some(router) = client.router {
        // Who reads the routes ignores the router (RFC 3442); it is for all others.
        options.push((option::ROUTES, routes(&ways(client, router))));
        options.push((option::ROUTER, router.octets().to_vec()));
    }
    let (siaddr, file) = boot(client, request, &mut options);
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
    Reply { kind: Kind::Ack, yiaddr: Ipv4Addr::UNSPECIFIED, siaddr, file, options }
}

/// The mask that the client is told. iPXE takes an address for a broadcast one when it has nothing but ones beyond the mask;
/// beyond that of a /32 there is nothing, so that it would broadcast whatever it sends. On a link of its own a guest finds
/// the host by whatever address it asks for, so that there a wider mask does as well.
fn mask(client: &Client, request: &Request) -> Ipv4Addr {
    if client.address.prefix_len() == 32 && !client.shared && request.booting().is_ipxe {
        return WIDER;
    }
    client.address.netmask()
}

/// Where what the client boots is, and which file; as options, too, when it wants them or the message has no room for it.
fn boot(client: &Client, request: &Request, options: &mut Vec<(u8, Vec<u8>)>) -> (Ipv4Addr, Option<String>) {
    let booting = request.booting();
    let chosen = client.boot.as_ref().and_then(|boot| Some((boot.server, booting.choose(&boot.files)?)));
    let Some((server, file)) = chosen else { return (Ipv4Addr::UNSPECIFIED, None) };
    if booting.is_http {
        options.push((option::VENDOR_CLASS, HTTP_CLIENT.to_vec()));
    }
    if request.wants(option::BOOT_FILE) || file.len() >= FILE.len() {
        options.push((option::BOOT_FILE, file.as_bytes().to_vec()));
    }
    if let Some(server) = server.filter(|_| request.wants(option::BOOT_SERVER)) {
        options.push((option::BOOT_SERVER, server.to_string().into_bytes()));
    }
    (server.unwrap_or(Ipv4Addr::UNSPECIFIED), Some(file.to_owned()))
}

/// No.
pub(super) fn refusal(client: &Client) -> Reply {
    let options = vec![(option::SERVER, client.server.octets().to_vec())];
    Reply {
        kind: Kind::Nak,
        yiaddr: Ipv4Addr::UNSPECIFIED,
        siaddr: Ipv4Addr::UNSPECIFIED,
        file: None,
        options,
    }
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
