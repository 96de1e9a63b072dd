//! Text of items as vectors: words, how much each says, and the space of the largest singular vectors (latent semantic analysis).
//!
//! tf_idf: x_iw = ln(1 + n_iw) · (ln((1 + N) / (1 + N_w)) + 1)
//! bm25:   x_iw = n_iw (k1 + 1) / (n_iw + k1 (1 − b + b L_i / L)) · ln(1 + (N − N_w + ½) / (N_w + ½))
//! x_i ← x_i / |x_i|, X ≈ U Σ Vᵀ, and a text is x V / |x V|: a new text goes the same way.
//!
//! Shapes: n_iw how often word w is in item i, N items, N_w of them with the word, L_i words of an item, L their mean; X
//! (items × words) sparse, V (words × dim). Cost: that of the truncated SVD, see `linear.rs`; encoding is O(words of the text · dim).
//! Sources: Deerwester et al., "Indexing by Latent Semantic Analysis", JASIS 1990; Robertson, Zaragoza, "The Probabilistic
//! Relevance Framework: BM25 and Beyond", 2009; Halko et al., arXiv:0909.4061.
//! Departures: there is no stemming and no list of stop words, for any language; words in too many items are left out instead.
//! Letters of scripts without spaces count in pairs (Chinese, Japanese; a Han letter alone too) or triples (Thai, Khmer and so on).

use crate::encoder::{Encoder, Vectors, plan, put_texts, take_f32, take_texts};
use crate::linear::{Sparse, to_unit};
use crate::reading::{each_text, no_text};
use crate::{EncodeError, require};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sommelier_core::{Csr, FitContext, Item};
use sommelier_nn::{LoadError, Weights, kernel};
use std::collections::BTreeMap;
use std::sync::LazyLock;

type Map<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// For each item the words that it has, by number, and how often.
type Counted = Vec<Vec<(u32, f32)>>;

/// How much a word says of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    #[default]
    TfIdf,
    /// Repeats count less and less, and long texts less than short ones.
    Bm25,
}

/// Defaults are customary, not searched for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextConfig {
    /// Which properties are read; empty reads every text and list of texts, addresses left out.
    pub properties: Vec<String>,
    /// How often a word of a property counts; 1 for those not named.
    pub boost: BTreeMap<String, f32>,
    /// Length of the vectors; shorter where the catalogue has fewer independent words.
    pub dim: usize,
    pub weighting: Weighting,
    /// BM25: how soon repeats stop counting.
    pub k1: f32,
    /// BM25: how much the length of a text counts, from 0 to 1.
    pub b: f32,
    /// Words in fewer items are left out.
    pub min_items: usize,
    /// Words in a larger share of the items are left out.
    pub max_share: f64,
    /// Words kept at most, the most frequent ones.
    pub max_words: usize,
    /// Parts of so many letters count beside the whole word, so that a typo leaves something of it; 0 does without.
    pub grams: usize,
    /// Read é as e, ё as е, ß as ss, and leave out vowel points.
    pub fold: bool,
}

impl Default for TextConfig {
    fn default() -> TextConfig {
        TextConfig {
            properties: Vec::new(),
            boost: BTreeMap::new(),
            dim: 128,
            weighting: Weighting::TfIdf,
            k1: 1.2,
            b: 0.75,
            min_items: 2,
            max_share: 0.5,
            max_words: 200_000,
            grams: 0,
            fold: true,
        }
    }
}

/// The words known and their place in the space.
#[derive(Debug, Clone)]
pub struct TextEncoder {
    config: TextConfig,
    words: Vec<String>,
    places: Map<String, u32>,
    idf: Vec<f32>,
    /// Mean length of the texts, in known words.
    length: f32,
    dim: usize,
    /// words × dim
    v: Vec<f32>,
    report: Vec<String>,
}

/// Items whose texts are cut into words at once.
const CHUNK: usize = 4096;

impl TextConfig {
    pub fn fit(
        &self,
        items: &[Option<Item>],
        _: &BTreeMap<String, Vectors>,
        ctx: &FitContext,
    ) -> Result<(TextEncoder, Vectors), EncodeError> {
        self.check()?;
        let (words, texts) = self.read(items, ctx)?;
        let with_text = texts.iter().filter(|t| !t.is_empty()).count();
        if with_text == 0 {
            return Err(no_text(items.len(), &self.properties));
        }
        let (mut encoder, texts) = self.choose(&words, texts, with_text)?;
        let rows: Vec<Vec<(u32, f32)>> = texts.par_iter().map(|counts| encoder.weighed(counts)).collect();
        let (n, cols) = (rows.len(), encoder.words.len());
        let nonzero: usize = rows.iter().map(Vec::len).sum();
        plan(
            ctx,
            Sparse::bytes(n, cols, self.dim) + 24 * nonzero as u64,
            &format!("{n} texts with {cols} words"),
            "lower dim or max_words",
        )?;
        let x = csr(&rows, cols);
        let found = Sparse::new(&x, None).singular(self.dim, 0, ctx)?;
        encoder.dim = found.values.len();
        encoder.v = found.v;
        let all: f64 = x.value.iter().map(|&v| f64::from(v).powi(2)).sum();
        let kept: f64 = found.values.iter().map(|&v| f64::from(v).powi(2)).sum();
        encoder.report.push(format!(
            "{} numbers keep {:.0} % of the weight of {cols} words",
            encoder.dim,
            100.0 * kept / all
        ));
        let vectors: Vec<_> = rows.par_iter().map(|row| encoder.project(row)).collect();
        let vectors = Vectors::from_rows(encoder.dim, vectors);
        encoder.report.push(format!("{} of {} items have a vector", vectors.present(), items.len()));
        Ok((encoder, vectors))
    }

    pub fn load(&self, weights: &Weights) -> Result<TextEncoder, LoadError> {
        let words = take_texts(weights, "words")?;
        let (rows, dim, v) = weights.matrix("v", None)?;
        if rows != words.len() {
            return Err(LoadError::Shape {
                name: "v".into(),
                expected: vec![words.len(), dim],
                received: vec![rows, dim],
            });
        }
        Ok(TextEncoder {
            config: self.clone(),
            places: places(&words),
            idf: take_f32(weights, "idf", rows)?,
            length: take_f32(weights, "length", 1)?[0],
            dim,
            v: v.to_vec(),
            words,
            report: take_texts(weights, "report")?,
        })
    }

    fn check(&self) -> Result<(), EncodeError> {
        require("dim", self.dim as f64, self.dim > 0, "at least 1")?;
        require("k1", self.k1.into(), self.k1 >= 0.0 && self.k1.is_finite(), "0 or more")?;
        require("b", self.b.into(), (0.0..=1.0).contains(&self.b), "from 0 to 1")?;
        require(
            "max_share",
            self.max_share,
            self.max_share > 0.0 && self.max_share <= 1.0,
            "above 0, at most 1",
        )?;
        require("max_words", self.max_words as f64, self.max_words > 0, "at least 1")?;
        require("grams", self.grams as f64, self.grams != 1 && self.grams <= 10, "0, or from 2 to 10")?;
        for &boost in self.boost.values() {
            require("boost", boost.into(), boost >= 0.0 && boost.is_finite(), "0 or more")?;
        }
        Ok(())
    }

    /// All words in the order in which they are met, and how often each is in each item.
    fn read(&self, items: &[Option<Item>], ctx: &FitContext) -> Result<(Vec<String>, Counted), EncodeError> {
        let mut places: Map<String, u32> = Map::default();
        let mut words = Vec::new();
        let mut texts = Vec::with_capacity(items.len());
        for chunk in items.chunks(CHUNK) {
            ctx.cancel.check()?;
            let counted: Vec<_> = chunk
                .par_iter()
                .map(|item| item.as_ref().map_or_else(Vec::new, |i| self.of_item(i)))
                .collect();
            for counts in counted {
                let mut text = Vec::with_capacity(counts.len());
                for (word, count) in counts {
                    let place = *places.entry(word).or_insert_with_key(|word| {
                        words.push(word.clone());
                        words.len() as u32 - 1
                    });
                    text.push((place, count));
                }
                texts.push(text);
            }
        }
        Ok((words, texts))
    }

    /// An encoder without its projection, and the texts in the words that it keeps.
    fn choose(
        &self,
        words: &[String],
        mut texts: Counted,
        with_text: usize,
    ) -> Result<(TextEncoder, Counted), EncodeError> {
        let mut having = vec![0usize; words.len()];
        texts.iter().flatten().for_each(|&(w, _)| having[w as usize] += 1);
        // In a handful of items every word is in a large share of them.
        let most = ((self.max_share * with_text as f64) as usize).max(self.min_items).max(1);
        let mut kept: Vec<usize> =
            (0..words.len()).filter(|&w| (self.min_items..=most).contains(&having[w])).collect();
        if kept.is_empty() {
            return Err(EncodeError::NoData(format!(
                "none of {} words is in {} to {most} of {with_text} items with text; lower min_items or raise max_share",
                words.len(),
                self.min_items
            )));
        }
        kept.sort_by(|&a, &b| having[b].cmp(&having[a]).then_with(|| words[a].cmp(&words[b])));
        kept.truncate(self.max_words);
        kept.sort_by(|&a, &b| words[a].cmp(&words[b]));
        let mut new = vec![None; words.len()];
        kept.iter().enumerate().for_each(|(place, &w)| new[w] = Some(place as u32));
        for text in &mut texts {
            *text = text.iter().filter_map(|&(w, n)| new[w as usize].map(|w| (w, n))).collect();
            text.sort_unstable_by_key(|&(w, _)| w);
        }
        let all = with_text as f64;
        let idf = kept.iter().map(|&w| {
            let having = having[w] as f64;
            let idf = match self.weighting {
                Weighting::TfIdf => ((1.0 + all) / (1.0 + having)).ln() + 1.0,
                Weighting::Bm25 => (1.0 + (all - having + 0.5) / (having + 0.5)).ln(),
            };
            idf as f32
        });
        let total: f64 = texts.iter().flatten().map(|&(_, n)| f64::from(n)).sum();
        let known: Vec<String> = kept.iter().map(|&w| words[w].clone()).collect();
        let encoder = TextEncoder {
            config: self.clone(),
            places: places(&known),
            idf: idf.collect(),
            length: (total / all) as f32,
            dim: 0,
            v: Vec::new(),
            report: vec![format!("{} of {} words are kept", known.len(), words.len())],
            words: known,
        };
        Ok((encoder, texts))
    }

    /// The words of an item with their counts, in the order in which they are met.
    fn of_item(&self, item: &Item) -> Vec<(String, f32)> {
        let mut counts = Counts::default();
        each_text(item, &self.properties, &mut |name, text| {
            let boost = self.boost.get(name).copied().unwrap_or(1.0);
            if boost > 0.0 {
                self.of_text(text, boost, &mut counts);
            }
        });
        counts.list
    }

    fn of_text(&self, text: &str, boost: f32, counts: &mut Counts) {
        split(text, self.fold, &mut |word| {
            counts.add(word, boost);
            if self.grams > 0 {
                let letters: Vec<char> = [START].into_iter().chain(word.chars()).chain([END]).collect();
                // All parts together count as much as the word.
                let parts = letters.windows(self.grams);
                let each = boost / parts.len() as f32;
                parts.for_each(|part| counts.add(&part.iter().collect::<String>(), each));
            }
        });
    }
}

/// Marks the beginning and the end of a word in its parts: letters that no word has.
const START: char = '\u{2}';
const END: char = '\u{3}';

#[derive(Default)]
struct Counts {
    list: Vec<(String, f32)>,
    places: Map<String, usize>,
}

impl Counts {
    fn add(&mut self, word: &str, count: f32) {
        if let Some(&place) = self.places.get(word) {
            self.list[place].1 += count;
        } else {
            self.places.insert(word.to_owned(), self.list.len());
            self.list.push((word.to_owned(), count));
        }
    }
}

impl TextEncoder {
    /// The words it knows, sorted.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// Counts of known words, sorted, become a row of X of unit length.
    fn weighed(&self, counts: &[(u32, f32)]) -> Vec<(u32, f32)> {
        let (k1, b) = (self.config.k1, self.config.b);
        let length: f32 = counts.iter().map(|&(_, n)| n).sum();
        let norm = k1 * (1.0 - b + b * length / self.length.max(f32::MIN_POSITIVE));
        let weight = |&(w, n): &(u32, f32)| {
            let often = match self.config.weighting {
                Weighting::TfIdf => n.ln_1p(),
                Weighting::Bm25 => n * (k1 + 1.0) / (n + norm),
            };
            (w, often * self.idf[w as usize])
        };
        let mut row: Vec<(u32, f32)> = counts.iter().map(weight).collect();
        let length = row.iter().map(|&(_, v)| f64::from(v).powi(2)).sum::<f64>().sqrt();
        if length > 0.0 {
            row.iter_mut().for_each(|(_, v)| *v = (f64::from(*v) / length) as f32);
        }
        row
    }

    fn project(&self, row: &[(u32, f32)]) -> Option<Vec<f32>> {
        let mut out = vec![0f32; self.dim];
        for &(w, value) in row {
            kernel::axpy(value, &self.v[w as usize * self.dim..][..self.dim], &mut out);
        }
        to_unit(&mut out).then_some(out)
    }

    fn of_counts(&self, counts: &[(String, f32)]) -> Option<Vec<f32>> {
        let known = |(word, n): &(String, f32)| self.places.get(word).map(|&w| (w, *n));
        let mut counts: Vec<(u32, f32)> = counts.iter().filter_map(known).collect();
        counts.sort_unstable_by_key(|&(w, _)| w);
        self.project(&self.weighed(&counts))
    }
}

impl Encoder for TextEncoder {
    fn dim(&self) -> usize {
        self.dim
    }

    fn encode(&self, item: &Item, _: &dyn Fn(&str) -> Option<Vec<f32>>) -> Option<Vec<f32>> {
        self.of_counts(&self.config.of_item(item))
    }

    fn encode_text(&self, text: &str) -> Option<Vec<f32>> {
        let mut counts = Counts::default();
        self.config.of_text(text, 1.0, &mut counts);
        self.of_counts(&counts.list)
    }

    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        put_texts(&mut weights, "words", self.words.iter().map(String::as_str));
        put_texts(&mut weights, "report", self.report.iter().map(String::as_str));
        weights.set_f32("idf", &[self.idf.len()], self.idf.clone());
        weights.set_f32("length", &[1], vec![self.length]);
        weights.set_f32("v", &[self.words.len(), self.dim], self.v.clone());
        weights
    }

    fn report(&self) -> Vec<String> {
        self.report.clone()
    }
}

fn places(words: &[String]) -> Map<String, u32> {
    words.iter().enumerate().map(|(place, word)| (word.clone(), place as u32)).collect()
}

/// Rows of sorted places and values as one sparse matrix.
pub(crate) fn csr(rows: &[Vec<(u32, f32)>], cols: usize) -> Csr {
    let mut x = Csr { cols, ptr: vec![0], ..Csr::default() };
    for row in rows {
        x.index.extend(row.iter().map(|&(c, _)| c));
        x.value.extend(row.iter().map(|&(_, v)| v));
        x.ptr.push(x.index.len());
    }
    x
}

/// Longer runs of letters are no words.
const LONGEST: usize = 80;

/// Each word of a text, lower-cased.
fn split(text: &str, fold: bool, each: &mut impl FnMut(&str)) {
    let mut word = String::new();
    let mut unspaced = false;
    let mut end = |word: &mut String, unspaced: bool| {
        if unspaced {
            cut(word, each);
        } else if !word.is_empty() && word.chars().count() <= LONGEST {
            each(word);
        }
        word.clear();
    };
    for c in text.chars() {
        let c = narrow(c);
        if is_mark(c) {
            // A mark belongs to the letter before it.
            if !(word.is_empty() || fold && is_point(c)) {
                word.push(c);
            }
        } else if c.is_alphanumeric() {
            if word.is_empty() || is_unspaced(c) != unspaced {
                end(&mut word, unspaced);
                unspaced = is_unspaced(c);
            }
            for c in c.to_lowercase() {
                match FOLDED.get(&c) {
                    Some(to) if fold => word.push_str(to),
                    _ if fold && is_point(c) => {}
                    _ => word.push(c),
                }
            }
        } else {
            end(&mut word, unspaced);
        }
    }
    end(&mut word, unspaced);
}

/// A run of letters of a script without spaces, in pieces that stand for its words.
fn cut(run: &str, each: &mut impl FnMut(&str)) {
    let letters: Vec<char> = run.chars().collect();
    let han =
        |c: &char| matches!(*c as u32, 0x3005 | 0x3400..=0x9fff | 0xf900..=0xfaff | 0x2_0000..=0x3_ffff);
    letters.iter().filter(|c| han(c)).for_each(|c| each(c.encode_utf8(&mut [0; 4])));
    let syllables = letters.first().is_some_and(|c| !matches!(*c as u32, 0x0e00..=0x17ff));
    let size = if syllables { 2 } else { 3 };
    if letters.len() < size {
        if !(letters.len() == 1 && han(&letters[0])) {
            each(run);
        }
        return;
    }
    letters.windows(size).for_each(|piece| each(&piece.iter().collect::<String>()));
}

/// Latin letters as wide as Han ones become ordinary.
fn narrow(c: char) -> char {
    match c as u32 {
        wide @ 0xff01..=0xff5e => char::from_u32(wide - 0xfee0).unwrap_or(c),
        _ => c,
    }
}

/// Letters of scripts that put no space between words: Han, kana, Thai, Lao, Myanmar, Khmer.
fn is_unspaced(c: char) -> bool {
    matches!(c as u32,
        0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff | 0x3005 | 0x3040..=0x30ff | 0x31f0..=0x31ff
        | 0x3400..=0x9fff | 0xf900..=0xfaff | 0xff66..=0xff9d | 0x2_0000..=0x3_ffff)
}

/// What joins the letter before it without being a letter: accents, points, vowel killers and tones, joiners, the Arabic stretch.
fn is_mark(c: char) -> bool {
    is_point(c)
        || matches!(c as u32,
            0x093c | 0x094d | 0x09bc | 0x09cd | 0x0a3c | 0x0a4d | 0x0abc | 0x0acd | 0x0b3c | 0x0b4d | 0x0bcd
            | 0x0c4d | 0x0cbc | 0x0ccd | 0x0d4d | 0x0dca | 0x0e3a | 0x0e47..=0x0e4e | 0x0ec8..=0x0ecd | 0x0f84
            | 0x1037 | 0x1039..=0x103a | 0x17c9..=0x17d3)
}

/// What a folded text leaves out.
fn is_point(c: char) -> bool {
    matches!(c as u32,
        0x0300..=0x036f | 0x0591..=0x05bd | 0x05bf | 0x05c1..=0x05c2 | 0x05c4..=0x05c5 | 0x05c7 | 0x0640
        | 0x064b..=0x065f | 0x0670 | 0x200c..=0x200d | 0x00ad)
}

/// Letters that are read as others where text is folded.
static FOLDED: LazyLock<HashMap<char, &'static str, RandomState>> = LazyLock::new(|| {
    const LETTERS: &[(&str, &str)] = &[
        ("àáâãäåāăąạảấầẩẫậắằẳẵặ", "a"),
        ("çćĉċč", "c"),
        ("ďđð", "d"),
        ("èéêëēĕėęěẹẻẽếềểễệ", "e"),
        ("ĝğġģ", "g"),
        ("ĥħ", "h"),
        ("ìíîïĩīĭįıỉị", "i"),
        ("ĵ", "j"),
        ("ķ", "k"),
        ("ĺļľŀł", "l"),
        ("ñńņňŋ", "n"),
        ("òóôõöøōŏőơọỏốồổỗộớờởỡợ", "o"),
        ("ŕŗř", "r"),
        ("śŝşšș", "s"),
        ("ţťŧț", "t"),
        ("ùúûüũūŭůűųưụủứừửữự", "u"),
        ("ŵ", "w"),
        ("ýÿŷỳỵỷỹ", "y"),
        ("źżž", "z"),
        ("æ", "ae"),
        ("œ", "oe"),
        ("ß", "ss"),
        ("þ", "th"),
        ("ё", "е"),
        ("й", "и"),
        ("ά", "α"),
        ("έ", "ε"),
        ("ή", "η"),
        ("ίϊΐ", "ι"),
        ("ό", "ο"),
        ("ύϋΰ", "υ"),
        ("ώ", "ω"),
        ("ς", "σ"),
        ("أإآٱ", "ا"),
        ("ى", "ي"),
    ];
    LETTERS.iter().flat_map(|(from, to)| from.chars().map(move |c| (c, *to))).collect()
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EncoderConfig;
    use crate::encoder::tests::{check, item, none};
    use proptest::prelude::*;
    use serde_json::json;

    fn words_of(text: &str) -> Vec<String> {
        let mut words = Vec::new();
        split(text, true, &mut |word| words.push(word.to_owned()));
        words
    }

    /// Wines and films, three of each, in four languages.
    fn shelf() -> Vec<Option<Item>> {
        vec![
            item(
                "w1",
                json!({"title": "Red wine", "description": "Dry red wine from Burgundy", "tags": ["wine", "dry"]}),
            ),
            item(
                "w2",
                json!({"title": "White wine", "description": "Sweet white wine, from Mosel", "tags": ["wine"]}),
            ),
            item("w3", json!({"title": "Красное вино", "description": "Сухое красное вино, red WINE"})),
            item(
                "f1",
                json!({"title": "A silent film", "description": "Comedy, a film of 1925", "year": 1925}),
            ),
            item("f2", json!({"title": "Немое кино", "description": "Silent film, comedy; кино"})),
            item("f3", json!({"title": "无声电影", "tags": ["film", "comedy"]})),
            item("f4", json!({"title": "电影", "description": "فيلم صامت film, кино"})),
            None,
            item("n", json!({"year": 7, "image": "poster.png", "page": "https://example.com/film"})),
        ]
    }

    fn config() -> TextConfig {
        TextConfig { dim: 6, ..TextConfig::default() }
    }

    fn near(a: &[f32], b: &[f32]) -> f32 {
        kernel::dot(a, b)
    }

    #[test]
    fn words_of_any_script() {
        assert_eq!(words_of("Crème-brûlée, ÉMILE's 2nd!"), ["creme", "brulee", "emile", "s", "2nd"]);
        assert_eq!(words_of("e\u{301}te\u{301} İstanbul ＡＢＣ"), ["ete", "istanbul", "abc"]);
        assert_eq!(words_of("Ёлка й и\u{306} ΣΟΦΌΣ"), ["елка", "и", "и", "σοφοσ"]);
        assert_eq!(words_of("مُحَمَّد وأحمد"), ["محمد", "واحمد"]);
        assert_eq!(words_of("हिन्दी शब्द"), ["हिन्दी", "शब्द"]);
        assert_eq!(words_of("红楼梦"), ["红", "楼", "梦", "红楼", "楼梦"]);
        assert_eq!(words_of("東京タワー2号"), ["東", "京", "東京", "京タ", "タワ", "ワー", "2", "号"]);
        assert_eq!(words_of("ก็ดี"), ["ก็ด", "็ดี"]);
        assert_eq!(words_of("서울 여행"), ["서울", "여행"]);
        assert!(words_of(" \t.,;!-\u{301}").is_empty());
        assert!(words_of(&"x".repeat(81)).is_empty());
        let mut plain = Vec::new();
        split("Émile", false, &mut |word| plain.push(word.to_owned()));
        assert_eq!(plain, ["émile"]);
    }

    #[test]
    fn what_every_encoder_promises() {
        for weighting in [Weighting::TfIdf, Weighting::Bm25] {
            for grams in [0, 3] {
                let config = TextConfig { weighting, grams, ..config() };
                let (_, vectors) = check(&EncoderConfig::Text(config), &shelf(), &BTreeMap::new());
                assert_eq!(vectors.known, [true, true, true, true, true, true, true, false, false]);
                for i in 0..7 {
                    let row = vectors.row(i).unwrap();
                    assert!((near(row, row) - 1.0).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn what_is_about_the_same_is_near_and_wishes_find_it() {
        let (encoder, vectors) = config().fit(&shelf(), &BTreeMap::new(), &FitContext::quiet(1)).unwrap();
        let row = |i| vectors.row(i).unwrap();
        assert!(near(row(0), row(2)) > 0.3 + near(row(0), row(3)));
        assert!(near(row(3), row(4)) > 0.3 + near(row(3), row(1)));
        for (wish, yes, no) in
            [("dry WINE please", 0, 3), ("кино", 4, 0), ("电影", 5, 1), ("silent cömedy", 3, 1)]
        {
            let wish = encoder.encode_text(wish).unwrap();
            assert!(near(&wish, row(yes)) > 0.3 + near(&wish, row(no)));
        }
        for nothing in ["", "  ?!", "zzzz", "\u{0}"] {
            assert_eq!(encoder.encode_text(nothing), None);
        }
        let new = item("new", json!({"title": "Dry wine of the house"})).unwrap();
        assert!(near(&encoder.encode(&new, &none).unwrap(), row(0)) > 0.5);
        assert!(encoder.words().contains(&"wine".to_owned()));
        assert!(encoder.report().iter().any(|line| line.contains("7 of 9 items")));
    }

    #[test]
    fn rows_are_those_of_the_formula() {
        // With all directions kept, products of rows are those of the weighted texts themselves.
        let items: Vec<_> = ["wine wine red", "wine red dry", "wine dry dry dry", "film red"]
            .iter()
            .map(|t| item(t, json!({"title": t})))
            .collect();
        let counts = [[2.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 3.0, 0.0], [0.0, 1.0, 0.0, 1.0]];
        let having = [3.0, 3.0, 2.0, 1.0];
        for weighting in [Weighting::TfIdf, Weighting::Bm25] {
            let config = TextConfig { weighting, min_items: 1, max_share: 1.0, ..config() };
            let (_, vectors) = config.fit(&items, &BTreeMap::new(), &FitContext::quiet(1)).unwrap();
            let mean = 12.0 / 4.0;
            let rows = counts.map(|row| {
                let length: f64 = row.iter().sum();
                let mut out: Vec<f64> = (0..4)
                    .map(|w| match weighting {
                        Weighting::TfIdf => f64::ln(1.0 + row[w]) * (f64::ln(5.0 / (1.0 + having[w])) + 1.0),
                        Weighting::Bm25 => {
                            row[w] * 2.2 / (row[w] + 1.2 * (0.25 + 0.75 * length / mean))
                                * f64::ln(1.0 + (4.0 - having[w] + 0.5) / (having[w] + 0.5))
                        }
                    })
                    .collect();
                let norm = out.iter().map(|v| v * v).sum::<f64>().sqrt();
                out.iter_mut().for_each(|v| *v /= norm);
                out
            });
            for i in 0..4 {
                for j in 0..4 {
                    let expected: f64 = rows[i].iter().zip(&rows[j]).map(|(a, b)| a * b).sum();
                    let found = near(vectors.row(i).unwrap(), vectors.row(j).unwrap());
                    assert!((f64::from(found) - expected).abs() < 1e-5, "{weighting:?} {i} {j}");
                }
            }
        }
    }

    #[test]
    fn rare_and_common_words_and_chosen_properties() {
        let fit =
            |config: TextConfig| config.fit(&shelf(), &BTreeMap::new(), &FitContext::quiet(1)).unwrap().0;
        let words = |config| fit(config).words().join(" ");
        assert!(!words(config()).contains("burgundy"));
        assert!(words(TextConfig { min_items: 1, ..config() }).contains("burgundy"));
        assert!(!words(TextConfig { max_share: 0.3, ..config() }).contains("film"));
        assert_eq!(words(TextConfig { max_words: 1, max_share: 1.0, ..config() }), "film");
        let only = TextConfig { properties: vec!["tags".into(), "year".into()], min_items: 1, ..config() };
        assert_eq!(words(only), "1925 7 comedy dry film wine");
        let boost =
            TextConfig { boost: BTreeMap::from([("description".into(), 0.0)]), min_items: 1, ..config() };
        assert!(!words(boost).contains("burgundy"));
    }

    #[test]
    fn parts_of_words_survive_a_typo() {
        let encoder = |grams| {
            let config = TextConfig { grams, min_items: 1, max_share: 1.0, dim: 9, ..config() };
            config.fit(&shelf(), &BTreeMap::new(), &FitContext::quiet(1)).unwrap()
        };
        assert_eq!(encoder(0).0.encode_text("burgundi"), None);
        let (with, vectors) = encoder(3);
        let wish = with.encode_text("burgundi").unwrap();
        let best = (0..7).max_by(|&a, &b| {
            near(&wish, vectors.row(a).unwrap()).total_cmp(&near(&wish, vectors.row(b).unwrap()))
        });
        assert_eq!(best, Some(0));
    }

    #[test]
    fn what_cannot_be_is_told() {
        let fit = |config: &TextConfig, items: &[Option<Item>]| {
            config.fit(items, &BTreeMap::new(), &FitContext::quiet(1)).err().unwrap().to_string()
        };
        assert!(fit(&config(), &[]).contains("none of 0 items has a text property"));
        assert!(fit(&config(), &shelf()[8..]).contains("none of 1 items"));
        assert!(fit(&config(), &shelf()[..1]).contains("lower min_items"), "one item alone");
        assert!(fit(&TextConfig { dim: 0, ..config() }, &shelf()).contains("dim must be at least 1"));
        assert!(fit(&TextConfig { b: f32::NAN, ..config() }, &shelf()).contains("b must be"));
        assert!(
            fit(&TextConfig { properties: vec!["plot".into()], ..config() }, &shelf())
                .contains("text in plot")
        );
        let tight = FitContext { memory: 10, ..FitContext::quiet(1) };
        let refused = config().fit(&shelf(), &BTreeMap::new(), &tight).err().unwrap();
        assert!(refused.to_string().contains("memory budget"));
        // One item is enough where a word may be in one item.
        let one = TextConfig { min_items: 1, ..config() };
        let (encoder, vectors) = one.fit(&shelf()[..1], &BTreeMap::new(), &FitContext::quiet(1)).unwrap();
        assert_eq!((encoder.dim(), vectors.rows.len()), (1, 1));
    }

    proptest! {
        #[test]
        fn any_text_is_read(texts in prop::collection::vec(".{0,40}", 1..6), wish in ".{0,40}", grams in prop::sample::select(vec![0usize, 2, 3])) {
            let items: Vec<_> = texts.iter().map(|t| item("i", json!({"t": t}))).collect();
            let config = TextConfig { min_items: 1, max_share: 1.0, grams, dim: 3, ..TextConfig::default() };
            if let Ok((encoder, vectors)) = config.fit(&items, &BTreeMap::new(), &FitContext::quiet(1)) {
                for (i, item) in items.iter().enumerate() {
                    let row = encoder.encode(item.as_ref().unwrap(), &none);
                    prop_assert_eq!(row.as_deref(), vectors.row(i));
                }
                if let Some(v) = encoder.encode_text(&wish) {
                    prop_assert!(v.iter().all(|v| v.is_finite()));
                }
            }
        }
    }
}
