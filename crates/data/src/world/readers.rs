//! The readers: two thousand simulated people whose tastes are stated here, so that a model can be seen to find them.
//!
//! **Taste.** A reader mixes two of [`ARCHETYPES`] (a first and a second love; about half of the readers drift
//! from the first to the second over the months) and adds something personal: three favourite subjects, a
//! favourite mood, one genre that they avoid, and a language or an author that they come back to. A book's appeal
//! is the mean of what its genres, moods, subjects, language and age say, on a scale of about −1 to 2.
//!
//! **Exposure.** Nobody sees the whole library. The chance that a reader meets a book grows with its renown
//! (famous titles, then a fixed heavy tail), to a power that differs by reader: some follow the crowd, some dig.
//!
//! **Choice.** A session opens with a book drawn by renown × exp([`SHARPNESS`] × appeal), or, one time in
//! [`NOISE`], with one drawn blind. Each further book continues the one before it: the author's next by year of
//! publication, or something that shares its subjects, or a fresh draw, within a session or within weeks. So the order of events carries
//! information that the set of books does not. New arrivals in the catalogue are met only after they arrive.
//!
//! **Events.** Each book that a reader takes up leaves one event, their last word on it: `view` (looked at it and
//! moved on), `read` (finished it), `like` (finished it and recommends it) or `drop` (gave up). The greater the
//! appeal, the likelier `read` and `like`; `drop` befalls books that do not appeal. See [`rules`]. The events of a
//! session are minutes apart, since what is recorded is when they come to say so.
//!
//! The same seed gives the same world.

use super::World;
use super::books::{Book, books};
use hashbrown::HashMap;
use serde_json::json;
use sommelier_core::{Event, Rng, Time, User};
use std::collections::BTreeMap;
use std::fmt::Write;

use crate::snapshot::{KindRule, KindRules};

/// How many readers there are.
pub const READERS: usize = 2000;
/// The first day: 2026-02-01T00:00:00Z.
pub const START: i64 = 1_769_904_000_000;
/// The last moment: 2026-11-01T00:00:00Z. No event is later.
pub const END: i64 = 1_793_491_200_000;

const MINUTE: i64 = 60_000;
const DAY: i64 = 86_400_000;

/// How strongly appeal decides between two books a reader has met.
const SHARPNESS: f64 = 3.4;
/// One draw in this many has nothing to do with taste.
const NOISE: usize = 11;
/// How many books arrive in the catalogue after the first day.
const ARRIVALS: usize = 48;

/// What the events of this world are worth when a model is fitted.
///
/// A finished book is the measure and a recommended one counts double; a look says too little to learn from; giving
/// up speaks against.
pub fn rules() -> KindRules {
    let rule = |weight| KindRule { weight, ..KindRule::default() };
    BTreeMap::from([
        ("view".to_owned(), rule(0.0)),
        ("read".to_owned(), rule(1.0)),
        ("like".to_owned(), rule(2.0)),
        ("drop".to_owned(), rule(-1.0)),
    ])
}

/// A kind of reader: what each loves, in the vocabularies of the books.
struct Archetype {
    /// Completes "loves …".
    words: &'static str,
    genres: &'static [&'static str],
    moods: &'static [&'static str],
    subjects: &'static [&'static str],
    languages: &'static [&'static str],
    /// Years that feel like home, first and last.
    years: Option<(i32, i32)>,
}

const fn kind(
    words: &'static str,
    genres: &'static [&'static str],
    moods: &'static [&'static str],
    subjects: &'static [&'static str],
) -> Archetype {
    Archetype { words, genres, moods, subjects, languages: &[], years: None }
}

const ARCHETYPES: [Archetype; 22] = [
    kind(
        "ships, islands and long journeys",
        &["Sea", "Adventure", "Travel"],
        &["adventurous", "gripping"],
        &["ships", "islands", "exploration", "pirates", "treasure", "shipwreck", "survival"],
    ),
    kind(
        "courtship, manners and second chances",
        &["Romance", "Comedy", "Society"],
        &["charming", "romantic", "witty"],
        &["marriage", "class", "country life", "family", "love", "letters"],
    ),
    kind(
        "ghosts, castles and things in the dark",
        &["Gothic", "Horror"],
        &["eerie", "dark", "tense"],
        &["ghosts", "castles", "monsters", "vampires", "curses", "devil", "madness"],
    ),
    kind(
        "detectives, thieves and locked rooms",
        &["Mystery", "Crime"],
        &["gripping", "tense"],
        &["detection", "murder", "theft", "secrets", "disguise", "London", "spies"],
    ),
    Archetype {
        languages: &["Russian"],
        ..kind(
            "great Russian novels of guilt and grace",
            &["Psychological", "Philosophy", "Society"],
            &["dark", "contemplative", "passionate"],
            &["guilt", "redemption", "murder", "faith", "suffering", "love", "death"],
        )
    },
    kind(
        "poems",
        &["Poetry"],
        &["lyrical", "melancholy", "passionate"],
        &["love", "nature", "death", "memory", "wine", "moon", "seasons"],
    ),
    Archetype {
        years: Some((-3000, 500)),
        ..kind(
            "gods, heroes and the ancients",
            &["Epic", "Tragedy", "History"],
            &["tragic", "fierce", "wise"],
            &["gods", "heroes", "kings", "Greek myth", "Trojan War", "fate", "Rome"],
        )
    },
    kind(
        "satire with teeth",
        &["Satire", "Comedy"],
        &["ironic", "funny", "witty"],
        &["human nature", "vanity", "corruption", "bureaucracy", "rogues", "fools", "hypocrisy"],
    ),
    kind(
        "forests, farms and the weather",
        &["Nature", "Travel", "Memoir"],
        &["contemplative", "lyrical", "tender"],
        &["forest", "farming", "seasons", "animals", "mountains", "birds", "nature", "village life"],
    ),
    kind(
        "big questions",
        &["Philosophy", "Essays", "Religion"],
        &["wise", "contemplative"],
        &["death", "happiness", "freedom", "God", "reason", "Stoicism", "morality", "justice"],
    ),
    kind(
        "fairy tales and books one was read to from",
        &["Children's", "Folk Tales", "Fables", "Fantasy"],
        &["charming", "playful", "tender"],
        &["fairies", "animals", "magic", "childhood", "orphans", "princesses", "witches"],
    ),
    kind(
        "tomorrow, other planets and machines",
        &["Science Fiction", "Fantasy"],
        &["strange", "adventurous", "dreamlike"],
        &["future", "space travel", "utopias", "time travel", "science", "moon", "exploration"],
    ),
    kind(
        "the stage",
        &["Drama", "Tragedy", "Comedy"],
        &["tragic", "witty", "tense"],
        &["theatre", "kings", "family", "marriage", "revenge", "honour", "disguise"],
    ),
    Archetype {
        years: Some((1830, 1910)),
        ..kind(
            "novels about how people earn their bread",
            &["Society", "Politics"],
            &["bleak", "fierce", "tragic"],
            &["poverty", "work", "class", "strikes", "money", "city life", "industry"],
        )
    },
    Archetype {
        years: Some((1890, 1930)),
        ..kind(
            "modernists who broke the novel",
            &["Modernism", "Psychological"],
            &["strange", "lyrical", "ironic"],
            &["memory", "city life", "identity", "art", "dreams", "writing", "time"],
        )
    },
    Archetype {
        languages: &["Chinese", "Japanese", "Korean", "Vietnamese"],
        ..kind(
            "Chinese and Japanese classics",
            &["Fantasy", "Essays", "Historical"],
            &["contemplative", "dreamlike", "melancholy"],
            &["impermanence", "Buddhism", "court", "seasons", "scholars", "ghosts"],
        )
    },
    kind(
        "other people's lives",
        &["Memoir", "Biography", "History"],
        &["wise", "contemplative", "gripping"],
        &["childhood", "diaries", "travel", "slavery", "prison", "education", "faith"],
    ),
    kind(
        "swords, sieges and lost causes",
        &["Historical", "War", "Adventure"],
        &["fierce", "gripping", "adventurous"],
        &["war", "rebellion", "honour", "knights", "swordplay", "soldiers", "kings"],
    ),
    kind(
        "books that argue for freedom",
        &["Politics", "Essays", "Memoir"],
        &["fierce", "hopeful", "uplifting"],
        &["freedom", "slavery", "race", "revolution", "women", "colonialism", "justice"],
    ),
    Archetype {
        languages: &["Spanish", "Portuguese", "Italian"],
        ..kind(
            "the south: Spain, Italy, Latin America",
            &["Society", "Romance", "Comedy"],
            &["passionate", "ironic", "playful"],
            &["Rio de Janeiro", "rogues", "jealousy", "priests", "death", "honour"],
        )
    },
    kind(
        "kind books for a rainy evening",
        &["Comedy", "Children's", "Society"],
        &["cosy", "charming", "funny", "uplifting"],
        &["village life", "friendship", "family", "animals", "gardens", "river", "holidays"],
    ),
    kind(
        "passion against the rules",
        &["Tragedy", "Romance", "Psychological"],
        &["sensual", "passionate", "tragic"],
        &["adultery", "desire", "seduction", "jealousy", "obsession", "marriage", "unrequited love"],
    ),
];

/// One simulated reader: what [`world`] draws their events from.
#[derive(Debug, Clone, PartialEq)]
pub struct Reader {
    pub id: String,
    /// Made up.
    pub name: String,
    /// The true taste in a sentence, for a person who picks a reader.
    pub taste: String,
    first: usize,
    second: usize,
    drifts: bool,
    subjects: Vec<&'static str>,
    mood: &'static str,
    avoids: &'static str,
    author: Option<&'static str>,
    /// Power of renown: 0 digs, 1 follows the crowd.
    crowd: f64,
    sessions: usize,
}

const NAMES: [&str; 120] = [
    "Abebe", "Ada", "Aiko", "Alba", "Amara", "Amir", "Ana", "Anders", "Anjali", "Anton", "Aroha", "Arun",
    "Astrid", "Ayşe", "Bao", "Beatriz", "Ben", "Bianca", "Björn", "Bronwen", "Camille", "Carlos", "Cem",
    "Chiara", "Chidi", "Clara", "Dalia", "Daniel", "Deniz", "Diego", "Dina", "Ebele", "Eero", "Elena",
    "Elif", "Emeka", "Emil", "Esther", "Eun-ji", "Farah", "Fatou", "Feng", "Fiona", "Frida", "Gael",
    "Giulia", "Grace", "Greta", "Hana", "Hassan", "Hugo", "Ibrahim", "Ida", "Ilse", "Imani", "Inés", "Isak",
    "Ivana", "Jamal", "Jana", "Joon", "José", "Jun", "Kaia", "Karim", "Katya", "Kofi", "Lars", "Layla",
    "Leo", "Lina", "Luca", "Magda", "Mai", "Malik", "Marek", "Mariam", "Marta", "Mateo", "Mei", "Milan",
    "Mira", "Nadia", "Naoko", "Nils", "Nina", "Noor", "Nuno", "Olga", "Omar", "Oscar", "Paola", "Pavel",
    "Petra", "Priya", "Rafael", "Rania", "Rosa", "Ruth", "Saba", "Sakura", "Samir", "Sanna", "Sara", "Sofia",
    "Sven", "Tamar", "Tariq", "Tereza", "Theo", "Tomás", "Uma", "Vera", "Viktor", "Wanjiru", "Xin", "Yara",
    "Yusuf", "Zofia", "Zsófia",
];

/// The readers of `seed`'s world, in order of id.
pub fn readers(seed: u64) -> Vec<Reader> {
    (0..READERS).map(|n| reader(seed, n)).collect()
}

fn reader(seed: u64, n: usize) -> Reader {
    let mut rng = Rng::stream(seed, n as u64);
    let first = rng.below(ARCHETYPES.len());
    let second = (first + 1 + rng.below(ARCHETYPES.len() - 1)) % ARCHETYPES.len();
    let loved = [&ARCHETYPES[first], &ARCHETYPES[second]];
    // Favourite subjects come from books the reader would look at anyway, so that there is something to find.
    let near: Vec<&Book> = books()
        .iter()
        .filter(|b| loved.iter().any(|a| b.genres.iter().any(|g| a.genres.contains(g))))
        .collect();
    let mut subjects: Vec<&'static str> = Vec::new();
    while subjects.len() < 3 {
        let book = near[rng.below(near.len())];
        let subject = book.subjects[rng.below(book.subjects.len())];
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
    }
    let mood = loved[rng.below(2)].moods[rng.below(2)];
    let avoids = loop {
        let genre = super::GENRES[rng.below(super::GENRES.len())];
        if loved.iter().all(|a| !a.genres.contains(&genre)) {
            break genre;
        }
    };
    let author = (rng.below(3) == 0)
        .then(|| near[rng.below(near.len())].author)
        .filter(|a| *a != "Anonymous" && near.iter().filter(|b| b.author == *a).count() > 1);
    let drifts = rng.below(2) == 0;
    let crowd = 0.35 + 0.65 * rng.unit();
    let sessions = ((2.4 + 0.6 * rng.normal()).exp().round() as usize).clamp(3, 60);
    let name =
        format!("{} {}.", NAMES[n % NAMES.len()], char::from(b'A' + ((n / NAMES.len()) * 7 % 26) as u8));
    let mut reader = Reader {
        id: format!("reader-{:04}", n + 1),
        name,
        taste: String::new(),
        first,
        second,
        drifts,
        subjects,
        mood,
        avoids,
        author,
        crowd,
        sessions,
    };
    reader.taste = in_words(&reader);
    reader
}

fn in_words(reader: &Reader) -> String {
    let (first, second) = (ARCHETYPES[reader.first].words, ARCHETYPES[reader.second].words);
    let mut words = if reader.drifts {
        format!("Used to love {first}, lately {second}")
    } else {
        format!("Loves {first}, and now and then {second}")
    };
    let _ = write!(
        words,
        "; looks out for {}, {} and {}",
        reader.subjects[0], reader.subjects[1], reader.subjects[2]
    );
    if let Some(author) = reader.author {
        let _ = write!(words, "; will read anything by {author}");
    }
    let _ = write!(words, "; avoids {}.", reader.avoids.to_lowercase());
    words
}

impl Reader {
    /// The reader as a user of the engine, labelled as simulated.
    fn user(&self) -> User {
        let mut user = User::new(&*self.id);
        user.at = Time::from_millis(START).ok();
        for (key, value) in
            [("name", json!(self.name)), ("taste", json!(self.taste)), ("simulated", json!(true))]
        {
            user.properties.insert(key.to_owned(), value);
        }
        user
    }

    /// What a book says to this reader beyond what their archetypes say.
    fn personal(&self, book: &Book) -> f64 {
        let mut sum = 0.3 * self.subjects.iter().filter(|s| book.subjects.contains(s)).count() as f64;
        sum += if book.moods.contains(&self.mood) { 0.15 } else { 0.0 };
        sum += if self.author == Some(book.author) { 0.9 } else { 0.0 };
        sum - if book.genres.contains(&self.avoids) { 0.8 } else { 0.0 }
    }
}

impl Archetype {
    fn appeal(&self, book: &Book) -> f64 {
        // The first genre of a book is the most telling one.
        let genre = book
            .genres
            .iter()
            .enumerate()
            .filter(|(_, g)| self.genres.contains(g))
            .map(|(place, _)| [0.7, 0.45, 0.35][place.min(2)])
            .sum::<f64>();
        let shared =
            |mine: &[&str], theirs: &[&str]| theirs.iter().filter(|x| mine.contains(x)).count() as f64;
        let language = if self.languages.contains(&book.language) { 0.8 } else { 0.0 };
        let years = match self.years {
            Some((from, to)) if (from..=to).contains(&book.year) => 0.4,
            Some(_) => -0.3,
            None => 0.0,
        };
        genre.min(1.0)
            + 0.2 * shared(self.moods, &book.moods)
            + 0.2 * shared(self.subjects, &book.subjects)
            + language
            + years
            - 0.4
    }
}

/// The library as the readers meet it: facts derived from the books once.
struct Shelves {
    books: &'static [Book],
    /// How often each book is met; 1 for a middling one.
    renown: Vec<f64>,
    /// `appeals[a][b]`: what book `b` says to archetype `a`.
    appeals: Vec<Vec<f64>>,
    /// When each book came into the catalogue.
    since: Vec<i64>,
    /// The author's next book by year, where there is one.
    next: Vec<Option<usize>>,
    /// The eight books that share most with each, by rarity of what they share.
    kin: Vec<Vec<usize>>,
}

impl Shelves {
    fn new(seed: u64) -> Shelves {
        let books = books();
        let mut rng = Rng::stream(seed, u64::MAX);
        let renown =
            books.iter().map(|b| (0.8 * rng.normal()).exp() * if b.famous { 5.0 } else { 1.0 }).collect();
        let mut since = vec![START; books.len()];
        for _ in 0..ARRIVALS {
            since[rng.below(books.len())] =
                START + 20 * DAY + (rng.unit() * (END - START - 40 * DAY) as f64) as i64;
        }
        let appeals = ARCHETYPES.iter().map(|a| books.iter().map(|b| a.appeal(b)).collect()).collect();
        Shelves { books, renown, appeals, since, next: next_by_author(books), kin: kin(books) }
    }
}

fn next_by_author(books: &[Book]) -> Vec<Option<usize>> {
    let mut by_author: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, book) in books.iter().enumerate().filter(|(_, b)| b.author != "Anonymous") {
        by_author.entry(book.author).or_default().push(at);
    }
    let mut next = vec![None; books.len()];
    for list in by_author.values_mut() {
        list.sort_by_key(|&at| (books[at].year, at));
        for pair in list.windows(2) {
            next[pair[0]] = Some(pair[1]);
        }
    }
    next
}

fn kin(books: &[Book]) -> Vec<Vec<usize>> {
    let mut count: HashMap<&str, f64> = HashMap::new();
    for subject in books.iter().flat_map(|b| &b.subjects) {
        *count.entry(subject).or_default() += 1.0;
    }
    let likeness = |a: &Book, b: &Book| {
        let rare = |s: &&&str| 1.0 / (1.0 + count[**s]).ln();
        let subjects: f64 = a.subjects.iter().filter(|s| b.subjects.contains(s)).map(|s| rare(&s)).sum();
        let genres = a.genres.iter().filter(|g| b.genres.contains(g)).count() as f64;
        subjects + 0.15 * genres
    };
    let nearest = |at: usize| {
        let mut others: Vec<(f64, usize)> =
            (0..books.len()).filter(|&o| o != at).map(|o| (likeness(&books[at], &books[o]), o)).collect();
        others.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        others.into_iter().take(8).map(|(_, o)| o).collect()
    };
    (0..books.len()).map(nearest).collect()
}

/// The whole world of `seed`: the books, the readers, and nine months of events in order of time.
pub fn world(seed: u64) -> World {
    let shelves = Shelves::new(seed);
    let items = shelves
        .books
        .iter()
        .zip(&shelves.since)
        .map(|(book, &at)| book.item(Time::from_millis(at).unwrap_or_default()))
        .collect();
    let readers = readers(seed);
    let mut events: Vec<Event> = Vec::new();
    for (n, reader) in readers.iter().enumerate() {
        events.extend(Life::new(reader, &shelves, Rng::stream(seed ^ 0x5eed, n as u64)).events());
    }
    events.sort_by(|a, b| (a.at, &a.user).cmp(&(b.at, &b.user)));
    for (n, event) in events.iter_mut().enumerate() {
        event.id = Some(format!("world-{n}"));
    }
    World { items, users: readers.iter().map(Reader::user).collect(), events }
}

/// The logistic curve: from 0 to 1, a half at 0.
fn chance(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// One reader's nine months.
struct Life<'a> {
    reader: &'a Reader,
    shelves: &'a Shelves,
    rng: Rng,
    /// The part of each book's appeal that does not change.
    personal: Vec<f64>,
    /// How likely each book is to be met.
    met: Vec<f64>,
    taken: Vec<bool>,
    events: Vec<Event>,
}

impl<'a> Life<'a> {
    fn new(reader: &'a Reader, shelves: &'a Shelves, rng: Rng) -> Life<'a> {
        let personal = shelves.books.iter().map(|b| reader.personal(b)).collect();
        let met = shelves.renown.iter().map(|r| r.powf(reader.crowd)).collect();
        Life {
            reader,
            shelves,
            rng,
            personal,
            met,
            taken: vec![false; shelves.books.len()],
            events: Vec::new(),
        }
    }

    fn events(mut self) -> Vec<Event> {
        let sessions = self.reader.sessions;
        let mut starts: Vec<i64> = (0..sessions)
            .map(|_| START + (self.rng.unit() * (END - START - 2 * DAY) as f64) as i64)
            .collect();
        starts.sort_unstable();
        let mut before: Option<(usize, i64)> = None;
        for (number, start) in starts.into_iter().enumerate() {
            let appeals = self.appeals(start);
            let session = format!("{}-{}", self.reader.id, number + 1);
            let mut at = start;
            for _ in 0..=self.rng.below(4) {
                let recent = before.filter(|&(_, when)| at - when < 45 * DAY).map(|(book, _)| book);
                let Some(book) = self.choose(recent, &appeals, start) else { break };
                self.taken[book] = true;
                at = self.live(book, appeals[book], at, &session);
                before = Some((book, at));
            }
        }
        self.events
    }

    /// What every book says to the reader at this moment.
    fn appeals(&self, at: i64) -> Vec<f64> {
        let gone = (at - START) as f64 / (END - START) as f64;
        let share = if self.reader.drifts { 0.95 - 0.9 * gone } else { 0.75 };
        let (first, second) =
            (&self.shelves.appeals[self.reader.first], &self.shelves.appeals[self.reader.second]);
        let mixed = first.iter().zip(second).map(|(a, b)| share * a + (1.0 - share) * b);
        mixed.zip(&self.personal).map(|(mixed, own)| mixed + own).collect()
    }

    fn choose(&mut self, before: Option<usize>, appeals: &[f64], now: i64) -> Option<usize> {
        if let Some(before) = before {
            let next = match self.rng.unit() {
                ..0.35 => self.shelves.next[before],
                // The nearest of the kin is the likeliest.
                ..0.65 => Some(self.shelves.kin[before][(8.0 * self.rng.unit().powi(3)) as usize]),
                _ => None,
            };
            if let Some(book) = next.filter(|&b| self.open(b, now) && appeals[b] > -0.3) {
                return Some(book);
            }
        }
        let blind = self.rng.below(NOISE) == 0;
        let weights: Vec<f64> = (0..appeals.len())
            .map(|at| match (self.open(at, now), blind) {
                (false, _) => 0.0,
                (true, true) => self.met[at],
                (true, false) => self.met[at] * (SHARPNESS * appeals[at]).exp(),
            })
            .collect();
        let mut left = self.rng.unit() * weights.iter().sum::<f64>();
        weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        })
    }

    fn open(&self, book: usize, now: i64) -> bool {
        !self.taken[book] && self.shelves.since[book] <= now
    }

    /// Takes up a book and says what came of it; returns when the next one may be taken up.
    fn live(&mut self, book: usize, appeal: f64, at: i64, session: &str) -> i64 {
        let liking = appeal + 0.35 * self.rng.normal();
        let finishes = self.rng.unit() < chance(2.5 * (liking - 0.05));
        let kind = match finishes {
            true if self.rng.unit() < chance(3.0 * (liking - 0.8)) => "like",
            true => "read",
            false if liking < 0.1 && self.rng.below(2) == 0 => "drop",
            false => "view",
        };
        self.push(book, kind, at, session);
        at + MINUTE * (3 + self.rng.below(35) as i64)
    }

    fn push(&mut self, book: usize, kind: &str, at: i64, session: &str) {
        let mut event = Event::new(&*self.reader.id, &*self.shelves.books[book].id, kind);
        event.at = Time::from_millis(at).ok();
        event.session = Some(session.to_owned());
        self.events.push(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hashbrown::HashSet;

    #[test]
    fn the_world_is_the_same_every_time_and_another_under_another_seed() {
        assert_eq!(world(1), world(1));
        assert_ne!(world(1).events, world(2).events);
    }

    #[test]
    fn the_world_is_sound() {
        let world = world(1);
        let items: HashMap<&str, i64> =
            world.items.iter().map(|i| (&*i.id, i.at.unwrap().millis())).collect();
        let users: HashSet<&str> = world.users.iter().map(|u| &*u.id).collect();
        assert_eq!(users.len(), READERS);
        assert!((60_000..=100_000).contains(&world.events.len()), "{} events", world.events.len());
        let (mut ids, mut pairs) = (HashSet::new(), HashSet::new());
        for event in &world.events {
            event.check().unwrap();
            let at = event.at.unwrap().millis();
            assert!((START..END).contains(&at));
            assert!(users.contains(&*event.user));
            assert!(items[&*event.item] <= at, "{} was met before it arrived", event.item);
            assert!(ids.insert(event.id.clone().unwrap()));
            assert!(pairs.insert((&event.user, &event.item)), "{} twice at {}", event.user, event.item);
            assert!(rules().contains_key(&event.kind));
        }
        assert!(world.events.is_sorted_by_key(|e| e.at));
        let names: HashSet<&str> =
            world.users.iter().map(|u| u.properties["name"].as_str().unwrap()).collect();
        assert_eq!(names.len(), READERS, "names repeat");
    }

    #[test]
    fn archetypes_speak_of_what_there_is() {
        for archetype in &ARCHETYPES {
            for genre in archetype.genres {
                assert!(super::super::GENRES.contains(genre), "{genre}");
            }
            for mood in archetype.moods {
                assert!(super::super::MOODS.contains(mood), "{mood}");
            }
            for subject in archetype.subjects {
                assert!(books().iter().any(|b| b.subjects.contains(subject)), "no book is about {subject}");
            }
            for language in archetype.languages {
                assert!(books().iter().any(|b| b.language == *language), "no book is in {language}");
            }
        }
    }

    /// The point of the world: what others read together finds a reader's last book far more often than what
    /// everybody reads, and the book just before it adds to that.
    #[test]
    fn tastes_can_be_learned_and_order_matters() {
        let world = world(1);
        let place: HashMap<&str, usize> = world.items.iter().enumerate().map(|(n, i)| (&*i.id, n)).collect();
        let mut lists: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for event in world.events.iter().filter(|e| e.kind == "read" || e.kind == "like") {
            lists.entry(&event.user).or_default().push(place[&*event.item]);
        }
        let lists: Vec<Vec<usize>> = lists.into_values().filter(|l| l.len() > 3).collect();
        let n = place.len();
        let (mut popular, mut pairs, mut follows) =
            (vec![0.0f64; n], vec![0.0f64; n * n], vec![0.0f64; n * n]);
        for list in &lists {
            let known = &list[..list.len() - 1];
            for (step, &a) in known.iter().enumerate() {
                popular[a] += 1.0;
                if let Some(b) = known.get(step + 1) {
                    follows[a * n + b] += 1.0;
                }
                for b in known.iter().filter(|b| **b != a) {
                    pairs[a * n + b] += 1.0;
                }
            }
        }
        let hit_rate = |score: &dyn Fn(&[usize], usize) -> f64| {
            let hits = lists.iter().filter(|list| {
                let (&target, known) = list.split_last().unwrap();
                let of_target = score(known, target);
                (0..n).filter(|i| !known.contains(i) && score(known, *i) > of_target).count() < 10
            });
            hits.count() as f64 / lists.len() as f64
        };
        let together = |known: &[usize], item: usize| -> f64 {
            known.iter().map(|&a| pairs[a * n + item] / ((popular[a] * popular[item]).sqrt() + 5.0)).sum()
        };
        let by_fame = hit_rate(&|_, item| popular[item]);
        let by_taste = hit_rate(&together);
        let by_order = hit_rate(&|known, item| {
            let last = known[known.len() - 1];
            together(known, item) + 3.0 * follows[last * n + item] / (popular[last] + 5.0)
        });
        println!(
            "last book of {} readers among ten: famous {by_fame:.3}, read together {by_taste:.3}, with order {by_order:.3}",
            lists.len()
        );
        assert!(by_taste > 2.0 * by_fame, "taste {by_taste} against fame {by_fame}");
        assert!(by_order > 1.1 * by_taste, "order {by_order} against taste {by_taste}");
    }
}
