use std::{collections::BTreeSet, fmt};

/// Numbers of VLANs, 1 to 4094 each; shown like `2, 3, 10-20`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct VlanSet(BTreeSet<u16>);

impl VlanSet {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this one is there.
    pub fn contains(&self, vlan: u16) -> bool {
        self.0.contains(&vlan)
    }

    /// From the lowest to the highest.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().copied()
    }

    /// Runs of numbers that follow each other, as their first and last.
    pub fn ranges(&self) -> Vec<(u16, u16)> {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for vlan in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == vlan => *last = vlan,
                _ => ranges.push((vlan, vlan)),
            }
        }
        ranges
    }

    /// The lowest number from 1 that is not there, if any is left.
    pub fn lowest_free(&self) -> Option<u16> {
        (1..=4094).find(|vlan| !self.contains(*vlan))
    }
}

impl FromIterator<u16> for VlanSet {
    fn from_iter<T: IntoIterator<Item = u16>>(vlans: T) -> Self {
        Self(vlans.into_iter().collect())
    }
}

impl fmt::Display for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.ranges().into_iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_follow_each_other_are_shown_as_one() {
        let set = |vlans: &[u16]| vlans.iter().copied().collect::<VlanSet>();
        assert_eq!(set(&[]).to_string(), "");
        assert_eq!(set(&[3, 2, 10, 11, 12, 4094]).to_string(), "2-3, 10-12, 4094");
        assert_eq!(set(&[1, 2, 4]).lowest_free(), Some(3));
        assert_eq!((1..=4094).collect::<VlanSet>().lowest_free(), None);
    }
}
