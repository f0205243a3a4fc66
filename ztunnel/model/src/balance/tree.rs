//! A persistent ordered set whose items have weights and which knows the weight of any stretch of itself.
//!
//! A balanced binary tree (by size, after Adams): a change copies the path to it and shares the rest; finding the item
//! at a given weight and weighing what precedes a point each walk one path. So all cost O(log n).

use std::{cmp::Ordering, fmt, iter, sync::Arc};

/// One side of a node may be this many times as large as the other. 3 and 2 are the pair that keeps every
/// insertion and removal balanced with one rotation.
const DELTA: u32 = 3;
const GAMMA: u32 = 2;

#[derive(Clone)]
pub(super) struct Tree<T>(Option<Arc<Node<T>>>);

struct Node<T> {
    item: T,
    weight: u32,
    left: Tree<T>,
    right: Tree<T>,
    size: u32,
    total: u64,
}

impl<T: Clone> Tree<T> {
    /// Puts `item` in, or in the place of the one that `order` calls equal.
    pub(super) fn insert(&self, item: T, weight: u32, order: &impl Fn(&T, &T) -> Ordering) -> Self {
        let Some(node) = &self.0 else { return Self::node(Self::default(), (item, weight), Self::default()) };
        match order(&item, &node.item) {
            Ordering::Less => {
                balanced(node.left.insert(item, weight, order), node.content(), node.right.clone())
            }
            Ordering::Equal => Self::node(node.left.clone(), (item, weight), node.right.clone()),
            Ordering::Greater => {
                balanced(node.left.clone(), node.content(), node.right.insert(item, weight, order))
            }
        }
    }

    /// `place` says where an item lies as seen from the one to remove.
    pub(super) fn remove(&self, place: &impl Fn(&T) -> Ordering) -> Self {
        let Some(node) = &self.0 else { return Self::default() };
        match place(&node.item) {
            Ordering::Greater => balanced(node.left.remove(place), node.content(), node.right.clone()),
            Ordering::Less => balanced(node.left.clone(), node.content(), node.right.remove(place)),
            Ordering::Equal => joined(&node.left, &node.right),
        }
    }

    /// The weight of the items for which `holds` is true. They must be the first ones.
    pub(super) fn weight_while(&self, holds: impl Fn(&T) -> bool) -> u64 {
        let (mut weight, mut tree) = (0, self);
        while let Some(node) = &tree.0 {
            if holds(&node.item) {
                weight += node.left.total() + u64::from(node.weight);
                tree = &node.right;
            } else {
                tree = &node.left;
            }
        }
        weight
    }

    /// The item that covers the point `offset`, if all lie in a row, each as long as its weight.
    pub(super) fn at(&self, mut offset: u64) -> Option<(&T, u32)> {
        let mut tree = self;
        loop {
            let node = tree.0.as_ref()?;
            let before = node.left.total();
            if offset < before {
                tree = &node.left;
            } else if offset - before < u64::from(node.weight) {
                return Some((&node.item, node.weight));
            } else {
                offset -= before + u64::from(node.weight);
                tree = &node.right;
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&T, u32)> {
        let mut path: Vec<&Node<T>> = Vec::new();
        let mut next = self;
        iter::from_fn(move || {
            while let Some(node) = &next.0 {
                path.push(node);
                next = &node.left;
            }
            let node = path.pop()?;
            next = &node.right;
            Some((&node.item, node.weight))
        })
    }

    fn node(left: Self, (item, weight): (T, u32), right: Self) -> Self {
        let size = left.size() + right.size() + 1;
        let total = left.total() + right.total() + u64::from(weight);
        Self(Some(Arc::new(Node { item, weight, left, right, size, total })))
    }

    fn size(&self) -> u32 {
        self.0.as_ref().map_or(0, |node| node.size)
    }

    fn total(&self) -> u64 {
        self.0.as_ref().map_or(0, |node| node.total)
    }

    /// The first item, and the rest.
    fn split_first(&self) -> Option<((T, u32), Self)> {
        let node = self.0.as_ref()?;
        match node.left.split_first() {
            Some((first, rest)) => Some((first, balanced(rest, node.content(), node.right.clone()))),
            None => Some((node.content(), node.right.clone())),
        }
    }
}

impl<T: Clone> Node<T> {
    fn content(&self) -> (T, u32) {
        (self.item.clone(), self.weight)
    }
}

fn joined<T: Clone>(left: &Tree<T>, right: &Tree<T>) -> Tree<T> {
    match right.split_first() {
        Some((first, rest)) => balanced(left.clone(), first, rest),
        None => left.clone(),
    }
}

/// A node of two sides of which one may have become too large by one item.
fn balanced<T: Clone>(left: Tree<T>, content: (T, u32), right: Tree<T>) -> Tree<T> {
    if left.size() + right.size() > 1 {
        if let Some(heavy) = right.0.as_ref().filter(|right| right.size > DELTA * left.size()) {
            return rotated_left(left, content, heavy);
        }
        if let Some(heavy) = left.0.as_ref().filter(|left| left.size > DELTA * right.size()) {
            return rotated_right(heavy, content, right);
        }
    }
    Tree::node(left, content, right)
}

fn rotated_left<T: Clone>(left: Tree<T>, content: (T, u32), right: &Node<T>) -> Tree<T> {
    match &right.left.0 {
        Some(inner) if inner.size >= GAMMA * right.right.size() => Tree::node(
            Tree::node(left, content, inner.left.clone()),
            inner.content(),
            Tree::node(inner.right.clone(), right.content(), right.right.clone()),
        ),
        _ => Tree::node(Tree::node(left, content, right.left.clone()), right.content(), right.right.clone()),
    }
}

fn rotated_right<T: Clone>(left: &Node<T>, content: (T, u32), right: Tree<T>) -> Tree<T> {
    match &left.right.0 {
        Some(inner) if inner.size >= GAMMA * left.left.size() => Tree::node(
            Tree::node(left.left.clone(), left.content(), inner.left.clone()),
            inner.content(),
            Tree::node(inner.right.clone(), content, right),
        ),
        _ => Tree::node(left.left.clone(), left.content(), Tree::node(left.right.clone(), content, right)),
    }
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Self(None)
    }
}

/// What is in it, not how it is laid out.
impl<T: Clone + PartialEq> PartialEq for Tree<T> {
    fn eq(&self, other: &Self) -> bool {
        self.size() == other.size() && self.iter().eq(other.iter())
    }
}

impl<T: Clone + fmt::Debug> fmt::Debug for Tree<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeMap, collections::HashSet};

    use proptest::prelude::*;

    use super::*;

    fn put(tree: &Tree<u32>, item: u32, weight: u32) -> Tree<u32> {
        tree.insert(item, weight, &u32::cmp)
    }

    fn take(tree: &Tree<u32>, item: u32) -> Tree<u32> {
        tree.remove(&|other| other.cmp(&item))
    }

    fn nodes(tree: &Tree<u32>) -> HashSet<*const Node<u32>> {
        let mut all = HashSet::new();
        let mut open = vec![tree];
        while let Some(node) = open.pop().and_then(|tree| tree.0.as_ref()) {
            all.insert(Arc::as_ptr(node));
            open.extend([&node.left, &node.right]);
            open.retain(|tree| tree.0.is_some());
        }
        all
    }

    fn is_balanced(tree: &Tree<u32>) -> bool {
        let Some(node) = &tree.0 else { return true };
        let (left, right) = (node.left.size(), node.right.size());
        let within = left + right <= 1 || (left <= DELTA * right && right <= DELTA * left);
        within && is_balanced(&node.left) && is_balanced(&node.right)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Would break if a rotation lost an item, miscounted a weight or left the tree lopsided, or if a change
        /// showed through in an older tree.
        #[test]
        fn it_is_what_a_plain_map_would_be(changes in proptest::collection::vec((0u32..64, proptest::option::of(1u32..9)), 0..200)) {
            let (mut tree, mut map) = (Tree::default(), BTreeMap::new());
            for (item, weight) in changes {
                let (before, expected): (Tree<u32>, Vec<_>) = (tree.clone(), map.clone().into_iter().collect());
                match weight {
                    Some(weight) => { tree = put(&tree, item, weight); map.insert(item, weight); }
                    None => { tree = take(&tree, item); map.remove(&item); }
                }
                prop_assert_eq!(before.iter().map(|(i, w)| (*i, w)).collect::<Vec<_>>(), expected);
            }
            prop_assert!(is_balanced(&tree));
            prop_assert_eq!(tree.iter().map(|(i, w)| (*i, w)).collect::<Vec<_>>(), map.clone().into_iter().collect::<Vec<_>>());
            for bound in 0..64 {
                let expected: u64 = map.range(..bound).map(|(_, weight)| u64::from(*weight)).sum();
                prop_assert_eq!(tree.weight_while(|item| *item < bound), expected);
            }
            let row: Vec<u32> = map.iter().flat_map(|(item, weight)| iter::repeat_n(*item, *weight as usize)).collect();
            let found: Vec<u32> = (0..row.len()).map(|offset| *tree.at(offset as u64).unwrap().0).collect();
            prop_assert!(tree.at(row.len() as u64).is_none());
            prop_assert_eq!(found, row);
        }
    }

    /// Would break if a question or a change cost more than one path: the measure is comparisons and new nodes, not
    /// time.
    #[test]
    fn a_hundred_thousand_items_cost_little_more_than_ten() {
        let asked = Cell::new(0);
        let mut tree = Tree::default();
        for item in 0..100_000 {
            tree = put(&tree, item, 1 + item % 7);
        }
        tree.weight_while(|item| {
            asked.set(asked.get() + 1);
            *item < 77_777
        });
        assert!(asked.get() <= 42, "{} comparisons", asked.get());
        let old = nodes(&tree);
        for changed in [put(&tree, 5, 9), put(&tree, 200_000, 1), take(&tree, 50_000), take(&tree, 0)] {
            let new = nodes(&changed).difference(&old).count();
            assert!(new <= 45, "{new} new nodes for one change");
        }
    }
}
