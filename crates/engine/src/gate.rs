//! The gate: the last step before a slate, and the one place that decides whether an item may be in it.

use crate::Filter;
use crate::catalogue::{Catalogue, Slot};
use crate::page::Shown;
use sommelier_core::Time;

/// What one query forbids.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    pub now: Time,
    /// Seen items (where the scenario hides them), `exclude`, `like` and `unlike`; sorted, without repeats.
    pub barred: Vec<Slot>,
    /// Items of earlier pages.
    pub shown: Shown,
    pub filters: Vec<Filter>,
    /// Sorted; where given, nothing else may come back.
    pub only: Option<Vec<Slot>>,
}

impl Gate {
    /// Whether the item may be in the slate, by the catalogue as it is now.
    pub fn lets(&self, catalogue: &Catalogue, slot: Slot) -> bool {
        catalogue.is_live(slot, self.now)
            && self.barred.binary_search(&slot).is_err()
            && self.only.as_ref().is_none_or(|only| only.binary_search(&slot).is_ok())
            && !self.shown.contains(catalogue.id(slot))
            && self.filters.iter().all(|f| f.matches(catalogue.id(slot), catalogue.item(slot).map(|i| &**i)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Contents;
    use proptest::prelude::*;
    use sommelier_core::{Item, Vocab};
    use std::sync::Arc;

    proptest! {
        /// The gate agrees with the five rules written out one by one over random catalogues and questions.
        #[test]
        fn only_what_every_rule_allows_passes(
            items in prop::collection::vec((any::<bool>(), prop::option::of(0i64..20), 0i64..10, any::<bool>()), 1..20),
            barred in prop::collection::btree_set(0u32..20, 0..10),
            shown in prop::collection::btree_set(0u32..20, 0..10),
            only in prop::option::of(prop::collection::btree_set(0u32..20, 0..10)),
            limit in prop::option::of(0i64..10),
            now in 0i64..20,
        ) {
            let now = Time::from_millis(now).unwrap();
            let vocab = Vocab::from_ids((0..items.len()).map(|i| format!("i{i}")));
            let mut catalogue = Catalogue::new(&vocab, Contents::default(), Time::default());
            for (i, (hidden, expires, size, withdrawn)) in items.iter().enumerate() {
                let mut item = Item::new(format!("i{i}"));
                item.hidden = *hidden;
                item.expires = expires.map(|t| Time::from_millis(t).unwrap());
                item.properties.insert("size".into(), (*size).into());
                catalogue.put(Arc::new(item), |_, _| false, Time::default());
                if *withdrawn {
                    catalogue.withdraw(&format!("i{i}"), false, Time::default());
                }
            }
            let mut gate = Gate {
                now,
                barred: barred.iter().copied().collect(),
                filters: limit.map(|l| Filter::parse(&format!("item.size < {l}")).unwrap()).into_iter().collect(),
                only: only.as_ref().map(|o| o.iter().copied().collect()),
                ..Gate::default()
            };
            for s in &shown {
                gate.shown.add(&format!("i{s}"));
            }
            for (i, (hidden, expires, size, withdrawn)) in items.iter().enumerate() {
                let slot = i as u32;
                let expected = !hidden
                    && !withdrawn
                    && expires.is_none_or(|t| now.millis() < t)
                    && !barred.contains(&slot)
                    && !shown.contains(&slot)
                    && only.as_ref().is_none_or(|o| o.contains(&slot))
                    && limit.is_none_or(|l| *size < l);
                prop_assert_eq!(gate.lets(&catalogue, slot), expected, "item {}", i);
            }
        }
    }
}
