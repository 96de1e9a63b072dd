//! The books: facts and one sentence each in our own words, parsed from the text files beside this one.
//!
//! One book a line: `title | author | year | country | language | genres | moods | subjects | blurb`.
//! Titles are the usual English ones. `year` is that of first publication, of the collection named, or the
//! conventional date of composition of an older work, negative before our era. `country` is today's name of the
//! place the work comes from. All were published before 1929. An id is the title in lower-case ASCII.

use serde_json::json;
use sommelier_core::{Item, Time};
use std::sync::OnceLock;

const FILES: [(&str, &str); 9] = [
    ("britain_ireland.txt", include_str!("books/britain_ireland.txt")),
    ("americas_north.txt", include_str!("books/americas_north.txt")),
    ("france.txt", include_str!("books/france.txt")),
    ("russia.txt", include_str!("books/russia.txt")),
    ("german.txt", include_str!("books/german.txt")),
    ("south_europe_latin_america.txt", include_str!("books/south_europe_latin_america.txt")),
    ("north_and_central_europe.txt", include_str!("books/north_and_central_europe.txt")),
    ("asia_africa.txt", include_str!("books/asia_africa.txt")),
    ("antiquity.txt", include_str!("books/antiquity.txt")),
];

/// Titles that readers everywhere have heard of: they are met more often in the simulated world.
const FAMOUS: &str = include_str!("famous.txt");

/// Every genre a book may have.
pub const GENRES: [&str; 35] = [
    "Adventure",
    "Biography",
    "Children's",
    "Comedy",
    "Crime",
    "Drama",
    "Epic",
    "Essays",
    "Fables",
    "Fantasy",
    "Folk Tales",
    "Gothic",
    "Historical",
    "History",
    "Horror",
    "Memoir",
    "Modernism",
    "Mystery",
    "Nature",
    "Philosophy",
    "Poetry",
    "Politics",
    "Psychological",
    "Religion",
    "Romance",
    "Satire",
    "Science",
    "Science Fiction",
    "Sea",
    "Short Stories",
    "Society",
    "Tragedy",
    "Travel",
    "War",
    "Western",
];

/// Every mood a book may have.
pub const MOODS: [&str; 27] = [
    "adventurous",
    "bittersweet",
    "bleak",
    "charming",
    "contemplative",
    "cosy",
    "dark",
    "dreamlike",
    "eerie",
    "fierce",
    "funny",
    "gripping",
    "hopeful",
    "ironic",
    "lyrical",
    "melancholy",
    "passionate",
    "playful",
    "romantic",
    "sensual",
    "strange",
    "tender",
    "tense",
    "tragic",
    "uplifting",
    "wise",
    "witty",
];

/// One book of the sample world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Book {
    /// The title in lower-case ASCII with hyphens; unique.
    pub id: String,
    pub title: &'static str,
    pub author: &'static str,
    /// Negative before our era.
    pub year: i32,
    pub country: &'static str,
    pub language: &'static str,
    /// One to three of [`GENRES`], the most telling first.
    pub genres: Vec<&'static str>,
    /// One to four of [`MOODS`].
    pub moods: Vec<&'static str>,
    pub subjects: Vec<&'static str>,
    /// One sentence.
    pub blurb: &'static str,
    /// Whether most readers have heard of it.
    pub famous: bool,
}

impl Book {
    /// The book as an item of the catalogue since `at`.
    pub fn item(&self, at: Time) -> Item {
        let mut item = Item::new(&*self.id);
        item.at = Some(at);
        for (key, value) in [
            ("title", json!(self.title)),
            ("author", json!(self.author)),
            ("year", json!(self.year)),
            ("country", json!(self.country)),
            ("language", json!(self.language)),
            ("genres", json!(self.genres)),
            ("moods", json!(self.moods)),
            ("subjects", json!(self.subjects)),
            ("description", json!(self.blurb)),
        ] {
            item.properties.insert(key.to_owned(), value);
        }
        item
    }
}

/// All books, in the order of the files. The test below proves that the files parse.
pub fn books() -> &'static [Book] {
    static BOOKS: OnceLock<Vec<Book>> = OnceLock::new();
    BOOKS.get_or_init(|| {
        let famous: hashbrown::HashSet<&str> = FAMOUS.lines().collect();
        let lines = FILES.iter().flat_map(|(_, text)| text.lines());
        lines.filter_map(|line| parse(line, &famous).ok()).collect()
    })
}

fn parse(line: &'static str, famous: &hashbrown::HashSet<&str>) -> Result<Book, String> {
    let fields: Vec<&str> = line.split('|').map(str::trim).collect();
    let [title, author, year, country, language, genres, moods, subjects, blurb] = fields[..] else {
        return Err(format!("expected 9 fields, received {}", fields.len()));
    };
    let year = year.parse().map_err(|_| format!("expected a year, received {year:?}"))?;
    let list = |text: &'static str| text.split(", ").collect::<Vec<_>>();
    Ok(Book {
        id: slug(title),
        title,
        author,
        year,
        country,
        language,
        genres: list(genres),
        moods: list(moods),
        subjects: list(subjects),
        blurb,
        famous: famous.contains(title),
    })
}

/// Lower-case ASCII letters and digits with single hyphens between; accents are dropped.
fn slug(title: &str) -> String {
    let mut out = String::new();
    for c in title.chars().flat_map(char::to_lowercase) {
        match plain(c) {
            "" if c == '\'' || c == '’' => {}
            "" if out.ends_with('-') || out.is_empty() => {}
            "" => out.push('-'),
            letters => out.push_str(letters),
        }
    }
    out.trim_end_matches('-').to_owned()
}

/// The ASCII letters that stand for a lower-case letter of a title; nothing where it is not one.
fn plain(c: char) -> &'static str {
    const ASCII: &str = "0123456789abcdefghijklmnopqrstuvwxyz";
    if let Some(at) = ASCII.find(c) {
        return &ASCII[at..=at];
    }
    match c {
        'à' | 'á' | 'â' | 'ã' | 'ä' | 'å' | 'ā' => "a",
        'æ' => "ae",
        'ç' | 'č' | 'ć' => "c",
        'è' | 'é' | 'ê' | 'ë' | 'ě' | 'ē' | 'ế' | 'ề' | 'ể' | 'ễ' | 'ệ' => "e",
        'ì' | 'í' | 'î' | 'ï' | 'ī' => "i",
        'ł' => "l",
        'ñ' | 'ń' => "n",
        'ò' | 'ó' | 'ô' | 'õ' | 'ö' | 'ø' | 'ō' => "o",
        'š' | 'ş' | 'ś' => "s",
        'ß' => "ss",
        'ù' | 'ú' | 'û' | 'ü' | 'ū' | 'ů' => "u",
        'ý' | 'ÿ' => "y",
        'ž' | 'ź' | 'ż' => "z",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hashbrown::{HashMap, HashSet};

    /// Every line of every file is a book whose facts are within the bounds stated at the top.
    #[test]
    fn every_line_is_a_sound_book() {
        let none = HashSet::new();
        let mut seen = HashMap::new();
        for (file, text) in FILES {
            for (number, line) in text.lines().enumerate() {
                let at = format!("{file}:{}", number + 1);
                let book = parse(line, &none).unwrap_or_else(|e| panic!("{at}: {e}"));
                assert!(!book.id.is_empty(), "{at}: no id");
                if let Some(before) = seen.insert(book.id.clone(), at.clone()) {
                    panic!("{at}: {} is already at {before}", book.id);
                }
                assert!((-2500..1929).contains(&book.year) && book.year != 0, "{at}: year {}", book.year);
                for (what, list, known, most) in
                    [("genre", &book.genres, &GENRES[..], 3), ("mood", &book.moods, &MOODS[..], 4)]
                {
                    assert!((1..=most).contains(&list.len()), "{at}: {} {what}s", list.len());
                    for word in list {
                        assert!(known.contains(word), "{at}: {what} {word:?} is not listed");
                    }
                }
                assert!((2..=6).contains(&book.subjects.len()), "{at}: {:?}", book.subjects);
                for list in [&book.genres, &book.moods, &book.subjects] {
                    assert_eq!(list.iter().collect::<HashSet<_>>().len(), list.len(), "{at}: a word twice");
                }
                let length = book.blurb.chars().count();
                assert!((40..=200).contains(&length), "{at}: blurb of {length} characters");
                let inner = book.blurb.strip_suffix('.').unwrap_or_else(|| panic!("{at}: no full stop"));
                assert!(!inner.contains(". ") && !inner.contains(['!', '?']), "{at}: more than one sentence");
                for field in [book.title, book.author, book.country, book.language] {
                    assert!(
                        !field.is_empty() && field.chars().next().unwrap().is_uppercase(),
                        "{at}: {field:?}"
                    );
                }
            }
        }
        assert_eq!(seen.len(), books().len());
    }

    #[test]
    fn the_library_is_wide() {
        let count = |f: fn(&Book) -> &str| books().iter().map(f).collect::<HashSet<_>>().len();
        assert!(books().len() >= 400);
        assert!(count(|b| b.language) >= 25, "{} languages", count(|b| b.language));
        assert!(count(|b| b.country) >= 40, "{} countries", count(|b| b.country));
        let english = books().iter().filter(|b| b.language == "English").count();
        assert!(english * 2 < books().len(), "{english} of {} in English", books().len());
        for word in GENRES {
            assert!(books().iter().any(|b| b.genres.contains(&word)), "no book is {word}");
        }
        for word in MOODS {
            assert!(books().iter().any(|b| b.moods.contains(&word)), "no book is {word}");
        }
    }

    #[test]
    fn every_famous_title_is_a_book() {
        let titles: HashSet<&str> = books().iter().map(|b| b.title).collect();
        for line in FAMOUS.lines() {
            assert!(titles.contains(line), "{line:?} is no title");
        }
        assert_eq!(books().iter().filter(|b| b.famous).count(), FAMOUS.lines().count());
    }

    #[test]
    fn ids_are_plain() {
        assert_eq!(slug("Alice's Adventures in Wonderland"), "alices-adventures-in-wonderland");
        assert_eq!(slug("Les Misérables"), "les-miserables");
        assert_eq!(slug("In Search of Lost Time: Swann's Way"), "in-search-of-lost-time-swanns-way");
        assert_eq!(slug("The Tale of Kiều"), "the-tale-of-kieu");
        for book in books() {
            assert!(
                book.title
                    .chars()
                    .all(|c| !c.is_alphabetic() || !plain(c.to_lowercase().next().unwrap()).is_empty()),
                "{}",
                book.title
            );
        }
    }
}
