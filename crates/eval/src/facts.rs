//! What novelty, popularity and diversity need to know about items, read from the training part of a split.

use sommelier_core::Vocab;
use sommelier_data::Snapshot;

/// Popularity and likeness of items.
#[derive(Debug, Clone)]
pub struct ItemFacts {
    /// Users with at least one training event.
    users: usize,
    /// Users per item.
    popularity: Vec<u32>,
    /// Sorted tags per item; empty where no item has any.
    tags: Vec<Vec<u32>>,
    train: Snapshot,
}

impl ItemFacts {
    pub fn of(train: &Snapshot) -> ItemFacts {
        let interactions = train.interactions();
        let users = (0..interactions.by_user.rows()).filter(|&u| interactions.by_user.row_len(u) > 0).count();
        let popularity =
            (0..interactions.by_item.rows()).map(|i| interactions.by_item.row_len(i) as u32).collect();
        let mut names = Vocab::new();
        let mut tags: Vec<Vec<u32>> = Vec::with_capacity(train.items.len());
        for info in train.item_info.iter() {
            let mut own = Vec::new();
            for (key, value) in info.iter().flat_map(|item| &item.properties) {
                for text in value.as_array().into_iter().flatten().filter_map(|v| v.as_str()) {
                    own.push(names.intern(&format!("{key}\u{1f}{text}")));
                }
            }
            own.sort_unstable();
            own.dedup();
            tags.push(own);
        }
        if names.is_empty() {
            tags.clear();
        }
        ItemFacts { users, popularity, tags, train: train.clone() }
    }

    /// What tells items apart: `tags` (text lists among their properties), or who has them.
    pub fn likeness(&self) -> &'static str {
        if self.tags.is_empty() { "1 - cosine of training users" } else { "1 - Jaccard of tags" }
    }

    /// Mean −log2(share of users with the item). An item nobody has counts as if one had it.
    pub fn novelty(&self, list: &[u32]) -> f64 {
        let users = self.users.max(1) as f64;
        mean(list.iter().map(|&i| -(f64::from(self.popularity[i as usize].max(1)) / users).log2()))
    }

    pub fn mean_popularity(&self, list: &[u32]) -> f64 {
        mean(list.iter().map(|&i| f64::from(self.popularity[i as usize])))
    }

    /// Mean distance of the pairs; 0 for a list of fewer than two.
    pub fn diversity(&self, list: &[u32]) -> f64 {
        mean(
            list.iter()
                .enumerate()
                .flat_map(|(n, &a)| list[n + 1..].iter().map(move |&b| self.distance(a, b))),
        )
    }

    fn distance(&self, a: u32, b: u32) -> f64 {
        let (a, b) = (a as usize, b as usize);
        let by_item = &self.train.interactions().by_item;
        let (left, right) = if self.tags.is_empty() {
            (by_item.row(a).0, by_item.row(b).0)
        } else {
            (&self.tags[a][..], &self.tags[b][..])
        };
        let both = common(left, right) as f64;
        let (n, m) = (left.len() as f64, right.len() as f64);
        match (both > 0.0, self.tags.is_empty()) {
            (false, _) => 1.0,
            (true, true) => 1.0 - both / (n * m).sqrt(),
            (true, false) => 1.0 - both / (n + m - both),
        }
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0usize), |(sum, n), x| (sum + x, n + 1));
    if n == 0 { 0.0 } else { sum / n as f64 }
}

/// How many entries two sorted lists share. Looks each of the shorter up in the longer where they differ much.
fn common(a: &[u32], b: &[u32]) -> usize {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    if short.len() * 16 < long.len() {
        return short.iter().filter(|x| long.binary_search(x).is_ok()).count();
    }
    let (mut i, mut j, mut both) = (0, 0, 0);
    while i < short.len() && j < long.len() {
        both += usize::from(short[i] == long[j]);
        let (x, y) = (short[i], long[j]);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    both
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sommelier_core::Item;
    use std::sync::Arc;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} against {b}");
    }

    #[test]
    fn novelty_and_popularity_by_hand() {
        let s = Snapshot::from_pairs("t", &[("a", "x"), ("b", "x"), ("c", "x"), ("d", "x"), ("a", "y")]);
        let facts = ItemFacts::of(&s);
        // x: 4 of 4 users, 0 bits; y: 1 of 4, 2 bits.
        close(facts.novelty(&[0, 1]), 1.0);
        close(facts.mean_popularity(&[0, 1]), 2.5);
        close(facts.novelty(&[]), 0.0);
    }

    #[test]
    fn diversity_by_users_and_by_tags() {
        let s = Snapshot::from_pairs("t", &[("a", "x"), ("b", "x"), ("a", "y"), ("c", "z")]);
        // x and y share one of (2, 1) users; z shares none: (1 − 1/√2 + 1 + 1) / 3.
        close(ItemFacts::of(&s).diversity(&[0, 1, 2]), (3.0 - 0.5f64.sqrt()) / 3.0);
        let item = |id: &str, genres: serde_json::Value| {
            let mut item = Item::new(id);
            item.properties.insert("genres".into(), genres);
            Some(item)
        };
        let info = vec![item("x", json!(["p", "q"])), item("y", json!(["q", "r"])), item("z", json!([]))];
        let mut tagged = s.clone();
        tagged.item_info = Arc::new(info);
        // x and y share one of three tags.
        close(ItemFacts::of(&tagged).diversity(&[0, 1]), 2.0 / 3.0);
        close(ItemFacts::of(&tagged).diversity(&[2]), 0.0);
    }

    #[test]
    fn common_counts_either_way() {
        let long: Vec<u32> = (0..100).map(|i| i * 3).collect();
        assert_eq!(common(&[0, 1, 3, 299], &long), 2);
        assert_eq!(common(&long, &long), 100);
        assert_eq!(common(&long, &(0..200).collect::<Vec<_>>()), 67);
    }
}
