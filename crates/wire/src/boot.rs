//! What a machine says of itself that wants to boot by the network, in DHCP (RFC 4578) and in DHCPv6 (RFC 5970).

use std::collections::BTreeMap;

use viaduct_types::BootClient;

/// What UEFI calls itself that boots by HTTP; who answers it says so, too (UEFI specification, section 24.7).
pub const HTTP_CLIENT: &[u8] = b"HTTPClient";
/// What firmware calls itself that boots by TFTP.
const PXE_CLIENT: &[u8] = b"PXEClient";
/// What iPXE says of its user.
const IPXE: &[u8] = b"iPXE";
/// So many architectures of a machine are looked at.
const ARCHITECTURES: usize = 8;

/// What a machine says of how it boots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Booting {
    /// Whether it asks for something to boot.
    pub asks: bool,
    /// Whether it is iPXE.
    pub is_ipxe: bool,
    /// Whether it boots by HTTP.
    pub is_http: bool,
    /// Its architectures, best first.
    architectures: [Option<BootClient>; ARCHITECTURES],
}

impl Booting {
    /// Its architectures (option 93 of DHCP, 61 of DHCPv6): two bytes each.
    pub fn architectures(&mut self, value: &[u8]) {
        self.asks = true;
        let (pairs, _) = value.as_chunks::<2>();
        let known = pairs.iter().filter_map(|pair| BootClient::of_architecture(u16::from_be_bytes(*pair)));
        for (place, client) in self.architectures.iter_mut().zip(known) {
            *place = Some(client);
        }
    }

    /// What its vendor calls it (option 60 of DHCP, a part of option 16 of DHCPv6), like `PXEClient:Arch:00007:…`.
    pub fn vendor(&mut self, class: &[u8]) {
        self.is_http |= class.starts_with(HTTP_CLIENT);
        self.asks |= self.is_http || class.starts_with(PXE_CLIENT);
    }

    /// What its user calls it (option 77 of DHCP, a part of option 15 of DHCPv6).
    pub fn user(&mut self, class: &[u8]) {
        if class == IPXE {
            (self.asks, self.is_ipxe) = (true, true);
        }
    }

    /// Which of these it loads; none when it does not ask, or there is nothing for it.
    pub fn choose<'a>(&self, files: &'a BTreeMap<BootClient, String>) -> Option<&'a str> {
        if !self.asks {
            return None;
        }
        let ipxe = self.is_ipxe.then_some(BootClient::Ipxe);
        let own = self.architectures.iter().flatten().copied();
        let names = ipxe.into_iter().chain(own).chain([BootClient::Other]);
        let file = names.into_iter().find_map(|name| files.get(&name))?;
        // Who boots by HTTP can do nothing with the name of a file.
        (!self.is_http || file.starts_with("http")).then_some(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> BTreeMap<BootClient, String> {
        [
            (BootClient::Ipxe, "http://192.0.2.1/boot.ipxe"),
            (BootClient::Bios, "undionly.kpxe"),
            (BootClient::EfiX86_64, "ipxe.efi"),
            (BootClient::HttpEfiX86_64, "http://192.0.2.1/ipxe.efi"),
            (BootClient::Other, "else"),
        ]
        .map(|(client, file)| (client, file.to_owned()))
        .into()
    }

    fn booting(architectures: &[u8], vendor: &[u8], user: &[u8]) -> Booting {
        let mut booting = Booting::default();
        if !architectures.is_empty() {
            booting.architectures(architectures);
        }
        booting.vendor(vendor);
        booting.user(user);
        booting
    }

    #[test]
    fn each_loads_what_is_for_it() {
        let files = files();
        /// Its architectures, what vendor and user call it, and what it loads.
        type Case<'a> = (&'a [u8], &'a [u8], &'a [u8], Option<&'a str>);
        let cases: [Case<'_>; 9] = [
            (&[0, 0], b"PXEClient:Arch:00000:UNDI:002001", b"", Some("undionly.kpxe")),
            (&[0, 7], b"PXEClient:Arch:00007:UNDI:003016", b"", Some("ipxe.efi")),
            // As RFC 4578 has it.
            (&[0, 9], b"PXEClient", b"", Some("ipxe.efi")),
            (&[0, 16], b"HTTPClient:Arch:00016:UNDI:003001", b"", Some("http://192.0.2.1/ipxe.efi")),
            (&[0, 7], b"PXEClient", b"iPXE", Some("http://192.0.2.1/boot.ipxe")),
            // The first that there is something for.
            (&[0xff, 0xff, 0, 0], b"PXEClient", b"", Some("undionly.kpxe")),
            (&[0, 11], b"PXEClient", b"", Some("else")),
            // Nothing that it could load by HTTP; and a system that only wants an address.
            (&[0, 19], b"HTTPClient", b"", None),
            (&[], b"MSFT 5.0", b"", None),
        ];
        for (architectures, vendor, user, expected) in cases {
            assert_eq!(booting(architectures, vendor, user).choose(&files), expected, "{architectures:?}");
        }
        assert_eq!(booting(&[0, 0], b"", b"iPXE").choose(&BTreeMap::new()), None);
    }

    #[test]
    fn more_architectures_than_there_are_do_no_harm() {
        let mut booting = Booting::default();
        booting.architectures(&[0; 999]);
        assert_eq!(booting.choose(&files()), Some("undionly.kpxe"));
    }
}
