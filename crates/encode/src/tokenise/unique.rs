//! Items that came to have the same codes: left alone, told apart by one code more, or moved to the next best free codes.
//!
//! What is taken is known from the codes of the catalogue alone ([`Taken::of`]), so nothing else is stored, and an item that comes
//! later is settled without another fit.
//!
//! Cost: a look into a hash table for each item; an item that moves, a search for as many alternatives as are taken.
//! Source: the extra code is TIGER's (Rajput et al., NeurIPS 2023, arXiv:2305.05065).

use super::{Codes, Tokeniser};
use crate::{EncodeError, Rows};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap, HashSet};

/// What is done about items with the same codes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Collisions {
    /// They share them.
    Keep,
    /// One code more numbers those that share the others.
    #[default]
    Extra,
    /// The nearest keeps them, the others have their next best ones that nobody has.
    Reassign,
}

/// Codes that are given, and how the next item gets its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    how: Collisions,
    /// Who has these codes, without the extra one.
    groups: HashMap<Vec<u32>, Group>,
    /// How many can be told apart by one code more.
    extra: u32,
}

/// Items with the same codes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Group {
    items: u32,
    /// The lowest number above all that are given.
    next: u32,
    /// Lower numbers that are free again.
    free: BTreeSet<u32>,
}

impl Group {
    /// The lowest number that nobody has.
    fn number(&mut self) -> u32 {
        self.items += 1;
        self.free.pop_first().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    /// Takes note of a number that somebody has.
    fn note(&mut self, number: u32) {
        self.items += 1;
        if number < self.next {
            self.free.remove(&number);
        } else {
            self.free.extend(self.next..number);
            self.next = number + 1;
        }
    }
}

/// More alternatives are not looked through for one item.
const MOST: usize = 1 << 14;

impl Taken {
    /// What a catalogue with these codes has taken.
    pub fn of(codes: &Codes, how: Collisions) -> Taken {
        let extra = if how == Collisions::Extra { codes.sizes.last().copied().unwrap_or(0) } else { 0 };
        let mut taken = Taken { how, groups: HashMap::with_capacity(codes.len()), extra };
        for codes in codes {
            match (how, codes) {
                (Collisions::Extra, [own @ .., number]) => taken.group(own).note(*number),
                _ => taken.group(codes).items += 1,
            }
        }
        taken
    }

    fn group(&mut self, codes: &[u32]) -> &mut Group {
        self.groups.entry(codes.to_vec()).or_default()
    }

    /// Codes of a new item with this vector.
    pub fn take(&mut self, tokeniser: &dyn Tokeniser, x: &[f32]) -> Result<Vec<u32>, EncodeError> {
        if x.len() != tokeniser.dim() {
            return Err(length(x.len(), tokeniser.dim()));
        }
        let x = Rows::new(x, x.len());
        x.check()?;
        let best = tokeniser.encode(x);
        self.settle(tokeniser, x.data, &best)
    }

    /// Codes of an item of which `best` are the best.
    fn settle(
        &mut self,
        tokeniser: &dyn Tokeniser,
        x: &[f32],
        best: &[u32],
    ) -> Result<Vec<u32>, EncodeError> {
        match self.how {
            Collisions::Keep => {
                self.group(best).items += 1;
                Ok(best.to_vec())
            }
            Collisions::Extra => {
                let extra = self.extra;
                let group = self.group(best);
                if group.items >= extra {
                    return Err(EncodeError::Input(format!(
                        "{extra} items have the codes {best:?} already, and no more can be told apart; fit the tokeniser again"
                    )));
                }
                let number = group.number();
                Ok([best, &[number]].concat())
            }
            Collisions::Reassign => {
                let free = if self.groups.contains_key(best) {
                    self.next_best(tokeniser, x).ok_or_else(|| self.full(tokeniser))?
                } else {
                    best.to_vec()
                };
                self.group(&free).items += 1;
                Ok(free)
            }
        }
    }

    fn full(&self, tokeniser: &dyn Tokeniser) -> EncodeError {
        let (room, levels) =
            (tokeniser.sizes().iter().map(|&s| f64::from(s)).product::<f64>(), tokeniser.sizes().len());
        EncodeError::Input(format!(
            "{} items have codes of their own, and no free ones are near the next: there are {room:.0} sequences of {levels} \
             codes; use more levels, more codes, or collisions = \"extra\"",
            self.groups.len()
        ))
    }

    fn next_best(&self, tokeniser: &dyn Tokeniser, x: &[f32]) -> Option<Vec<u32>> {
        let mut most = 32;
        loop {
            // A wider search need not begin with what a narrower one found, so it is read from the start.
            let best = tokeniser.best(x, most);
            let all = best.len() < most;
            let free = best.into_iter().find(|(codes, _)| !self.groups.contains_key(codes));
            if free.is_some() || all || most >= MOST {
                return free.map(|(codes, _)| codes);
            }
            most *= 8;
        }
    }

    /// Gives back the codes of an item that is no more; false if nobody had them.
    pub fn free(&mut self, codes: &[u32]) -> bool {
        let (own, number) = match (self.how, codes) {
            (Collisions::Extra, [own @ .., number]) => (own, Some(*number)),
            _ => (codes, None),
        };
        let Some(group) = self.groups.get_mut(own) else { return false };
        if let Some(number) = number
            && (number >= group.next || !group.free.insert(number))
        {
            return false;
        }
        group.items -= 1;
        if group.items == 0 {
            self.groups.remove(own);
        }
        true
    }
}

fn length(received: usize, expected: usize) -> EncodeError {
    EncodeError::Input(format!(
        "vectors have {received} numbers, the tokeniser reads {expected}; encode the items again or fit it again"
    ))
}

/// Codes of a whole catalogue, and what later items are settled with.
pub fn make_unique(
    tokeniser: &dyn Tokeniser,
    x: Rows,
    how: Collisions,
) -> Result<(Codes, Taken), EncodeError> {
    if x.dim != tokeniser.dim() {
        return Err(length(x.dim, tokeniser.dim()));
    }
    x.check()?;
    let levels = tokeniser.sizes().len();
    let best = tokeniser.assign(x);
    let mut groups: HashMap<&[u32], u32> = HashMap::new();
    best.chunks_exact(levels).for_each(|codes| *groups.entry(codes).or_default() += 1);
    let largest = groups.values().copied().max().unwrap_or(0);
    let mut sizes = tokeniser.sizes().to_vec();
    if how == Collisions::Extra {
        // Room for as many again that come later.
        sizes.push((2 * largest).max(16));
    }
    let mut taken = Taken::of(&Codes { sizes: sizes.clone(), rows: Vec::new() }, how);
    let mut order: Vec<usize> = (0..x.len()).collect();
    if how == Collisions::Reassign {
        let known = tokeniser.decode(&best);
        let far = |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        let far: Vec<f32> = x.data.par_chunks(x.dim).zip(known.par_chunks(x.dim)).map(far).collect();
        order.sort_by(|&a, &b| far[a].total_cmp(&far[b]).then(a.cmp(&b)));
        // Whoever is first among those with the same codes keeps them, before anybody moves.
        let mut first = HashSet::new();
        let (keep, moves): (Vec<usize>, Vec<usize>) =
            order.into_iter().partition(|&i| first.insert(&best[i * levels..][..levels]));
        order = keep.into_iter().chain(moves).collect();
    }
    let mut rows = vec![0u32; x.len() * sizes.len()];
    for i in order {
        let codes = taken.settle(tokeniser, x.row(i), &best[i * levels..][..levels])?;
        rows[i * sizes.len()..][..sizes.len()].copy_from_slice(&codes);
    }
    Ok((Codes { sizes, rows }, taken))
}

#[cfg(test)]
mod tests {
    use super::super::ResidualConfig;
    use super::super::tests::grouped;
    use super::*;
    use proptest::prelude::*;
    use sommelier_core::FitContext;

    const ALL: [Collisions; 3] = [Collisions::Keep, Collisions::Extra, Collisions::Reassign];

    fn fitted(x: Rows, levels: usize, codes: usize) -> super::super::Residual {
        let config = ResidualConfig { levels, codes, ..ResidualConfig::default() };
        config.fit(x, &FitContext::quiet(1)).unwrap()
    }

    fn are_distinct(codes: &Codes) -> bool {
        codes.iter().collect::<HashSet<_>>().len() == codes.len()
    }

    #[test]
    fn items_are_told_apart_and_new_ones_too() {
        let data = grouped(120, 3, 15, 1);
        let x = Rows::new(&data, 3);
        let tokeniser = fitted(x, 2, 12);
        let best = tokeniser.encode(x);
        for how in ALL {
            let (codes, mut taken) = make_unique(&tokeniser, x, how).unwrap();
            assert_eq!((codes.len(), are_distinct(&codes)), (120, how != Collisions::Keep), "{how:?}");
            assert_eq!(codes.levels(), 2 + usize::from(how == Collisions::Extra));
            let own = codes.iter().zip(best.chunks_exact(2)).filter(|(a, b)| a[..2] == **b).count();
            let expected = if how == Collisions::Reassign {
                best.chunks_exact(2).collect::<HashSet<_>>().len()
            } else {
                120
            };
            assert_eq!(own, expected, "{how:?}: whoever need not move does not");
            // What is taken is known from the codes alone.
            assert_eq!(Taken::of(&codes, how), taken, "{how:?}");
            let mut again = Taken::of(&codes, how);
            let mut seen: HashSet<Vec<u32>> = codes.iter().map(<[u32]>::to_vec).collect();
            for i in [5, 5, 20] {
                let new = taken.take(&tokeniser, x.row(i)).unwrap();
                assert_eq!(again.take(&tokeniser, x.row(i)).unwrap(), new);
                assert!(new.iter().zip(&codes.sizes).all(|(c, s)| c < s));
                assert_eq!(seen.insert(new.clone()), how != Collisions::Keep, "{how:?}");
                if how != Collisions::Reassign {
                    assert_eq!(new[..2], best[i * 2..][..2]);
                }
            }
        }
    }

    #[test]
    fn codes_of_who_has_gone_are_free_again() {
        let data = grouped(60, 3, 4, 2);
        let x = Rows::new(&data, 3);
        let tokeniser = fitted(x, 2, 9);
        for how in ALL {
            let (codes, mut taken) = make_unique(&tokeniser, x, how).unwrap();
            let gone: Vec<usize> = (0..60).step_by(7).collect();
            for &i in &gone {
                assert!(taken.free(codes.row(i)), "{how:?}");
            }
            let left: Vec<u32> =
                (0..60).filter(|i| !gone.contains(i)).flat_map(|i| codes.row(i)).copied().collect();
            let left = Codes { sizes: codes.sizes.clone(), rows: left };
            let (mut a, mut b) = (taken.clone(), Taken::of(&left, how));
            if how != Collisions::Keep {
                assert!(!taken.free(codes.row(gone[0])), "{how:?}: freed twice");
            }
            assert!(!taken.free(&vec![8; codes.levels()]) || codes.iter().any(|c| c.iter().all(|&k| k == 8)));
            let mut back = HashSet::new();
            for &i in &gone {
                let new = a.take(&tokeniser, x.row(i)).unwrap();
                assert_eq!(b.take(&tokeniser, x.row(i)).unwrap(), new, "{how:?}");
                back.insert(new);
            }
            if how == Collisions::Extra {
                // Nothing but what was free is used again.
                assert_eq!(back, gone.iter().map(|&i| codes.row(i).to_vec()).collect());
            }
        }
    }

    #[test]
    fn items_that_are_all_alike() {
        let data = [1.5f32; 20 * 2];
        let x = Rows::new(&data, 2);
        let tokeniser = fitted(x, 2, 5);
        let (codes, _) = make_unique(&tokeniser, x, Collisions::Keep).unwrap();
        assert!(codes.iter().all(|c| c == codes.row(0)));
        let (codes, mut taken) = make_unique(&tokeniser, x, Collisions::Extra).unwrap();
        assert_eq!(codes.sizes, [5, 5, 40]);
        assert!(codes.iter().enumerate().all(|(i, c)| c[2] == i as u32));
        for _ in 20..40 {
            taken.take(&tokeniser, x.row(0)).unwrap();
        }
        let full = taken.take(&tokeniser, x.row(0)).unwrap_err().to_string();
        assert!(
            full.contains("40 items have the codes") && full.contains("fit the tokeniser again"),
            "{full}"
        );
        let (codes, mut taken) = make_unique(&tokeniser, x, Collisions::Reassign).unwrap();
        assert!(are_distinct(&codes));
        for _ in 20..25 {
            taken.take(&tokeniser, x.row(0)).unwrap();
        }
        let full = taken.take(&tokeniser, x.row(0)).unwrap_err().to_string();
        assert!(
            full.contains("25 items have codes of their own") && full.contains("25 sequences of 2"),
            "{full}"
        );
    }

    #[test]
    fn more_items_than_codes_and_other_vectors_are_told() {
        let data = grouped(30, 2, 9, 3);
        let x = Rows::new(&data, 2);
        let tokeniser = fitted(x, 2, 5);
        let full = make_unique(&tokeniser, x, Collisions::Reassign).unwrap_err().to_string();
        assert!(full.contains("use more levels, more codes, or collisions = \"extra\""), "{full}");
        let (_, mut taken) = make_unique(&tokeniser, x, Collisions::Extra).unwrap();
        assert!(taken.take(&tokeniser, &[1.0]).unwrap_err().to_string().contains("vectors have 1 numbers"));
        assert!(taken.take(&tokeniser, &[1.0, f32::NAN]).unwrap_err().to_string().contains("NaN"));
    }

    proptest! {
        #[test]
        fn numbers_are_the_lowest_free_ones(moves in prop::collection::vec(0u32..12, 1..80)) {
            // A number that is given is given back, any other is asked for; beside it a plain set.
            let tokeniser = fitted(Rows::new(&[0.0, 5.0], 1), 1, 2);
            let sizes = vec![2, 64];
            let mut taken = Taken::of(&Codes { sizes: sizes.clone(), rows: vec![] }, Collisions::Extra);
            let first = tokeniser.encode(Rows::new(&[0.0], 1))[0];
            let mut plain: BTreeSet<u32> = BTreeSet::new();
            for number in moves {
                if plain.remove(&number) {
                    prop_assert!(taken.free(&[first, number]));
                } else {
                    let lowest = (0..64).find(|n| !plain.contains(n)).unwrap();
                    prop_assert_eq!(taken.take(&tokeniser, &[0.0]).unwrap(), vec![first, lowest]);
                    plain.insert(lowest);
                }
                let rows = plain.iter().flat_map(|&n| [first, n]).collect();
                let mut again = Taken::of(&Codes { sizes: sizes.clone(), rows }, Collisions::Extra);
                let mut now = taken.clone();
                prop_assert_eq!(again.take(&tokeniser, &[0.0]).unwrap(), now.take(&tokeniser, &[0.0]).unwrap());
            }
        }
    }
}
