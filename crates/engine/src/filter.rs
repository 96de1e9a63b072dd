//! Filters: a small, bounded expression language over item properties.
//!
//! ```
//! use sommelier_core::Item;
//! use sommelier_engine::Filter;
//! let filter = Filter::parse(r#"item.year < 1950 and "Novel" in item.genres"#)?;
//! let item: Item = serde_json::from_str(r#"{"id":"b1","properties":{"year":1866,"genres":["Novel"]}}"#).unwrap();
//! assert!(filter.matches(&item.id, Some(&item)));
//! # Ok::<(), sommelier_engine::FilterError>(())
//! ```
//!
//! ```text
//! expression = or ;  or = and {"or" and} ;  and = not {"and" not} ;  not = "not" not | test
//! test       = "(" expression ")" | operand [ ("=" | "==" | "!=" | "<" | "<=" | ">" | ">=" | ["not"] "in") operand
//!            | "is" ["not"] "missing" ]
//! operand    = number | "text" | 'text' | true | false | "[" operand {"," operand} "]"
//!            | item.name | item.name.inner | item["any name"]
//! ```
//!
//! `item.id` is the id; `item.at` and `item.expires` are milliseconds; every other name is a property.
//! A comparison with a missing property, or between things of different types, is false, so `!=` and `not` hold
//! for items without the property. Text that reads as a number compares with numbers (files often quote them).
//! `x in list` holds where an element equals `x`; `list in list` where they share an element; `x in text` where
//! the text contains `x`. An operand alone holds where it is `true`.

use serde_json::Value;
use sommelier_core::Item;

const MAX_BYTES: usize = 4096;
const MAX_DEPTH: usize = 32;
const MAX_NODES: usize = 512;

/// A checked filter expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    text: String,
    root: Node,
}

/// Where and why a filter cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: expected {expected}, received {received}")]
pub struct FilterError {
    /// Character (not byte) of the text, from 1.
    pub at: usize,
    pub expected: String,
    pub received: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Compare(Operand, Comparison, Operand),
    In(Operand, Operand),
    Missing(Operand),
    Holds(Operand),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Literal(Value),
    /// Names after `item`, never empty.
    Path(Vec<String>),
}

impl Filter {
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        if text.len() > MAX_BYTES {
            let received = format!("{} bytes", text.len());
            return Err(FilterError {
                at: 1,
                expected: format!("a filter of at most {MAX_BYTES} bytes"),
                received,
            });
        }
        let mut parser = Parser { tokens: tokens(text)?, next: 0, nodes: 0 };
        let root = parser.or(0)?;
        match parser.peek() {
            Token::End => Ok(Filter { text: text.to_owned(), root }),
            _ => Err(parser.unexpected("`and`, `or` or the end")),
        }
    }

    /// Holds where both hold.
    pub fn and(self, other: Filter) -> Filter {
        Filter {
            text: format!("({}) and ({})", self.text, other.text),
            root: Node::And(vec![self.root, other.root]),
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the item passes. An item without a record has only its id.
    pub fn matches(&self, id: &str, item: Option<&Item>) -> bool {
        holds(&self.root, &Subject { id, item })
    }
}

struct Subject<'a> {
    id: &'a str,
    item: Option<&'a Item>,
}

/// A value under comparison: borrowed from the filter or the item, or made of the item's own fields.
enum Got<'a> {
    Json(&'a Value),
    Text(&'a str),
    Number(f64),
    Missing,
}

fn holds(node: &Node, subject: &Subject<'_>) -> bool {
    match node {
        Node::And(parts) => parts.iter().all(|p| holds(p, subject)),
        Node::Or(parts) => parts.iter().any(|p| holds(p, subject)),
        Node::Not(inner) => !holds(inner, subject),
        Node::Compare(a, how, b) => compare(&get(a, subject), *how, &get(b, subject)),
        Node::In(a, b) => contains(&get(b, subject), &get(a, subject)),
        Node::Missing(a) => is_missing(&get(a, subject)),
        Node::Holds(a) => matches!(get(a, subject), Got::Json(Value::Bool(true))),
    }
}

fn get<'a>(operand: &'a Operand, subject: &Subject<'a>) -> Got<'a> {
    let path = match operand {
        Operand::Literal(value) => return Got::Json(value),
        Operand::Path(path) => path,
    };
    let time = |t: Option<sommelier_core::Time>| t.map_or(Got::Missing, |t| Got::Number(t.millis() as f64));
    let Some(item) = subject.item else {
        return if path.len() == 1 && path[0] == "id" { Got::Text(subject.id) } else { Got::Missing };
    };
    let Some(mut value) = item.properties.get(&path[0]) else {
        return match (path.len(), path[0].as_str()) {
            (1, "id") => Got::Text(subject.id),
            (1, "at") => time(item.at),
            (1, "expires") => time(item.expires),
            _ => Got::Missing,
        };
    };
    for name in &path[1..] {
        match value.get(name) {
            Some(inner) => value = inner,
            None => return Got::Missing,
        }
    }
    Got::Json(value)
}

fn is_missing(got: &Got<'_>) -> bool {
    matches!(got, Got::Missing | Got::Json(Value::Null))
}

fn as_text<'a>(got: &Got<'a>) -> Option<&'a str> {
    match got {
        Got::Json(Value::String(text)) => Some(text),
        Got::Text(text) => Some(text),
        _ => None,
    }
}

/// A number, or text that reads as one.
fn as_number(got: &Got<'_>) -> Option<f64> {
    match got {
        Got::Number(number) => Some(*number),
        Got::Json(Value::Number(number)) => number.as_f64(),
        _ => as_text(got)?.trim().parse().ok().filter(|n: &f64| n.is_finite()),
    }
}

fn compare(a: &Got<'_>, how: Comparison, b: &Got<'_>) -> bool {
    let order = if let (Some(x), Some(y)) = (as_text(a), as_text(b)) {
        Some(x.cmp(y))
    } else if let (Some(x), Some(y)) = (as_number(a), as_number(b)) {
        x.partial_cmp(&y)
    } else {
        // Lists and truth values can only be equal.
        return match (a, b) {
            (Got::Json(x), Got::Json(y)) => how == Comparison::Equal && !x.is_null() && x == y,
            _ => false,
        };
    };
    order.is_some_and(|order| match how {
        Comparison::Equal => order.is_eq(),
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterOrEqual => order.is_ge(),
    })
}

fn contains(whole: &Got<'_>, part: &Got<'_>) -> bool {
    if is_missing(part) {
        return false;
    }
    match whole {
        Got::Json(Value::Array(list)) => match part {
            Got::Json(Value::Array(parts)) => parts.iter().any(|p| contains(whole, &Got::Json(p))),
            _ => list.iter().any(|element| compare(&Got::Json(element), Comparison::Equal, part)),
        },
        Got::Json(Value::Object(map)) => as_text(part).is_some_and(|name| map.contains_key(name)),
        _ => match (as_text(whole), as_text(part)) {
            (Some(text), Some(inner)) => text.contains(inner),
            _ => false,
        },
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Number(f64),
    /// Operators and punctuation.
    Sign(&'static str),
    End,
}

impl Token {
    fn words(&self) -> String {
        match self {
            Token::Word(word) => format!("`{word}`"),
            Token::Text(text) => format!("text {:?}", text.chars().take(40).collect::<String>()),
            Token::Number(number) => number.to_string(),
            Token::Sign(sign) => format!("`{sign}`"),
            Token::End => "the end".into(),
        }
    }
}

/// Tokens with the character each starts at, ended by [`Token::End`].
fn tokens(text: &str) -> Result<Vec<(usize, Token)>, FilterError> {
    const SIGNS: [&str; 14] = ["==", "!=", "<=", ">=", "&&", "||", "=", "<", ">", "(", ")", "[", "]", ","];
    let chars: Vec<char> = text.chars().collect();
    let mut out = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        let at = i + 1;
        if c.is_whitespace() {
            i += 1;
        } else if c == '"' || c == '\'' {
            let (read, end) = quoted(&chars, i)?;
            out.push((at, Token::Text(read)));
            i = end;
        } else if c.is_ascii_digit()
            || ((c == '-' || c == '.') && chars.get(i + 1).is_some_and(char::is_ascii_digit))
        {
            let start = i;
            i += 1;
            while i < chars.len()
                && (chars[i].is_ascii_alphanumeric()
                    || chars[i] == '.'
                    || (matches!(chars[i], '+' | '-') && matches!(chars[i - 1], 'e' | 'E')))
            {
                i += 1;
            }
            let word: String = chars[start..i].iter().collect();
            match word.parse::<f64>() {
                Ok(number) if number.is_finite() => out.push((at, Token::Number(number))),
                _ => {
                    return Err(FilterError {
                        at,
                        expected: "a number".into(),
                        received: format!("`{word}`"),
                    });
                }
            }
        } else if c.is_alphabetic() || c == '_' {
            let start = i;
            while i < chars.len() && (chars[i].is_alphanumeric() || chars[i] == '_') {
                i += 1;
            }
            out.push((at, Token::Word(chars[start..i].iter().collect())));
        } else if c == '.' {
            out.push((at, Token::Sign(".")));
            i += 1;
        } else if let Some(sign) =
            SIGNS.iter().find(|s| s.chars().enumerate().all(|(k, x)| chars.get(i + k) == Some(&x)))
        {
            out.push((at, Token::Sign(sign)));
            i += sign.len();
        } else {
            let expected = "a property, a value or an operator".into();
            return Err(FilterError { at, expected, received: format!("`{c}`") });
        }
    }
    out.push((chars.len() + 1, Token::End));
    Ok(out)
}

/// Text between the quote at `start` and the next of its kind; `\` keeps the character after it.
fn quoted(chars: &[char], start: usize) -> Result<(String, usize), FilterError> {
    let mut read = String::new();
    let mut i = start + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' if i + 1 < chars.len() => {
                read.push(chars[i + 1]);
                i += 2;
            }
            c if c == chars[start] => return Ok((read, i + 1)),
            c => {
                read.push(c);
                i += 1;
            }
        }
    }
    let expected = format!("a closing {} for this text", chars[start]);
    Err(FilterError { at: start + 1, expected, received: "the end".into() })
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    nodes: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next].1
    }

    fn take(&mut self) -> Token {
        let token = self.tokens[self.next].1.clone();
        if self.next + 1 < self.tokens.len() {
            self.next += 1;
        }
        token
    }

    fn unexpected(&self, expected: &str) -> FilterError {
        let (at, token) = &self.tokens[self.next];
        FilterError { at: *at, expected: expected.to_owned(), received: token.words() }
    }

    fn sign(&mut self, sign: &str) -> bool {
        let here = matches!(self.peek(), Token::Sign(s) if *s == sign);
        if here {
            self.take();
        }
        here
    }

    fn word(&mut self, word: &str) -> bool {
        let here = matches!(self.peek(), Token::Word(w) if w.eq_ignore_ascii_case(word));
        if here {
            self.take();
        }
        here
    }

    /// Counts a node, so that neither the tree nor one evaluation can grow without bound.
    fn grow(&mut self, depth: usize) -> Result<(), FilterError> {
        self.nodes += 1;
        if depth > MAX_DEPTH {
            return Err(self.unexpected(&format!("at most {MAX_DEPTH} levels of brackets and `not`")));
        }
        if self.nodes > MAX_NODES {
            return Err(self.unexpected(&format!("at most {MAX_NODES} comparisons and values")));
        }
        Ok(())
    }

    fn or(&mut self, depth: usize) -> Result<Node, FilterError> {
        let mut parts = vec![self.and(depth)?];
        while self.word("or") || self.sign("||") {
            parts.push(self.and(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Node::Or(parts) })
    }

    fn and(&mut self, depth: usize) -> Result<Node, FilterError> {
        let mut parts = vec![self.not(depth)?];
        while self.word("and") || self.sign("&&") {
            parts.push(self.not(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Node::And(parts) })
    }

    fn not(&mut self, depth: usize) -> Result<Node, FilterError> {
        self.grow(depth)?;
        if self.word("not") {
            return Ok(Node::Not(Box::new(self.not(depth + 1)?)));
        }
        self.test(depth)
    }

    fn test(&mut self, depth: usize) -> Result<Node, FilterError> {
        if self.sign("(") {
            let inner = self.or(depth + 1)?;
            return if self.sign(")") { Ok(inner) } else { Err(self.unexpected("`)`")) };
        }
        let left = self.operand(depth)?;
        if self.word("is") {
            let negated = self.word("not");
            if !(self.word("missing") || self.word("null")) {
                return Err(self.unexpected("`missing`"));
            }
            return Ok(negate_if(negated, Node::Missing(left)));
        }
        if self.word("not") {
            return if self.word("in") {
                Ok(negate_if(true, Node::In(left, self.operand(depth)?)))
            } else {
                Err(self.unexpected("`in` after `not`"))
            };
        }
        if self.word("in") {
            return Ok(Node::In(left, self.operand(depth)?));
        }
        let (negated, how) = match self.peek() {
            Token::Sign("=" | "==") => (false, Comparison::Equal),
            Token::Sign("!=") => (true, Comparison::Equal),
            Token::Sign("<") => (false, Comparison::Less),
            Token::Sign("<=") => (false, Comparison::LessOrEqual),
            Token::Sign(">") => (false, Comparison::Greater),
            Token::Sign(">=") => (false, Comparison::GreaterOrEqual),
            _ => return Ok(Node::Holds(left)),
        };
        self.take();
        Ok(negate_if(negated, Node::Compare(left, how, self.operand(depth)?)))
    }

    fn operand(&mut self, depth: usize) -> Result<Operand, FilterError> {
        const EXPECTED: &str = "a property (item.year), text in quotes, a number, true, false or a [list]";
        self.grow(depth)?;
        match self.peek().clone() {
            Token::Number(number) => {
                self.take();
                Ok(Operand::Literal(serde_json::Number::from_f64(number).map_or(Value::Null, Value::Number)))
            }
            Token::Text(text) => {
                self.take();
                Ok(Operand::Literal(Value::String(text)))
            }
            Token::Sign("[") => {
                self.take();
                self.list(depth)
            }
            Token::Word(word) => match word.as_str() {
                "true" | "false" => {
                    self.take();
                    Ok(Operand::Literal(Value::Bool(word == "true")))
                }
                "item" => {
                    self.take();
                    self.path()
                }
                _ => Err(self
                    .unexpected(&format!("{EXPECTED} (a property is written item.{word}, text \"{word}\")"))),
            },
            _ => Err(self.unexpected(EXPECTED)),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Operand, FilterError> {
        let mut values = Vec::new();
        while !self.sign("]") {
            if !values.is_empty() && !self.sign(",") {
                return Err(self.unexpected("`,` or `]`"));
            }
            let at = self.next;
            match self.operand(depth + 1)? {
                Operand::Literal(value) => values.push(value),
                Operand::Path(_) => {
                    self.next = at;
                    return Err(self.unexpected("a value (a list holds text, numbers, true and false)"));
                }
            }
        }
        Ok(Operand::Literal(Value::Array(values)))
    }

    fn path(&mut self) -> Result<Operand, FilterError> {
        let mut names = Vec::new();
        loop {
            if self.sign(".") {
                match self.peek().clone() {
                    Token::Word(name) => {
                        self.take();
                        names.push(name);
                    }
                    _ => return Err(self.unexpected("the name of a property after `item.`")),
                }
            } else if self.sign("[") {
                match self.peek().clone() {
                    Token::Text(name) => {
                        self.take();
                        names.push(name);
                    }
                    _ => return Err(self.unexpected("the name of a property in quotes after `item[`")),
                }
                if !self.sign("]") {
                    return Err(self.unexpected("`]`"));
                }
            } else if names.is_empty() {
                return Err(self.unexpected("`.` and the name of a property after `item`"));
            } else {
                return Ok(Operand::Path(names));
            }
        }
    }
}

fn negate_if(negated: bool, node: Node) -> Node {
    if negated { Node::Not(Box::new(node)) } else { node }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item() -> Item {
        serde_json::from_str(
            r#"{"id":"b1","at":1000,"properties":{"year":1866,"genres":["Novel","Crime"],"title":"Crime and Punishment",
                "pages":"430","ok":true,"by":{"name":"Fyodor"},"odd key":1,"none":null,"id2":["x"]}}"#,
        )
        .unwrap()
    }

    fn check(text: &str) -> bool {
        let item = item();
        Filter::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).matches("b1", Some(&item))
    }

    #[test]
    fn true_of_the_item() {
        for text in [
            "item.year < 1950",
            "item.year >= 1866 and item.year <= 1866",
            "item.year = 1866.0",
            "item.pages > 400",
            r#""Novel" in item.genres"#,
            r#"["Poem", "Crime"] in item.genres"#,
            r"item.year in [1865, 1866]",
            r#""Punish" in item.title"#,
            r"'Poem' not in item.genres",
            r#"not ("Poem" in item.genres or item.year > 1900)"#,
            "item.price is missing",
            "item.none is missing",
            "item.year is not missing",
            "item.price != 3",
            "not item.price < 3",
            "item.ok",
            "item.ok == true",
            r#"item.by.name = "Fyodor""#,
            r#"item["odd key"] = 1 && item.id = "b1""#,
            "item.at = 1000",
            r#""name" in item.by"#,
            r#"item.title = "x" or item.year=1866 and item.ok"#,
        ] {
            assert!(check(text), "{text}");
        }
    }

    #[test]
    fn false_of_the_item() {
        for text in [
            "item.year > 1950",
            "item.price < 3",
            "item.price >= 3",
            "item.price in [1, 2]",
            "item.price in item.genres",
            r#"item.year = "Novel""#,
            r"item.genres < 3",
            "item.none = item.none",
            "item.expires > 0",
            "false",
            r"item.ok and not item.ok",
        ] {
            assert!(!check(text), "{text}");
        }
    }

    #[test]
    fn an_item_without_a_record_has_only_its_id() {
        assert!(Filter::parse(r#"item.id in ["x"]"#).unwrap().matches("x", None));
        assert!(!Filter::parse("item.year < 3").unwrap().matches("x", None));
    }

    #[test]
    fn errors_point_at_the_character() {
        for (text, at, part) in [
            ("", 1, "a property"),
            ("item.year <", 12, "a property"),
            ("item.year < 1950 item.x", 18, "`and`, `or` or the end"),
            ("year < 1950", 1, "item.year"),
            ("item.é§ = 1", 7, "a property"),
            ("item.title = \"x", 14, "closing"),
            ("(item.ok", 9, "`)`"),
            ("item.year not 3", 15, "`in`"),
            ("item.a in [item.b]", 12, "a value"),
            ("item.a = 1x", 10, "a number"),
            ("item", 5, "`.`"),
        ] {
            let error = Filter::parse(text).unwrap_err();
            assert_eq!(error.at, at, "{text}: {error}");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn size_and_depth_are_bounded() {
        assert!(Filter::parse(&"(".repeat(4000)).is_err());
        assert!(Filter::parse(&"not ".repeat(1000)).is_err());
        assert!(Filter::parse(&"[".repeat(4000)).is_err());
        assert!(Filter::parse(&format!("item.a in [{}]", "1,".repeat(600))).is_err());
        assert!(Filter::parse(&"x".repeat(5000)).is_err());
        assert!(Filter::parse(&vec!["item.a=1"; 100].join(" or ")).is_ok());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            if let Ok(filter) = Filter::parse(&text) {
                let _ = filter.matches("b1", Some(&item()));
            }
        }

        #[test]
        fn pieces_never_panic(parts in prop::collection::vec(prop::sample::select(vec![
            "item", ".", "year", "a", "[", "]", "(", ")", "not", "in", "is", "missing", "and", "or", "=", "<", "1", "'x'", ",", "true",
        ]), 0..20)) {
            let text = parts.join(" ");
            if let Ok(filter) = Filter::parse(&text) {
                let one = filter.matches("b1", Some(&item()));
                // What was read prints and reads again as the same filter.
                prop_assert_eq!(Filter::parse(filter.text()).unwrap().matches("b1", Some(&item())), one);
            }
        }
    }
}
