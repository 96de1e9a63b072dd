//! MovieLens as GroupLens ships it, told by file names: 100K (`u.data`), 1M and 10M (`ratings.dat`), later (`ratings.csv`).
//!
//! Also what the sample data sets put beside it: plot overviews and a tar of posters.

use super::batch::Batch;
use super::columns::{Column, Field, PropertyKind};
use super::plan::{FilePlan, Layout, Part, Role};
use super::times::TimeUnit;
use super::{ImportError, Source};
use serde_json::{Map, Value};
use sommelier_core::{Item, check_id};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// The genres of `u.item`, in the order of its flags.
const GENRES: [&str; 19] = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
];

/// What a name of the MovieLens family says.
pub enum Known {
    Plan(Box<FilePlan>),
    /// Belongs to the family and holds nothing that is read; why.
    Unread(&'static str),
}

/// Looks a file up by its name and first line; `None` where it is not of the family.
pub fn known(source: &Source, first_line: &str) -> Option<Known> {
    let stem = source.stem();
    let rating = |part| {
        let columns = vec![
            Column::new("1", 0, Field::User),
            Column::new("2", 1, Field::Item),
            Column::new("3", 2, Field::Value),
            Column::new("4", 3, Field::At(TimeUnit::Seconds)),
        ];
        (Role::Events, part, columns)
    };
    let (separator, (role, part, columns), latin1) = match stem.as_str() {
        "u.data" if fields(first_line, "\t") == 4 => ("\t", rating(Part::Whole), false),
        "u.item" => ("|", (Role::Items, Part::Whole, u_item()), true),
        "u.user" => {
            let columns = vec![
                Column::new("1", 0, Field::User),
                property("2", 1, "age", PropertyKind::Number),
                property("3", 2, "gender", PropertyKind::Text),
                property("4", 3, "occupation", PropertyKind::Text),
                property("5", 4, "zip", PropertyKind::Text),
            ];
            ("|", (Role::Users, Part::Whole, columns), true)
        }
        "u.genre" | "u.info" | "u.occupation" => return Some(Known::Unread("a legend of the data set")),
        "items_tmdb.csv" => return Some(Known::Unread("repeats items_overview.csv")),
        "ratings.dat" if fields(first_line, "::") == 4 => ("::", rating(Part::Whole), false),
        "movies.dat" if fields(first_line, "::") == 3 => {
            let columns = vec![
                Column::new("1", 0, Field::Item),
                property("2", 1, "title", PropertyKind::TitleYear),
                property("3", 2, "genres", PropertyKind::List("|".into())),
            ];
            ("::", (Role::Items, Part::Whole, columns), true)
        }
        "users.dat" if fields(first_line, "::") == 5 => {
            let columns = vec![
                Column::new("1", 0, Field::User),
                property("2", 1, "gender", PropertyKind::Text),
                property("3", 2, "age", PropertyKind::Number),
                property("4", 3, "occupation", PropertyKind::Number),
                property("5", 4, "zip", PropertyKind::Text),
            ];
            ("::", (Role::Users, Part::Whole, columns), true)
        }
        "movies.csv" if first_line.trim_end() == "movieId,title,genres" => {
            return Some(Known::Plan(Box::new(movies_csv(source))));
        }
        "links.csv" | "tags.csv" | "genome-scores.csv" | "genome-tags.csv"
            if first_line.starts_with("movieId")
                || first_line.starts_with("userId,movieId,tag")
                || first_line.starts_with("tagId") =>
        {
            return Some(Known::Unread("tags and links are not read yet"));
        }
        "tags.dat" if first_line.contains("::") => return Some(Known::Unread("tags are not read yet")),
        "items_overview.csv" => return Some(Known::Plan(Box::new(overview(source, first_line)?))),
        _ => match stem.split_once('.')? {
            (fold, "base") if fold.starts_with('u') && fields(first_line, "\t") == 4 => {
                ("\t", rating(Part::Train), false)
            }
            (fold, "test") if fold.starts_with('u') && fields(first_line, "\t") == 4 => {
                ("\t", rating(Part::Test), false)
            }
            _ => return None,
        },
    };
    Some(Known::Plan(Box::new(FilePlan {
        source: source.clone(),
        role,
        part,
        layout: Layout::Delimited { separator: separator.to_owned(), quotes: false, header: false, latin1 },
        kind: "rating".to_owned(),
        columns,
        unread: Vec::new(),
    })))
}

fn fields(line: &str, separator: &str) -> usize {
    line.split(separator).count()
}

fn property(name: &str, index: usize, property: &str, kind: PropertyKind) -> Column {
    Column::new(name, index, Field::Property(property.to_owned(), kind))
}

/// id | title (year) | release date | video date | address | 19 flags.
fn u_item() -> Vec<Column> {
    let mut columns = vec![
        Column::new("1", 0, Field::Item),
        property("2", 1, "title", PropertyKind::TitleYear),
        property("3", 2, "released", PropertyKind::Text),
    ];
    for (flag, genre) in GENRES.iter().enumerate().skip(1) {
        columns.push(property(
            &(6 + flag).to_string(),
            5 + flag,
            "genres",
            PropertyKind::Flag((*genre).to_owned()),
        ));
    }
    columns
}

fn movies_csv(source: &Source) -> FilePlan {
    FilePlan {
        source: source.clone(),
        role: Role::Items,
        part: Part::Whole,
        layout: Layout::Delimited { separator: ",".into(), quotes: true, header: true, latin1: false },
        kind: "rating".to_owned(),
        columns: vec![
            Column::new("movieId", 0, Field::Item),
            property("title", 1, "title", PropertyKind::TitleYear),
            property("genres", 2, "genres", PropertyKind::List("|".into())),
        ],
        unread: Vec::new(),
    }
}

/// Plots beside `u.item`: only what that file does not have.
fn overview(source: &Source, header: &str) -> Option<FilePlan> {
    let names: Vec<&str> = header.trim_end().split(',').collect();
    let mut columns = Vec::new();
    let mut unread = Vec::new();
    for (index, &name) in names.iter().enumerate() {
        let field = match name {
            "movie_id" => Field::Item,
            "overview" => Field::Property("description".into(), PropertyKind::Text),
            "original_language" => Field::Property("language".into(), PropertyKind::Text),
            "runtime" => Field::Property("runtime".into(), PropertyKind::Number),
            _ => {
                unread.push(name.to_owned());
                continue;
            }
        };
        columns.push(Column::new(name, index, field));
    }
    columns.iter().any(|c| c.field == Field::Item).then(|| FilePlan {
        source: source.clone(),
        role: Role::Items,
        part: Part::Whole,
        layout: Layout::Delimited { separator: ",".into(), quotes: true, header: true, latin1: false },
        kind: "rating".to_owned(),
        columns,
        unread,
    })
}

/// A picture larger than this stays out: it would travel with every slate.
const MAX_PICTURE: u64 = 64 << 10;

/// Reads a tar of pictures named after items into the property `image`, as `data:` addresses that a browser
/// shows without asking anybody.
pub fn parse_pictures(
    file: &FilePlan,
    name: &Arc<str>,
    keep: usize,
    read: &Arc<AtomicU64>,
    emit: &mut dyn FnMut(Batch) -> bool,
) -> Result<(), ImportError> {
    file.source.read(read, |stream| {
        let mut entry = 0;
        loop {
            let mut batch = Batch::new(String::new(), name, file.part, keep);
            let mut more = true;
            while more && batch.items.len() < 100 {
                entry += 1;
                match picture(stream, &mut batch, entry) {
                    Ok(found) => more = found,
                    Err(e) => {
                        batch.skip(entry, None, format!("the archive breaks off here: {e}"));
                        more = false;
                    }
                }
            }
            if !emit(batch) || !more {
                return;
            }
        }
    })
}

/// Reads one entry of a tar; false at its end.
fn picture(stream: &mut dyn Read, batch: &mut Batch, entry: u64) -> io::Result<bool> {
    let mut head = [0u8; 512];
    if let Err(e) = stream.read_exact(&mut head) {
        return if e.kind() == io::ErrorKind::UnexpectedEof && entry > 1 { Ok(false) } else { Err(e) };
    }
    if head.iter().all(|&b| b == 0) {
        return Ok(false);
    }
    let text = |range: std::ops::Range<usize>| {
        let field = &head[range];
        let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
        String::from_utf8_lossy(&field[..end]).trim().to_owned()
    };
    let size = u64::from_str_radix(&text(124..136), 8)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a size that is not octal"))?;
    let path = text(0..100);
    let padded = size.div_ceil(512) * 512;
    let file = path.rsplit('/').next().unwrap_or_default();
    let kind = match file.rsplit_once('.').map(|(id, end)| (id, end.to_lowercase())) {
        Some((id, end)) if matches!(head[156], b'0' | 0) => match end.as_str() {
            "jpg" | "jpeg" => Some((id, "jpeg")),
            "png" => Some((id, "png")),
            "webp" => Some((id, "webp")),
            _ => None,
        },
        _ => None,
    };
    match kind {
        Some((id, kind)) if size <= MAX_PICTURE && check_id("item", id).is_ok() => {
            let mut bytes = vec![0u8; size as usize];
            stream.read_exact(&mut bytes)?;
            skip(stream, padded - size)?;
            let image = format!("data:image/{kind};base64,{}", base64(&bytes));
            let mut properties = Map::new();
            properties.insert("image".to_owned(), Value::from(image));
            batch.items.push(Item { properties, ..Item::new(id) });
        }
        Some((id, _)) if size > MAX_PICTURE => {
            let id = id.to_owned();
            skip(stream, padded)?;
            batch.warn(
                entry,
                Some(&id),
                format!("the picture has {size} bytes, at most {MAX_PICTURE} are taken"),
            );
        }
        _ => skip(stream, padded)?,
    }
    Ok(true)
}

fn skip(stream: &mut dyn Read, bytes: u64) -> io::Result<()> {
    if io::copy(&mut stream.take(bytes), &mut io::sink())? == bytes {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, &b| bits << 8 | u32::from(b)) << (8 * (3 - three.len()));
        for place in 0..4 {
            if place <= three.len() {
                out.push(char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_of_the_standard() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(super::base64(plain.as_bytes()), coded);
        }
    }
}
