//! Full text: which items match these words? BM25 over titles, makers and descriptions, kept fresh on every write.
//!
//! Words are split at everything that is not a letter or digit, lower-cased, and stripped of accents. A writing
//! system without spaces is one word per run of letters, found whole or by its beginning. The index lives in
//! memory and is rebuilt from the catalogue; nothing in it is a truth of its own.

use parking_lot::Mutex;
use sommelier_core::Vocab;
use tantivy::collector::TopDocs;
use tantivy::query::{BooleanQuery, BoostQuery, FuzzyTermQuery, Occur, Query, TermQuery};
use tantivy::schema::{FAST, Field, INDEXED, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::{AsciiFoldingFilter, LowerCaser, RemoveLongFilter, SimpleTokenizer, TextAnalyzer};
use tantivy::{Index, IndexReader, IndexWriter, ReloadPolicy, TantivyDocument, Term};

/// Bytes the writer may hold before it makes a segment; the least that the library allows.
const WRITER_BYTES: usize = 15_000_000;
/// Words of one search that are used; the rest are left out.
const MAX_WORDS: usize = 64;
const WORDS: &str = "words";

#[derive(Debug, thiserror::Error)]
#[error("{0}; the index is rebuilt from the catalogue when the space is opened again")]
pub struct TextError(#[from] tantivy::TantivyError);

/// What is searchable of one item. A word in the title counts three times a word in the body, one in `by` twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextDoc {
    pub title: String,
    /// Author, artist, director, brand.
    pub by: String,
    pub body: String,
}

/// An index of items by their words.
pub struct TextIndex {
    index: Index,
    reader: IndexReader,
    key: Field,
    /// Title, by, body, with the weight of each.
    fields: [(Field, f32); 3],
    state: Mutex<State>,
}

struct State {
    writer: IndexWriter,
    ids: Vocab,
    /// Writes since the last commit. A commit costs milliseconds, so it waits for the next search.
    dirty: bool,
}

impl TextIndex {
    pub fn new() -> Result<TextIndex, TextError> {
        let mut schema = Schema::builder();
        let key = schema.add_u64_field("key", INDEXED | FAST);
        let text = TextOptions::default().set_indexing_options(
            TextFieldIndexing::default().set_tokenizer(WORDS).set_index_option(IndexRecordOption::WithFreqs),
        );
        let title = schema.add_text_field("title", text.clone());
        let by = schema.add_text_field("by", text.clone());
        let body = schema.add_text_field("body", text);
        let index = Index::create_in_ram(schema.build());
        index.tokenizers().register(WORDS, analyzer());
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
        let writer = index.writer_with_num_threads(1, WRITER_BYTES)?;
        let state = Mutex::new(State { writer, ids: Vocab::new(), dirty: false });
        Ok(TextIndex { index, reader, key, fields: [(title, 3.0), (by, 2.0), (body, 1.0)], state })
    }

    /// Adds the item or replaces what is known of it. The next search sees it.
    pub fn put(&self, id: &str, doc: &TextDoc) -> Result<(), TextError> {
        let mut state = self.state.lock();
        let key = u64::from(state.ids.intern(id));
        state.writer.delete_term(Term::from_field_u64(self.key, key));
        let mut fields = TantivyDocument::new();
        fields.add_u64(self.key, key);
        for ((field, _), text) in self.fields.iter().zip([&doc.title, &doc.by, &doc.body]) {
            fields.add_text(*field, text);
        }
        state.writer.add_document(fields)?;
        state.dirty = true;
        Ok(())
    }

    pub fn delete(&self, id: &str) {
        let mut state = self.state.lock();
        if let Some(key) = state.ids.get(id) {
            state.writer.delete_term(Term::from_field_u64(self.key, u64::from(key)));
            state.dirty = true;
        }
    }

    /// The best `k` matching items for which `allowed` holds, best first, equal scores by id. Any word may match;
    /// where none does, words one letter away and beginnings of words are tried.
    pub fn search(
        &self,
        words: &str,
        k: usize,
        allowed: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<(String, f32)>, TextError> {
        self.refresh()?;
        let words = split(words);
        if words.is_empty() || k == 0 {
            return Ok(Vec::new());
        }
        let exact = self.run(&self.exact(&words), k, allowed)?;
        if exact.is_empty() { self.run(&self.near(&words), k, allowed) } else { Ok(exact) }
    }

    fn refresh(&self) -> Result<(), TextError> {
        let mut state = self.state.lock();
        if state.dirty {
            state.writer.commit()?;
            self.reader.reload()?;
            state.dirty = false;
        }
        Ok(())
    }

    /// Asks for more and more hits until `k` allowed ones are found or there are no more, so that a filter never
    /// applies to a list that was cut.
    fn run(
        &self,
        query: &dyn Query,
        k: usize,
        allowed: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<(String, f32)>, TextError> {
        let searcher = self.reader.searcher();
        let mut limit = k.saturating_add(16).min(1 << 30);
        loop {
            let hits = searcher.search(query, &TopDocs::with_limit(limit).order_by_score())?;
            let mut keys = Vec::with_capacity(hits.len());
            for (score, address) in &hits {
                let column = searcher.segment_reader(address.segment_ord).fast_fields().u64("key")?;
                keys.extend(column.first(address.doc_id).map(|key| (key, *score)));
            }
            let mut found: Vec<(String, f32)> = {
                let state = self.state.lock();
                keys.iter()
                    .map(|&(key, score)| (state.ids.id(key as u32), score))
                    .filter(|(id, _)| allowed(id))
                    .map(|(id, score)| (id.to_owned(), score))
                    .collect()
            };
            if found.len() >= k || hits.len() < limit {
                found.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
                found.truncate(k);
                return Ok(found);
            }
            limit = limit.saturating_mul(4).min(1 << 30);
        }
    }

    fn exact(&self, words: &[String]) -> BooleanQuery {
        self.any(words, |term| Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs)))
    }

    fn near(&self, words: &[String]) -> BooleanQuery {
        self.any(words, |term| {
            // One letter of a short word makes another word.
            let edits = u8::from(term.value().as_str().is_some_and(|w| w.chars().count() >= 4));
            Box::new(FuzzyTermQuery::new_prefix(term, edits, true))
        })
    }

    fn any(&self, words: &[String], each: impl Fn(Term) -> Box<dyn Query>) -> BooleanQuery {
        let mut parts: Vec<(Occur, Box<dyn Query>)> = Vec::with_capacity(words.len() * self.fields.len());
        for word in words {
            for &(field, weight) in &self.fields {
                let query = each(Term::from_field_text(field, word));
                parts.push((Occur::Should, Box::new(BoostQuery::new(query, weight))));
            }
        }
        BooleanQuery::new(parts)
    }

    /// How many items are in the index.
    pub fn len(&self) -> Result<usize, TextError> {
        self.refresh()?;
        Ok(self.reader.searcher().num_docs() as usize)
    }

    pub fn is_empty(&self) -> Result<bool, TextError> {
        Ok(self.len()? == 0)
    }
}

impl std::fmt::Debug for TextIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextIndex").field("index", &self.index).finish_non_exhaustive()
    }
}

fn analyzer() -> TextAnalyzer {
    TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(80))
        .filter(LowerCaser)
        .filter(AsciiFoldingFilter)
        .build()
}

/// The distinct words of a search, as the index splits them.
fn split(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut analyzer = analyzer();
    let mut stream = analyzer.token_stream(text);
    while stream.advance() {
        let word = &stream.token().text;
        if !words.contains(word) {
            words.push(word.clone());
        }
        if words.len() == MAX_WORDS {
            break;
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doc(title: &str, by: &str, body: &str) -> TextDoc {
        TextDoc { title: title.into(), by: by.into(), body: body.into() }
    }

    fn library() -> TextIndex {
        let index = TextIndex::new().unwrap();
        index.put("b1", &doc("Crime and Punishment", "Fyodor Dostoevsky", "A student kills.")).unwrap();
        index
            .put("b2", &doc("The Trial", "Franz Kafka", "A man is tried for a crime nobody names."))
            .unwrap();
        index.put("b3", &doc("Émile", "Jean-Jacques Rousseau", "On education.")).unwrap();
        index.put("b4", &doc("红楼梦", "曹雪芹", "A family declines.")).unwrap();
        index
    }

    fn ids(index: &TextIndex, words: &str, allowed: &dyn Fn(&str) -> bool) -> Vec<String> {
        index.search(words, 10, allowed).unwrap().into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn titles_count_most() {
        assert_eq!(ids(&library(), "crime", &|_| true), ["b1", "b2"]);
        assert_eq!(ids(&library(), "KAFKA", &|_| true), ["b2"]);
    }

    #[test]
    fn accents_typos_beginnings_and_other_scripts() {
        let index = library();
        assert_eq!(ids(&index, "emile", &|_| true), ["b3"]);
        assert_eq!(ids(&index, "dostoevski", &|_| true), ["b1"]);
        assert_eq!(ids(&index, "educ", &|_| true), ["b3"]);
        assert_eq!(ids(&index, "红楼", &|_| true), ["b4"]);
        assert!(ids(&index, "zzzz", &|_| true).is_empty());
        assert!(ids(&index, " \"(+-*: ", &|_| true).is_empty(), "query syntax is only text");
    }

    #[test]
    fn a_search_sees_every_write() {
        let index = library();
        index.put("b2", &doc("The Castle", "Franz Kafka", "A surveyor arrives.")).unwrap();
        assert_eq!(ids(&index, "crime", &|_| true), ["b1"]);
        assert_eq!(ids(&index, "castle", &|_| true), ["b2"]);
        index.delete("b1");
        index.delete("unknown");
        assert!(ids(&index, "crime", &|_| true).is_empty());
        assert_eq!(index.len().unwrap(), 3);
    }

    #[test]
    fn filters_never_meet_a_list_that_was_cut() {
        let index = TextIndex::new().unwrap();
        for i in 0..500 {
            // Longer texts score lower, so the allowed ones are the last of all hits.
            index.put(&format!("i{i:03}"), &doc("", "", &format!("wine {}", "word ".repeat(i)))).unwrap();
        }
        let found = index.search("wine", 3, &|id| id > "i490").unwrap();
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|(id, _)| id.as_str() > "i490"));
    }
}
