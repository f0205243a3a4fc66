//! Rules filed by how a text begins or ends. As with networks, the lengths in use are what a lookup tries.

use std::sync::Arc;

use imbl::{HashMap, OrdMap};

use super::{ByPort, within};
use crate::policy::door::Affix;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Affixes {
    beginnings: Texts,
    endings: Texts,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Texts {
    texts: HashMap<Arc<str>, ByPort>,
    /// How many there are of each length.
    lengths: OrdMap<usize, usize>,
}

impl Affixes {
    /// Those that `text` begins or ends with. Allocates nothing.
    pub(super) fn of<'s>(&'s self, text: &str) -> impl Iterator<Item = &'s ByPort> {
        let beginning = |length: usize| text.get(..length);
        let ending = |length: usize| text.get(text.len().checked_sub(length)?..);
        self.beginnings.cut_by(beginning).chain(self.endings.cut_by(ending))
    }

    pub(super) fn at(&mut self, affix: &Affix, change: impl FnOnce(&mut ByPort)) {
        match affix {
            Affix::Prefix(text) => self.beginnings.at(text, change),
            Affix::Suffix(text) => self.endings.at(text, change),
        }
    }
}

impl Texts {
    fn cut_by<'s, 't>(&'s self, cut: impl Fn(usize) -> Option<&'t str>) -> impl Iterator<Item = &'s ByPort> {
        self.lengths.keys().filter_map(move |&length| self.texts.get(cut(length)?))
    }

    fn at(&mut self, text: &Arc<str>, change: impl FnOnce(&mut ByPort)) {
        let before = self.texts.len();
        within(&mut self.texts, text, change);
        let count = self.lengths.get(&text.len()).copied().unwrap_or_default() + self.texts.len() - before;
        if count == 0 {
            self.lengths.remove(&text.len());
        } else {
            self.lengths.insert(text.len(), count);
        }
    }
}
