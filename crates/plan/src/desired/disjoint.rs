//! Interval sets refuse an element that begins or ends inside another (net/netfilter/nft_set_pipapo.c,
//! `nft_pipapo_insert`), so permissions that overlap are cut into ones that do not.

use std::collections::BTreeMap;

use viaduct_types::IpNet;

/// Boxes of prefix times range (both ends included) that cover the same points and do not overlap.
pub(super) fn disjoint(boxes: impl IntoIterator<Item = (IpNet, (u16, u16))>) -> Vec<(IpNet, (u16, u16))> {
    let mut by_prefix: BTreeMap<IpNet, Vec<(u16, u16)>> = BTreeMap::new();
    for (prefix, range) in boxes {
        by_prefix.entry(prefix.trunc()).or_default().push(range);
    }
    for ranges in by_prefix.values_mut() {
        *ranges = merge(std::mem::take(ranges));
    }
    // Two prefixes are nested or disjoint, so what a prefix adds is what no wider one has.
    let mut result = Vec::new();
    for (prefix, ranges) in &by_prefix {
        let mut wider = Vec::new();
        let mut up = *prefix;
        while let Some(parent) = up.supernet() {
            up = parent;
            wider.extend(by_prefix.get(&up).into_iter().flatten().copied());
        }
        let left = subtract(ranges, &merge(wider));
        result.extend(left.into_iter().map(|range| (*prefix, range)));
    }
    result
}

fn merge(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// What of sorted, merged `ranges` is not in sorted, merged `holes`.
fn subtract(ranges: &[(u16, u16)], holes: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut left = Vec::new();
    for &(first, last) in ranges {
        let mut from = Some(first);
        for &(hole_first, hole_last) in holes {
            let Some(start) = from else { break };
            if hole_last < start || hole_first > last {
                continue;
            }
            if hole_first > start {
                left.push((start, hole_first - 1));
            }
            from = hole_last.checked_add(1).filter(|&next| next <= last);
        }
        if let Some(start) = from {
            left.push((start, last));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nested_prefixes_keep_only_what_they_add() {
        let net = |s: &str| s.parse::<IpNet>().unwrap();
        let result = disjoint([
            (net("0.0.0.0/0"), (22, 22)),
            (net("192.0.2.0/24"), (20, 25)),
            (net("192.0.2.0/24"), (26, 30)),
            (net("192.0.2.7/32"), (22, 22)),
        ]);
        assert_eq!(
            result,
            [(net("0.0.0.0/0"), (22, 22)), (net("192.0.2.0/24"), (20, 21)), (net("192.0.2.0/24"), (23, 30))]
        );
    }

    proptest! {
        #[test]
        fn the_same_points_and_no_overlap(
            boxes in prop::collection::vec((any::<u8>(), 0u8..=8, 0u16..40, 0u16..40), 0..12),
            points in prop::collection::vec((any::<u8>(), 0u16..40), 64),
        ) {
            let boxes: Vec<(IpNet, (u16, u16))> = boxes
                .into_iter()
                .map(|(bits, len, a, b)| {
                    let net = format!("10.0.0.{bits}/{}", 24 + len).parse::<IpNet>().unwrap().trunc();
                    (net, (a.min(b), a.max(b)))
                })
                .collect();
            let result = disjoint(boxes.clone());
            for (host, port) in points {
                let ip: std::net::IpAddr = format!("10.0.0.{host}").parse().unwrap();
                let hits = |list: &[(IpNet, (u16, u16))]| {
                    list.iter().filter(|(n, (a, b))| n.contains(&ip) && *a <= port && port <= *b).count()
                };
                prop_assert_eq!(hits(&boxes) > 0, hits(&result) == 1, "{:?}", result);
                prop_assert!(hits(&result) <= 1);
            }
        }
    }
}
