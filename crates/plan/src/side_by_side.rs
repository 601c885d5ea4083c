//! Which steps of a plan may be done at the same time: stacks of namespaces that have nothing to do with each other.

use std::collections::BTreeSet;

use crate::{
    desired::namespace_of,
    op::{NewLink, Op},
};

/// Takes a plan apart into what is done one after the other. Of each such part, the pieces may be done side by side: the
/// steps of a piece are for one stack, and stay in their order.
///
/// The steps of the host are a part by themselves, for what they make all others stand on. So is a stack's piece that comes
/// after one which makes an interface in it, or which takes guests' devices away while the other makes some: a guest that
/// moves from one stack to another has to have left the first.
pub fn side_by_side(ops: &[Op]) -> Vec<Vec<&[Op]>> {
    let mut parts: Vec<(Together<'_>, Vec<&[Op]>)> = Vec::new();
    for piece in ops.chunk_by(|one, other| one.place().0 == other.place().0) {
        let one = Together::of(piece);
        match parts.last_mut() {
            Some((before, pieces)) if before.bears(&one) => {
                before.join(one);
                pieces.push(piece);
            }
            Some(_) | None => parts.push((one, vec![piece])),
        }
    }
    parts.into_iter().map(|(_, pieces)| pieces).collect()
}

/// What decides whether stacks can be changed together.
#[derive(Default)]
struct Together<'a> {
    /// The stacks; none is the host's.
    stacks: BTreeSet<Option<&'a str>>,
    /// The names of namespaces that something is made or changed in from there.
    reached: BTreeSet<&'a str>,
    /// Whether something is made or changed in any other namespace.
    reaches: bool,
    deletes: bool,
}

impl<'a> Together<'a> {
    fn of(piece: &'a [Op]) -> Self {
        let mut found = Self::default();
        for (stack, op) in piece.iter().map(Op::place) {
            found.stacks.insert(stack.map(|name| name.as_str()));
            if let Op::Guest { netns, .. } | Op::AddLink { link: NewLink::Veth { netns, .. }, .. } = op {
                found.reaches = true;
                found.reached.extend(namespace_of(netns));
            }
            found.deletes |= matches!(op, Op::DeleteLinks(_));
        }
        found
    }

    fn bears(&self, other: &Self) -> bool {
        let all_are_stacks = !self.stacks.contains(&None) && !other.stacks.contains(&None);
        let meets = |one: &Self, other: &Self| {
            other.stacks.iter().flatten().any(|stack| one.reached.contains(*stack))
                || (one.deletes && other.reaches)
        };
        all_are_stacks && self.stacks.is_disjoint(&other.stacks) && !meets(self, other) && !meets(other, self)
    }

    fn join(&mut self, other: Self) {
        self.stacks.extend(other.stacks);
        self.reached.extend(other.reached);
        self.reaches |= other.reaches;
        self.deletes |= other.deletes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{GuestChange, LinkChange};

    fn up(stack: &str) -> Op {
        within(stack, Op::SetLink { name: "br0".parse().unwrap(), change: LinkChange::Up(true) })
    }

    fn within(stack: &str, op: Op) -> Op {
        Op::Within { namespace: stack.parse().unwrap(), op: Box::new(op) }
    }

    fn here() -> Op {
        Op::SetLink { name: "br0".parse().unwrap(), change: LinkChange::Up(true) }
    }

    fn into(stack: &str, other: &str) -> Op {
        let netns = format!("/run/netns/{other}");
        let (nic, device) = ("web".parse().unwrap(), "eth0".parse().unwrap());
        within(stack, Op::Guest { nic, netns, device, change: GuestChange::Up })
    }

    fn gone(stack: &str) -> Op {
        within(stack, Op::DeleteLinks(vec!["vd1".parse().unwrap()]))
    }

    /// How many steps each piece of each part has.
    fn shape(ops: &[Op]) -> Vec<Vec<usize>> {
        let parts = side_by_side(ops);
        let all: Vec<Op> = parts.iter().flatten().copied().flatten().cloned().collect();
        assert_eq!(all, ops, "each step once, in its order");
        parts.iter().map(|part| part.iter().map(|piece| piece.len()).collect()).collect()
    }

    #[test]
    fn stacks_are_changed_side_by_side_and_the_host_by_itself() {
        let ops = [up("a"), here(), here(), up("a"), up("a"), up("b"), up("c")];
        assert_eq!(shape(&ops), [vec![1], vec![2], vec![2, 1, 1]]);
        assert_eq!(shape(&[]), [[0; 0]; 0]);
    }

    #[test]
    fn a_stack_is_changed_once_at_a_time() {
        assert_eq!(shape(&[up("a"), up("b"), up("a"), up("b")]), [vec![1, 1], vec![1, 1]]);
    }

    #[test]
    fn a_stack_waits_for_the_one_that_its_interface_comes_from() {
        assert_eq!(shape(&[into("a", "b"), up("b"), up("c")]), [vec![1], vec![1, 1]]);
        assert_eq!(shape(&[up("b"), into("a", "b")]), [vec![1], vec![1]]);
        assert_eq!(shape(&[into("a", "web"), into("b", "mail")]), [vec![1, 1]]);
    }

    #[test]
    fn a_guest_has_left_before_it_comes_elsewhere() {
        assert_eq!(shape(&[gone("a"), into("b", "web")]), [vec![1], vec![1]]);
        assert_eq!(shape(&[gone("a"), gone("b"), up("c")]), [vec![1, 1, 1]]);
    }
}
