//! Finds out what files hold, from their content first and their names second, and makes the plan of an import.

use super::assemble::assemble;
use super::columns::{self, Column, Field, Sample, plain};
use super::movielens::{self, Known};
use super::parquet;
use super::plan::{FilePlan, Layout, Part, Plan, Role};
use super::source::{Source, sources};
use super::times::TimeUnit;
use super::{Format, ImportError, ImportOptions};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Bytes of each file that are looked at.
const HEAD: usize = 256 << 10;
/// Rows that are guessed from.
const ROWS: usize = 500;

/// Looks at a file, a zip archive or the files of a folder, and says what would be imported and how. Nothing is
/// written. A path `FOLDER/NAME`, where the folder holds a split called NAME, is the folder with `given = NAME`.
pub fn detect(path: &Path, options: &ImportOptions) -> Result<Plan, ImportError> {
    let (path, given) = named_split(path, options)?;
    let sources = sources(&path)?;
    let single = sources.len() == 1;
    let mut looks = Vec::new();
    let mut unread = Vec::new();
    let mut last_error = None;
    for source in sources {
        match look(&source, options, single) {
            Ok(Look::Plan(file, split)) => looks.push((*file, split)),
            Ok(Look::Unread(reason)) => unread.push(format!("{source}: {reason}")),
            Err(error @ (ImportError::Io { .. } | ImportError::Option(_))) => return Err(error),
            Err(error) => {
                let words = error.to_string();
                let words = words.strip_prefix(&format!("{source}: ")).unwrap_or(&words).replace('\n', " ");
                unread.push(format!("{source}: {words}"));
                last_error = Some(error);
            }
        }
    }
    if single && let Some(error) = last_error {
        return Err(error);
    }
    assemble(&path, options, given.as_deref(), looks, unread)
}

/// Splits `FOLDER/NAME` into the folder and the split, where NAME is no file.
fn named_split(path: &Path, options: &ImportOptions) -> Result<(PathBuf, Option<String>), ImportError> {
    if path.exists() || options.given.is_some() {
        return Ok((path.to_owned(), options.given.clone()));
    }
    let Some((parent, name)) = path.parent().zip(path.file_name()) else {
        return Err(ImportError::NotFound(path.to_owned()));
    };
    let name = name.to_string_lossy().into_owned();
    let known = parent.exists()
        && sources(parent)?.iter().filter_map(|s| split_of(&s.stem())).any(|(_, split)| split == name);
    if known { Ok((parent.to_owned(), Some(name))) } else { Err(ImportError::NotFound(path.to_owned())) }
}

/// The part and the name of a split that a file belongs to.
pub type Split = Option<(Part, String)>;

enum Look {
    Plan(Box<FilePlan>, Split),
    Unread(String),
}

/// The part and the name of the split that a file's name speaks of: `u1.base` is the training part of `u1`,
/// `lcf_split_test.txt` the test part of `lcf_split`.
pub fn split_of(stem: &str) -> Option<(Part, String)> {
    const ENDS: [&str; 10] =
        ["txt", "csv", "tsv", "dat", "data", "json", "jsonl", "parquet", "inter", "rating"];
    let mut tokens: Vec<&str> = stem.split(['.', '_', '-']).collect();
    while tokens.len() > 1 && tokens.last().is_some_and(|t| ENDS.contains(t)) {
        tokens.pop();
    }
    let at = tokens.iter().rposition(|t| part_of(t).is_some())?;
    let part = part_of(tokens[at])?;
    tokens.remove(at);
    Some((part, tokens.join("_")))
}

fn part_of(token: &str) -> Option<Part> {
    match token {
        "train" | "training" | "trainset" | "base" => Some(Part::Train),
        "valid" | "validation" | "validset" | "val" | "dev" => Some(Part::Valid),
        "test" | "testing" | "testset" => Some(Part::Test),
        _ => None,
    }
}

/// What one file holds.
fn look(source: &Source, options: &ImportOptions, single: bool) -> Result<Look, ImportError> {
    let stem = source.stem();
    let name = source.name();
    if !single && (is_note(&stem)) {
        return Ok(Look::Unread("not data".into()));
    }
    if ends(&stem, "tar") {
        return Ok(Look::Plan(
            Box::new(file_plan(source, Role::Images, Layout::Tar, "view", Vec::new(), Vec::new())),
            None,
        ));
    }
    let head = source.head(HEAD)?;
    if head.is_empty() {
        return Err(ImportError::Empty { file: name });
    }
    let split = split_of(&stem);
    if head.starts_with(b"PAR1") || options.format == Some(Format::Parquet) {
        let (header, rows) = parquet::sample(source, ROWS)?;
        let layout = Layout::Parquet;
        return table(source, options, layout, &header, &rows, split);
    }
    let head = text_of(&name, &head)?;
    let first_line = head.lines().find(|l| !l.trim().is_empty()).unwrap_or_default().to_owned();
    if first_line.is_empty() {
        return Err(ImportError::Empty { file: name });
    }
    // Tables lie beside lists; a format that was asked for says what the lists are, not that all files are lists.
    let lists = matches!(options.format, Some(Format::Sequences | Format::Pairs));
    let format = options.format.filter(|_| !lists || single || is_list(&head));
    let wants = |f: Format| format == Some(f);
    if (format.is_none() || wants(Format::Movielens)) && options.map.is_empty() {
        match movielens::known(source, &first_line) {
            Some(Known::Plan(file)) => {
                let split = if file.part == Part::Whole { None } else { split };
                return Ok(Look::Plan(file, split));
            }
            Some(Known::Unread(reason)) => return Ok(Look::Unread(reason.into())),
            None => {}
        }
    }
    if wants(Format::Gorse) || (format.is_none() && is_gorse(&first_line)) {
        return Ok(Look::Plan(Box::new(gorse_plan(source)), None));
    }
    if wants(Format::Jsonl) || (format.is_none() && first_line.trim_start().starts_with('{')) {
        return json(source, options, &head, split);
    }
    if format.is_none() && first_line.trim_start().starts_with('[') {
        return Err(ImportError::Unreadable {
            file: name,
            reason: "a JSON array; expected one object a line. Convert it with: jq -c '.[]'".into(),
        });
    }
    if wants(Format::Recbole) || (format.is_none() && is_recbole(&first_line)) {
        return recbole(source, options, &head, split);
    }
    if wants(Format::Sequences)
        || wants(Format::Pairs)
        || (format.is_none() && options.map.is_empty() && is_list(&head))
    {
        let layout = if is_candidates(&head, split.as_ref()) { Layout::Candidates } else { Layout::List };
        let kind = options.kind.clone().unwrap_or_else(|| "view".into());
        let role = if layout == Layout::Candidates { Role::Candidates } else { Role::Events };
        let mut file = file_plan(source, role, layout, &kind, Vec::new(), Vec::new());
        file.part = split.as_ref().map_or(Part::Whole, |s| s.0);
        return Ok(Look::Plan(Box::new(file), split));
    }
    delimited(source, options, &head, split)
}

/// Whether a name (in lower case, see [`Source::stem`]) ends in `.end`.
pub fn ends(stem: &str, end: &str) -> bool {
    stem.rsplit_once('.').is_some_and(|(_, last)| last == end)
}

fn is_note(stem: &str) -> bool {
    let end = Path::new(stem).extension().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default();
    stem.contains("readme")
        || stem.starts_with("license")
        || matches!(
            end.as_str(),
            "md" | "html" | "htm" | "pdf" | "sh" | "pl" | "py" | "ipynb" | "toml" | "yaml" | "yml"
        )
}

fn file_plan(
    source: &Source,
    role: Role,
    layout: Layout,
    kind: &str,
    columns: Vec<Column>,
    unread: Vec<String>,
) -> FilePlan {
    FilePlan {
        source: source.clone(),
        role,
        part: Part::Whole,
        layout,
        kind: kind.to_owned(),
        columns,
        unread,
    }
}

/// The head as text, or why it is none.
fn text_of(name: &str, head: &[u8]) -> Result<String, ImportError> {
    let binary = |why: &str| ImportError::Binary { file: name.to_owned(), why: why.to_owned() };
    if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
        return Err(binary(
            "it looks like UTF-16; convert it to UTF-8, for example with: iconv -f UTF-16 -t UTF-8",
        ));
    }
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let odd = head.iter().filter(|&&b| b < 32 && !matches!(b, b'\n' | b'\r' | b'\t')).count();
    if head.contains(&0) || odd * 50 > head.len() {
        return Err(binary("it holds bytes that no text has"));
    }
    // A head that ends in the middle of a line says nothing about that line, unless it is the only one.
    let whole = match memchr::memrchr(b'\n', head) {
        Some(end) if head.len() + 3 >= HEAD => &head[..=end],
        _ => head,
    };
    // MovieLens titles are Latin-1; for guessing columns the odd letter does not matter.
    Ok(String::from_utf8_lossy(whole).into_owned())
}

fn is_gorse(line: &str) -> bool {
    serde_json::from_str::<Map<String, Value>>(line)
        .is_ok_and(|m| ["FeedbackType", "UserId", "ItemId"].iter().any(|k| m.contains_key(*k)))
}

fn gorse_plan(source: &Source) -> FilePlan {
    file_plan(source, Role::Events, Layout::Gorse, "view", Vec::new(), Vec::new())
}

/// `name:type` in every column.
fn is_recbole(line: &str) -> bool {
    const TYPES: [&str; 4] = ["token", "token_seq", "float", "float_seq"];
    line.trim_end()
        .split('\t')
        .all(|c| c.rsplit_once(':').is_some_and(|(n, t)| !n.is_empty() && TYPES.contains(&t)))
}

/// Lines of ids between blanks, not all of one length, or with a user of its own on each line.
fn is_list(head: &str) -> bool {
    let mut lines = 0;
    let mut odd = 0;
    let mut widths = BTreeSet::new();
    let mut users = BTreeSet::new();
    for line in head.lines().take(ROWS) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let Some(user) = words.first() else { continue };
        lines += 1;
        widths.insert(words.len());
        users.insert((*user).to_owned());
        // Prose has words without digits; ids have digits, or the line would be a header of a table.
        let digits = words.iter().filter(|w| w.bytes().any(|b| b.is_ascii_digit())).count();
        odd += usize::from(
            digits * 10 < words.len() * 9 || line.contains([',', ';', '|', '{', '"']) || line.contains("::"),
        );
    }
    lines > 0
        && odd * 20 <= lines
        && users.len() == lines
        && widths.iter().any(|&w| w > 2)
        && (widths.len() > 1 || lines == 1 || widths.iter().all(|&w| w > 4) || !head.contains('\t'))
}

/// A test part with the same, large number of ids on each line is a list of candidates.
fn is_candidates(head: &str, split: Option<&(Part, String)>) -> bool {
    let widths: BTreeSet<usize> = head.lines().take(ROWS).map(|l| l.split('\t').count()).collect();
    matches!(split, Some((Part::Test | Part::Valid, _)))
        && widths.len() == 1
        && widths.iter().all(|&w| w >= 20)
}

fn json(source: &Source, options: &ImportOptions, head: &str, split: Split) -> Result<Look, ImportError> {
    let mut header: Vec<String> = Vec::new();
    let mut objects = Vec::new();
    let mut first_error = None;
    for line in head.lines().filter(|l| !l.trim().is_empty()).take(ROWS) {
        match serde_json::from_str::<Map<String, Value>>(line) {
            Ok(object) => {
                for key in object.keys() {
                    if !header.contains(key) {
                        header.push(key.clone());
                    }
                }
                objects.push(object);
            }
            Err(e) => first_error = first_error.or(Some(e)),
        }
    }
    if objects.is_empty() {
        let reason = first_error.map_or_else(String::new, |e| e.to_string());
        return Err(ImportError::Unreadable {
            file: source.name(),
            reason: format!(
                "expected one JSON object a line, and no line at the beginning is one ({reason})"
            ),
        });
    }
    let rows: Vec<Vec<String>> = objects
        .iter()
        .map(|o| {
            header
                .iter()
                .map(|k| match o.get(k) {
                    None | Some(Value::Null | Value::Array(_) | Value::Object(_)) => String::new(),
                    Some(Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                })
                .collect()
        })
        .collect();
    let mut look = table(source, options, Layout::Json, &header, &rows, split)?;
    if let Look::Plan(file, _) = &mut look {
        add_own_keys(file, &header);
    }
    Ok(look)
}

/// Keys of our own format may come later than the rows that were looked at.
fn add_own_keys(file: &mut FilePlan, header: &[String]) {
    let own = if file.role == Role::Events {
        vec![
            ("kind", Field::Kind),
            ("at", Field::At(TimeUnit::Iso)),
            ("value", Field::Value),
            ("id", Field::Id),
            ("slate", Field::Slate),
            ("position", Field::Position),
            ("session", Field::Session),
            ("context", Field::Bag),
            ("text", Field::Text),
        ]
    } else {
        vec![
            ("hidden", Field::Hidden),
            ("expires", Field::Expires(TimeUnit::Iso)),
            ("at", Field::At(TimeUnit::Iso)),
            ("properties", Field::Bag),
        ]
    };
    for (key, field) in own {
        let taken =
            file.columns.iter().any(|c| std::mem::discriminant(&c.field) == std::mem::discriminant(&field));
        if !taken
            && !header.iter().any(|k| k == key)
            && (file.role != Role::Users || !matches!(key, "hidden" | "expires"))
        {
            file.columns.push(Column::new(key, Column::LATER, field));
        }
    }
}

fn recbole(source: &Source, options: &ImportOptions, head: &str, split: Split) -> Result<Look, ImportError> {
    let typed: Vec<String> = head
        .lines()
        .next()
        .unwrap_or_default()
        .trim_end_matches('\r')
        .split('\t')
        .map(str::to_owned)
        .collect();
    let names: Vec<String> =
        typed.iter().map(|t| t.rsplit_once(':').map_or(t.as_str(), |(name, _)| name).to_owned()).collect();
    let stem = source.stem();
    let role = match stem.rsplit('.').next() {
        Some("inter") => Role::Events,
        Some("item") => Role::Items,
        Some("user") => Role::Users,
        Some("kg" | "link" | "net") => {
            return Ok(Look::Unread("relations between items are not read yet".into()));
        }
        _ => match columns::role_of(&names, &stem) {
            Some(role) => role,
            None => return Ok(Look::Unread("relations between items are not read yet".into())),
        },
    };
    let (_, rows) = records(head, b'\t', false);
    let rows = rows.get(1..).unwrap_or_default();
    let sample = Sample { header: &names, rows };
    let (mut columns, unread) = assign(source, role, &sample, options, true)?;
    for column in &mut columns {
        let kind = typed[column.index].rsplit_once(':').map_or("", |(_, kind)| kind);
        if let Field::Property(_, property) = &mut column.field {
            *property = match kind {
                "token_seq" => columns::PropertyKind::List(" ".into()),
                "float_seq" => columns::PropertyKind::Numbers(" ".into()),
                "float" => columns::PropertyKind::Number,
                _ => columns::PropertyKind::Text,
            };
        }
    }
    let layout = Layout::Delimited { separator: "\t".into(), quotes: false, header: true, latin1: false };
    let kind = kind_for(options, &columns);
    let mut file = file_plan(source, role, layout, &kind, columns, unread);
    file.part = split.as_ref().map_or(Part::Whole, |s| s.0);
    Ok(Look::Plan(Box::new(file), split))
}

/// Rows of a delimited head, and how many of them have the usual number of fields (and what that is).
fn records(head: &str, separator: u8, quotes: bool) -> ((usize, usize), Vec<Vec<String>>) {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(separator)
        .quoting(quotes)
        .flexible(true)
        .has_headers(false)
        .from_reader(head.as_bytes());
    let rows: Vec<Vec<String>> = reader
        .records()
        .take(ROWS)
        .filter_map(Result::ok)
        .map(|r| r.iter().map(str::to_owned).collect())
        .collect();
    let mut widths: BTreeMap<usize, usize> = BTreeMap::new();
    for row in &rows {
        *widths.entry(row.len()).or_default() += 1;
    }
    let usual = widths.into_iter().max_by_key(|&(_, n)| n).unwrap_or((0, 0));
    (usual, rows)
}

fn delimited(
    source: &Source,
    options: &ImportOptions,
    head: &str,
    split: Split,
) -> Result<Look, ImportError> {
    let (separator, rows) = separated(options, head);
    let Some(first) = rows.first() else {
        return Err(ImportError::Empty { file: source.name() });
    };
    let header = has_header(&rows, &source.stem(), options);
    let layout = Layout::Delimited {
        quotes: matches!(separator.as_str(), "," | ";" | "\t") || (separator == "|" && header),
        separator,
        header,
        latin1: false,
    };
    if header {
        return table(source, options, layout, first, &rows[1..], split);
    }
    let numbers: Vec<String> = (1..=first.len()).map(|n| n.to_string()).collect();
    if options.map.is_empty() {
        return headerless(source, options, layout, &numbers, &rows, split);
    }
    table(source, options, layout, &numbers, &rows, split)
}

/// The separator that cuts most rows into the same number of fields, and the rows it makes.
fn separated(options: &ImportOptions, head: &str) -> (String, Vec<Vec<String>>) {
    match options.format {
        Some(Format::Csv) => return (",".into(), records(head, b',', true).1),
        Some(Format::Tsv) => return ("\t".into(), records(head, b'\t', true).1),
        _ => {}
    }
    let lines: Vec<&str> = head.lines().filter(|l| !l.trim().is_empty()).take(ROWS).collect();
    if lines.iter().filter(|l| l.contains("::")).count() * 10 >= lines.len() * 9 {
        let rows = lines.iter().map(|l| l.split("::").map(str::to_owned).collect()).collect();
        return ("::".into(), rows);
    }
    let mut best = (0.0, ",".to_owned(), records(head, b',', true).1);
    for separator in [b',', b'\t', b';', b'|', b' '] {
        let ((width, rows_of_width), rows) = records(head, separator, separator != b' ');
        if width < 2 || rows.is_empty() {
            continue;
        }
        // A blank separates words of text too; it must cut every row alike.
        let share = rows_of_width as f64 / rows.len() as f64;
        if separator == b' ' && (share < 1.0 || width > 4) {
            continue;
        }
        if share > best.0 + 0.05 {
            best = (share, char::from(separator).to_string(), rows);
        }
    }
    (best.1, best.2)
}

fn is_number(text: &str) -> bool {
    text.trim().parse::<f64>().is_ok()
}

/// Whether the first row names columns: it names a user or item, or `--map` uses its names, or it has no number
/// where the rows below have some.
fn has_header(rows: &[Vec<String>], stem: &str, options: &ImportOptions) -> bool {
    let first = &rows[0];
    if columns::role_of(first, stem).is_some()
        || options.map.values().any(|c| !is_number(c) && first.contains(c))
    {
        return true;
    }
    if first.iter().any(|c| is_number(c)) {
        return false;
    }
    let below_has_numbers = rows[1..].iter().any(|r| r.iter().any(|c| is_number(c)));
    below_has_numbers || options.map.is_empty() || options.map.values().any(|c| !is_number(c))
}

/// Without a header only the usual order is guessed: user, item, then a value or a time, then a time.
fn headerless(
    source: &Source,
    options: &ImportOptions,
    layout: Layout,
    numbers: &[String],
    rows: &[Vec<String>],
    split: Split,
) -> Result<Look, ImportError> {
    let sample = Sample { header: numbers, rows };
    let unit = |c: usize| sample.unit(c).filter(|u| *u != TimeUnit::Order);
    let numeric = |c: usize| rows.iter().all(|r| r.get(c).is_none_or(|v| is_number(v)));
    let mut columns = vec![Column::new("1", 0, Field::User), Column::new("2", 1, Field::Item)];
    let mut understood = (2..=4).contains(&numbers.len());
    for c in 2..numbers.len().min(4) {
        let field = match unit(c) {
            Some(unit) if !columns.iter().any(|c| matches!(c.field, Field::At(_))) => Field::At(unit),
            None if c == 2 && numeric(c) => Field::Value,
            _ => {
                understood = false;
                continue;
            }
        };
        columns.push(Column::new(&numbers[c], c, field));
    }
    if !understood {
        return Err(unknown(source, numbers, rows.first(), &[], &["user", "item"], false));
    }
    let kind = options.kind.clone().unwrap_or_else(|| {
        if columns.iter().any(|c| c.field == Field::Value) { "rating" } else { "view" }.into()
    });
    let mut file = file_plan(source, Role::Events, layout, &kind, columns, Vec::new());
    file.part = split.as_ref().map_or(Part::Whole, |s| s.0);
    Ok(Look::Plan(Box::new(file), split))
}

/// A file whose columns have names.
fn table(
    source: &Source,
    options: &ImportOptions,
    layout: Layout,
    header: &[String],
    rows: &[Vec<String>],
    split: Split,
) -> Result<Look, ImportError> {
    let named = header.iter().enumerate().any(|(c, name)| *name != (c + 1).to_string());
    let mapped =
        |field: &str| options.map.get(field).is_some_and(|c| header.contains(c) || (!named && is_number(c)));
    let role = match (mapped("user"), mapped("item"), columns::role_of(header, &source.stem())) {
        (true, true, _) | (true, _, Some(Role::Items)) | (_, true, Some(Role::Users)) => Role::Events,
        (true, false, None) => Role::Users,
        (false, true, None) => Role::Items,
        (_, _, Some(role)) => role,
        (false, false, None) => {
            return Err(unknown(source, header, None, &[], &["user", "item"], named));
        }
    };
    let sample = Sample { header, rows };
    let (columns, unread) = assign(source, role, &sample, options, named)?;
    let kind = kind_for(options, &columns);
    let mut file = file_plan(source, role, layout, &kind, columns, unread);
    let split = split.filter(|_| role == Role::Events);
    file.part = split.as_ref().map_or(Part::Whole, |s| s.0);
    Ok(Look::Plan(Box::new(file), split))
}

fn assign(
    source: &Source,
    role: Role,
    sample: &Sample<'_>,
    options: &ImportOptions,
    named: bool,
) -> Result<(Vec<Column>, Vec<String>), ImportError> {
    let (columns, unread) = columns::assign(role, sample, &options.map)
        .map_err(|p| ImportError::Option(format!("--map: {}", p.join("; "))))?;
    let missing = columns::missing(role, &columns);
    if missing.is_empty() {
        Ok((columns, unread))
    } else {
        Err(unknown(source, sample.header, None, &columns, &missing, named))
    }
}

fn unknown(
    source: &Source,
    header: &[String],
    example: Option<&Vec<String>>,
    columns: &[Column],
    missing: &[&str],
    named: bool,
) -> ImportError {
    let mut shown: Vec<String> = header
        .iter()
        .enumerate()
        .take(20)
        .map(|(c, name)| match example.and_then(|e| e.get(c)) {
            Some(value) => format!("{name} (as in `{}`)", super::batch::shown(value)),
            None => super::batch::shown(name),
        })
        .collect();
    if header.len() > shown.len() {
        shown.push(format!("… and {} more", header.len() - shown.len()));
    }
    ImportError::UnknownColumns {
        file: source.name(),
        missing: missing.join(" and "),
        columns: shown.join(", "),
        suggestion: columns::suggestion(header, columns, missing, named),
    }
}

/// The kind of events that name none: told, or `rating` where the value is a rating.
fn kind_for(options: &ImportOptions, columns: &[Column]) -> String {
    if let Some(kind) = &options.kind {
        return kind.clone();
    }
    let rated = columns.iter().any(|c| {
        c.field == Field::Value
            && matches!(
                plain(&c.name).as_str(),
                "rating" | "ratings" | "score" | "stars" | "star" | "overall" | "bookrating"
            )
    });
    if rated { "rating" } else { "view" }.into()
}
