//! Columns and what they mean: guessed from their names and contents, or told by `--map`.

use super::TimeUnit;
use super::plan::Role;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// What a column becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    User,
    Item,
    Kind,
    At(TimeUnit),
    Value,
    Id,
    Session,
    Slate,
    Position,
    Text,
    /// One entry of the event's context.
    Context(String),
    /// A whole JSON object: the context of an event, the properties of an item or user.
    Bag,
    Property(String, PropertyKind),
    Hidden,
    Expires(TimeUnit),
}

/// How a property's text becomes JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PropertyKind {
    Text,
    /// Text that is not a number stays text.
    Number,
    /// Parts between separators; empty ones are left out.
    List(String),
    Numbers(String),
    /// `1` or `true` adds this word to the list property: how MovieLens 100K writes genres.
    Flag(String),
    /// The property `title`, with a trailing `(1995)` moved to the property `year`.
    TitleYear,
}

impl Field {
    pub fn name(&self) -> String {
        match self {
            Field::User => "user".into(),
            Field::Item => "item".into(),
            Field::Kind => "kind".into(),
            Field::At(_) => "at".into(),
            Field::Value => "value".into(),
            Field::Id => "id".into(),
            Field::Session => "session".into(),
            Field::Slate => "slate".into(),
            Field::Position => "position".into(),
            Field::Text => "text".into(),
            Field::Context(name) => format!("context.{name}"),
            Field::Bag => "properties".into(),
            Field::Property(name, _) => format!("property.{name}"),
            Field::Hidden => "hidden".into(),
            Field::Expires(_) => "expires".into(),
        }
    }

    /// The fields `--map` may name.
    pub fn parse(name: &str) -> Option<Field> {
        Some(match name {
            "user" => Field::User,
            "item" => Field::Item,
            "kind" => Field::Kind,
            "at" => Field::At(TimeUnit::Iso),
            "value" => Field::Value,
            "id" => Field::Id,
            "session" => Field::Session,
            "slate" => Field::Slate,
            "position" => Field::Position,
            "text" => Field::Text,
            "hidden" => Field::Hidden,
            "expires" => Field::Expires(TimeUnit::Iso),
            _ => match name.split_once('.') {
                Some(("context", rest)) if !rest.is_empty() => Field::Context(rest.to_owned()),
                Some(("property", rest)) if !rest.is_empty() => {
                    Field::Property(rest.to_owned(), PropertyKind::Text)
                }
                _ => return None,
            },
        })
    }
}

impl Serialize for Field {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.name())
    }
}

/// One column of a file and its meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Column {
    pub name: String,
    /// Place in the row, from 0; meaningless where rows are objects.
    pub index: usize,
    pub field: Field,
}

impl Column {
    /// The index of a key that no row looked at had, and that is understood if it comes later.
    pub(super) const LATER: usize = usize::MAX;

    /// Whether rows that were looked at had it.
    pub fn seen(&self) -> bool {
        self.index != Column::LATER
    }

    pub fn new(name: &str, index: usize, field: Field) -> Column {
        Column { name: name.to_owned(), index, field }
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ← {}", self.field.name(), self.name)?;
        match &self.field {
            Field::At(unit) | Field::Expires(unit) => write!(f, " ({})", unit.words()),
            Field::Property(_, PropertyKind::List(by)) => write!(f, " (list between `{by}`)"),
            Field::Property(_, PropertyKind::Flag(word)) => write!(f, " (flag `{word}`)"),
            _ => Ok(()),
        }
    }
}

/// `UserID`, `user_id`, `user id` and `userId` are the same name.
pub fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

const USER: &[&str] = &[
    "user",
    "userid",
    "uid",
    "username",
    "userno",
    "usernr",
    "useridx",
    "visitor",
    "visitorid",
    "customer",
    "customerid",
    "custid",
    "client",
    "clientid",
    "member",
    "memberid",
    "account",
    "accountid",
    "reviewer",
    "reviewerid",
    "reader",
    "readerid",
    "person",
    "personid",
    "msno",
    "profileid",
    "personidx",
];
const ITEM: &[&str] = &[
    "item",
    "itemid",
    "iid",
    "itemno",
    "itemidx",
    "movie",
    "movieid",
    "film",
    "filmid",
    "product",
    "productid",
    "prodid",
    "asin",
    "parentasin",
    "isbn",
    "isbn13",
    "book",
    "bookid",
    "article",
    "articleid",
    "track",
    "trackid",
    "song",
    "songid",
    "artist",
    "artistid",
    "sku",
    "contentid",
    "video",
    "videoid",
    "business",
    "businessid",
    "venue",
    "venueid",
    "poi",
    "poiid",
    "locationid",
    "newsid",
    "app",
    "appid",
    "gameid",
    "recipe",
    "recipeid",
    "anime",
    "animeid",
    "course",
    "courseid",
    "offer",
    "offerid",
    "stockcode",
    "postid",
    "adid",
    "hotelid",
    "jobid",
    "showid",
    "joke",
    "jokeid",
];
const KIND: &[&str] = &[
    "kind",
    "event",
    "eventtype",
    "type",
    "behavior",
    "behaviour",
    "behaviortype",
    "behaviourtype",
    "action",
    "actiontype",
    "feedback",
    "feedbacktype",
    "interaction",
    "interactiontype",
];
const AT: &[&str] = &[
    "at",
    "timestamp",
    "time",
    "ts",
    "unixtime",
    "unixreviewtime",
    "unixseconds",
    "unixtimestamp",
    "epoch",
    "date",
    "datetime",
    "created",
    "createdat",
    "eventtime",
    "reviewtime",
    "ratingtime",
    "clicktime",
    "timems",
    "timestampms",
];
const VALUE: &[&str] = &[
    "value",
    "rating",
    "ratings",
    "score",
    "stars",
    "star",
    "overall",
    "weight",
    "bookrating",
    "label",
    "plays",
    "playcount",
    "listens",
    "quantity",
    "qty",
    "amount",
    "count",
    "cnt",
    "watchratio",
    "playtime",
    "reward",
];
const ID: &[&str] = &["id", "eventid", "uuid", "interactionid", "feedbackid"];
const SESSION: &[&str] = &["session", "sessionid", "sid", "usersession", "visitid"];
const TEXT: &[&str] = &["text", "review", "reviewtext", "comment", "reviewbody"];
const HIDDEN: &[&str] = &["hidden", "ishidden"];
const EXPIRES: &[&str] = &["expires", "expiresat", "validuntil"];
const BAG: &[&str] = &["properties"];
const CONTEXT: &[&str] = &["context"];

/// The place of the first column whose plain name is in `names`, in the order of `names`, not of the columns.
fn find(plain_names: &[String], names: &[&str]) -> Option<usize> {
    names.iter().find_map(|n| plain_names.iter().position(|p| p == n))
}

/// What a header says a file's rows are. `None` where it names neither users nor items.
pub fn role_of(header: &[String], stem: &str) -> Option<Role> {
    let names: Vec<String> = header.iter().map(|h| plain(h)).collect();
    let user = find(&names, USER).is_some();
    let item = find(&names, ITEM).is_some();
    match (user, item) {
        (true, true) => Some(Role::Events),
        (false, true) => Some(Role::Items),
        (true, false) => Some(Role::Users),
        (false, false) if find(&names, ID).is_some() && stem.contains("user") => Some(Role::Users),
        (false, false) if find(&names, ID).is_some() && stem.contains("item") => Some(Role::Items),
        (false, false) if find(&names, &["id"]).is_some() && find(&names, BAG).is_some() => Some(Role::Items),
        (false, false) => None,
    }
}

/// A header (or the keys of objects) and some rows of it, to guess from.
pub struct Sample<'a> {
    pub header: &'a [String],
    /// `rows[r][c]`: text of a cell, empty where it is missing.
    pub rows: &'a [Vec<String>],
}

impl Sample<'_> {
    fn column(&self, c: usize) -> impl Iterator<Item = &str> {
        self.rows.iter().filter_map(move |r| r.get(c).map(String::as_str)).filter(|v| !v.trim().is_empty())
    }

    /// The unit of times in column `c`.
    pub fn unit(&self, c: usize) -> Option<TimeUnit> {
        TimeUnit::majority(self.column(c))
    }

    fn numeric(&self, c: usize) -> bool {
        let mut any = false;
        for value in self.column(c) {
            any = true;
            if !value.trim().parse::<f64>().is_ok_and(f64::is_finite) {
                return false;
            }
        }
        any
    }

    /// `|` between parts in at least a tenth of the rows, as genres are often written.
    fn list_separator(&self, c: usize) -> Option<&'static str> {
        let (mut rows, mut spaced, mut bare) = (0, 0, 0);
        for value in self.column(c) {
            rows += 1;
            if value.contains(" | ") {
                spaced += 1;
            } else if value.contains('|') {
                bare += 1;
            }
        }
        if spaced * 10 >= rows.max(1) {
            Some(" | ")
        } else if bare * 10 >= rows.max(1) {
            Some("|")
        } else {
            None
        }
    }

    fn property(&self, c: usize, name: &str) -> Field {
        let kind = match self.list_separator(c) {
            Some(by) => PropertyKind::List(by.to_owned()),
            None if self.numeric(c) => PropertyKind::Number,
            None => PropertyKind::Text,
        };
        Field::Property(name.to_owned(), kind)
    }
}

/// Gives meaning to columns. Returns them, the names of those left unread, and what could not be understood.
pub fn assign(
    role: Role,
    sample: &Sample<'_>,
    map: &BTreeMap<String, String>,
) -> Result<(Vec<Column>, Vec<String>), Vec<String>> {
    let names: Vec<String> = sample.header.iter().map(|h| plain(h)).collect();
    let mut taken: BTreeMap<usize, Field> = BTreeMap::new();
    let mut problems = Vec::new();

    for (field, column) in map {
        let Some(mut field) = Field::parse(field) else {
            problems.push(format!(
                "`{field}` is no field; the fields are user, item, kind, at, value, id, session, slate, position, \
                 text, context.NAME, property.NAME, hidden, expires"
            ));
            continue;
        };
        let place = sample.header.iter().position(|h| h == column).or_else(|| {
            let number = column.parse::<usize>().ok()?.checked_sub(1)?;
            (number < sample.header.len()).then_some(number)
        });
        // A mapping is given once for all files; a file of items has no column for `user`.
        let Some(place) = place else { continue };
        if let Field::At(unit) | Field::Expires(unit) = &mut field {
            *unit = sample.unit(place).unwrap_or(TimeUnit::Iso);
        }
        if let Field::Property(name, _) = &field {
            field = sample.property(place, &name.clone());
        }
        taken.insert(place, field);
    }
    if !problems.is_empty() {
        return Err(problems);
    }

    let guess = |taken: &mut BTreeMap<usize, Field>, words: &[&str], field: Field| {
        let named = taken.values().any(|f| std::mem::discriminant(f) == std::mem::discriminant(&field));
        if named {
            return;
        }
        let free =
            words.iter().find_map(|w| (0..names.len()).find(|c| names[*c] == *w && !taken.contains_key(c)));
        if let Some(c) = free {
            let field = match field {
                Field::At(_) => match sample.unit(c) {
                    Some(unit) => Field::At(unit),
                    // An empty or unreadable sample says nothing; ISO makes every odd value a problem.
                    None => Field::At(TimeUnit::Iso),
                },
                Field::Expires(_) => Field::Expires(sample.unit(c).unwrap_or(TimeUnit::Iso)),
                other => other,
            };
            taken.insert(c, field);
        }
    };

    match role {
        Role::Events => {
            guess(&mut taken, USER, Field::User);
            guess(&mut taken, ITEM, Field::Item);
            guess(&mut taken, KIND, Field::Kind);
            guess(&mut taken, AT, Field::At(TimeUnit::Iso));
            guess(&mut taken, VALUE, Field::Value);
            guess(&mut taken, ID, Field::Id);
            guess(&mut taken, SESSION, Field::Session);
            guess(&mut taken, &["slate", "slateid"], Field::Slate);
            guess(&mut taken, &["position"], Field::Position);
            guess(&mut taken, TEXT, Field::Text);
            guess(&mut taken, CONTEXT, Field::Bag);
        }
        Role::Items | Role::Users => {
            let (own, other) = if role == Role::Items { (ITEM, Field::Item) } else { (USER, Field::User) };
            guess(&mut taken, own, other.clone());
            guess(&mut taken, ID, other);
            guess(&mut taken, BAG, Field::Bag);
            if role == Role::Items {
                guess(&mut taken, HIDDEN, Field::Hidden);
                guess(&mut taken, EXPIRES, Field::Expires(TimeUnit::Iso));
            }
            guess(&mut taken, &["at"], Field::At(TimeUnit::Iso));
            for c in 0..sample.header.len() {
                let name = sample.header[c].trim();
                if !taken.contains_key(&c) && !name.is_empty() {
                    taken.insert(c, sample.property(c, name));
                }
            }
        }
        Role::Candidates | Role::Images => {}
    }

    let unread = (0..sample.header.len())
        .filter(|c| !taken.contains_key(c))
        .map(|c| sample.header[c].clone())
        .collect();
    let columns = taken.into_iter().map(|(c, field)| Column::new(&sample.header[c], c, field)).collect();
    Ok((columns, unread))
}

/// The fields without which rows of this role are nothing.
pub fn missing(role: Role, columns: &[Column]) -> Vec<&'static str> {
    let has = |field: &Field| columns.iter().any(|c| c.field == *field);
    let mut missing = Vec::new();
    if matches!(role, Role::Events | Role::Users) && !has(&Field::User) {
        missing.push("user");
    }
    if matches!(role, Role::Events | Role::Items) && !has(&Field::Item) {
        missing.push("item");
    }
    missing
}

/// A ready-made `--map` for columns we cannot name: the first ones that are still free.
pub fn suggestion(header: &[String], columns: &[Column], missing: &[&str], has_header: bool) -> String {
    let mut free = (0..header.len()).filter(|c| !columns.iter().any(|col| col.index == *c));
    missing
        .iter()
        .map(|field| {
            let column = free.next().map_or_else(
                || "COLUMN".to_owned(),
                |c| if has_header { header[c].clone() } else { (c + 1).to_string() },
            );
            let pair = format!("{field}={column}");
            if pair.contains([' ', '\'', '"', '&', ';', '$', '(']) { format!("'{pair}'") } else { pair }
        })
        .collect::<Vec<_>>()
        .join(",")
}
