//! Which of a device's addresses its host or guest speaks from: the first one of a family, in the file or as the kernel lists them.

use viaduct_types::IpNet;

/// What addresses of one device are sorted by to come in the order in which the kernel has to get them; `place` 0 is to be spoken
/// from. Of IPv4 it takes the oldest (the primary one of a prefix), of IPv6 the newest of those that fit alike.
pub(crate) fn age(net: IpNet, place: usize) -> (bool, usize) {
    let is_ipv6 = net.addr().is_ipv6();
    (is_ipv6, if is_ipv6 { usize::MAX - place } else { place })
}

/// Those of one device, the one to be spoken from first, in that order.
pub(crate) fn by_age<'a>(ranked: impl Iterator<Item = &'a IpNet>) -> impl Iterator<Item = IpNet> {
    let mut ranked: Vec<(usize, IpNet)> = ranked.copied().enumerate().collect();
    ranked.sort_by_key(|(place, net)| age(*net, *place));
    ranked.into_iter().map(|(_, net)| net)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_family_is_the_oldest_of_ipv4_and_the_newest_of_ipv6() {
        let nets = ["10.0.0.9/24", "fd00::1/64", "10.0.0.3/24", "fd00::9/64"].map(|net| net.parse().unwrap());
        let texts: Vec<String> = by_age(nets.iter()).map(|net| net.to_string()).collect();
        assert_eq!(texts, ["10.0.0.9/24", "10.0.0.3/24", "fd00::9/64", "fd00::1/64"]);
    }
}
