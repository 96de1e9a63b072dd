//! Puts the files of a folder together: which hold the events, which split is meant, what stays unread.

use super::columns::Field;
use super::detect::{Split, ends};
use super::plan::{FilePlan, Layout, Part, Plan, Role};
use super::times::TimeUnit;
use super::{Format, ImportError, ImportOptions};
use crate::rules::Condition;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Puts the files together: which are the events, which split is meant, what stays unread.
pub fn assemble(
    path: &Path,
    options: &ImportOptions,
    given: Option<&str>,
    looks: Vec<(FilePlan, Split)>,
    mut unread: Vec<String>,
) -> Result<Plan, ImportError> {
    let mut main = Vec::new();
    let mut tables = Vec::new();
    let mut splits: BTreeMap<String, Vec<FilePlan>> = BTreeMap::new();
    for (file, split) in looks {
        match (file.role, split) {
            (Role::Events | Role::Candidates, Some((_, name))) => splits.entry(name).or_default().push(file),
            (Role::Events, None) => main.push(file),
            _ => tables.push(file),
        }
    }
    let folder = || path.display().to_string();
    let has = |files: &[FilePlan], part: Part| files.iter().any(|f| f.part == part);
    let mut guesses = Vec::new();
    let only_file = main.len() + tables.len() + splits.values().map(Vec::len).sum::<usize>() == 1;

    // A single file is what it is, whatever its name.
    if only_file && given.is_none() && path.is_file() {
        let mut file = main.pop().or_else(|| tables.pop()).or_else(|| splits.into_values().flatten().next());
        if let Some(file) = &mut file {
            if file.role == Role::Candidates {
                return Err(ImportError::Option(format!(
                    "{} holds fixed candidates of a test; give the folder that also holds the training part",
                    file.source
                )));
            }
            file.part = Part::Whole;
        }
        return finish(path, options, file.into_iter().collect(), guesses, unread);
    }

    tables.extend(beside(&mut main));
    let main = choose_main(main, &folder, &mut unread)?;
    let chosen = match given {
        Some(name) => {
            if !splits.contains_key(name) {
                let names: Vec<&str> = splits.keys().map(String::as_str).collect();
                return Err(ImportError::Option(format!(
                    "{} has no split `{name}`; it has: {}",
                    folder(),
                    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
                )));
            }
            Some(name.to_owned())
        }
        None if main.is_empty() => {
            let whole: Vec<&String> =
                splits.iter().filter(|(_, f)| has(f, Part::Train)).map(|(n, _)| n).collect();
            match whole.as_slice() {
                [] => None,
                [one] => Some((*one).clone()),
                many if many.iter().any(|n| n.is_empty()) => Some(String::new()),
                many => {
                    let names: Vec<&str> = many.iter().map(|n| n.as_str()).collect();
                    return Err(ImportError::Option(format!(
                        "{} holds several splits: {}. Choose one with --given NAME",
                        folder(),
                        names.join(", ")
                    )));
                }
            }
        }
        // One lone test part beside the events is the test of these events.
        None => {
            let lone: Vec<&String> =
                splits.iter().filter(|(_, f)| !has(f, Part::Train)).map(|(n, _)| n).collect();
            if let [one] = lone.as_slice() { Some((*one).clone()) } else { None }
        }
    };

    let mut events = Vec::new();
    let mut tables_fit = true;
    match chosen {
        Some(name) => {
            let files = splits.remove(&name).unwrap_or_default();
            if has(&files, Part::Train) {
                // Another file of the same kind shows that the split numbers items as the tables do.
                tables_fit = main.is_empty()
                    || main.iter().any(|m| files.iter().any(|f| same_table(f, m) && !f.columns.is_empty()));
                unread.extend(main.iter().map(|f| format!("{}: the split `{name}` was asked for", f.source)));
            } else {
                events.extend(main);
                guesses.push(format!(
                    "{} is the test part of these events",
                    files.iter().map(|f| f.source.name()).collect::<Vec<_>>().join(", ")
                ));
            }
            events.extend(files);
        }
        None => events = main,
    }
    if !splits.is_empty() {
        let names: Vec<String> =
            splits.keys().map(|n| if n.is_empty() { "train/test".to_owned() } else { n.clone() }).collect();
        unread.push(format!("splits that came with the files: {} (--given NAME)", names.join(", ")));
    }
    if !tables_fit {
        unread.extend(
            tables.drain(..).map(|f| format!("{}: the split may number items in its own way", f.source)),
        );
    }
    events.sort_by_key(|f| f.part as u8);
    tables.sort_by_key(|f| (f.role as u8, order_of_table(f)));
    // Pictures alone are no data set.
    if events.is_empty() && (tables.iter().all(|f| f.role == Role::Images)) {
        let details = unread.iter().map(|u| format!("  {u}")).collect::<Vec<_>>().join("\n");
        return Err(ImportError::NoEvents { folder: folder(), details });
    }
    if events.is_empty() {
        guesses.push("no file holds events; only the catalogue is read".into());
    }
    events.extend(tables);
    finish(path, options, events, guesses, unread)
}

/// Tables with a title come first: the first file that says something is believed.
fn order_of_table(file: &FilePlan) -> bool {
    !file.columns.iter().any(|c| matches!(&c.field, Field::Property(name, _) if name == "title"))
}

fn same_table(a: &FilePlan, b: &FilePlan) -> bool {
    a.layout == b.layout && a.columns == b.columns
}

/// Takes out lists of candidates that lie beside the sequences they belong to: `x_sample.txt` beside `x.txt`.
fn beside(main: &mut Vec<FilePlan>) -> Vec<FilePlan> {
    const NAMES: [&str; 3] = ["_sample", "_negatives", "_candidates"];
    let lists: Vec<String> =
        main.iter().filter(|f| f.layout == Layout::List).map(|f| f.source.stem()).collect();
    let belongs = |file: &FilePlan| {
        let stem = file.source.stem();
        let (name, end) = stem.rsplit_once('.').unwrap_or((&stem, ""));
        let of = NAMES.iter().find_map(|n| name.strip_suffix(n));
        of.is_some_and(|of| file.layout == Layout::List && lists.contains(&format!("{of}.{end}")))
    };
    let (mut found, rest): (Vec<FilePlan>, Vec<FilePlan>) = main.drain(..).partition(belongs);
    *main = rest;
    for file in &mut found {
        (file.role, file.layout) = (Role::Candidates, Layout::Others);
    }
    found
}

/// The files that hold the events, of all that could.
fn choose_main(
    mut main: Vec<FilePlan>,
    folder: &dyn Fn() -> String,
    unread: &mut Vec<String>,
) -> Result<Vec<FilePlan>, ImportError> {
    const HINTS: [&str; 12] = [
        "ratings",
        "u.data",
        ".inter",
        "interactions",
        "events",
        "feedback",
        "sequences",
        "sequential",
        "reviews",
        "clicks",
        "transactions",
        "rating",
    ];
    // Files with one and the same header are parts of one table; without a header likeness says nothing.
    let one_table = |f: &FilePlan| {
        same_table(f, &main[0]) && !matches!(f.layout, Layout::List | Layout::Delimited { header: false, .. })
    };
    if main.len() <= 1 || main.iter().all(one_table) {
        return Ok(main);
    }
    let rank = |f: &FilePlan| {
        let stem = f.source.stem();
        HINTS.iter().position(|h| stem.contains(h)).unwrap_or(usize::MAX)
    };
    main.sort_by_key(&rank);
    let best = rank(&main[0]);
    let chosen = main.iter().filter(|f| rank(f) == best).count();
    let clear = best != usize::MAX && main[..chosen].iter().all(|f| same_table(f, &main[0]));
    if !clear {
        let names: Vec<String> = main.iter().map(|f| f.source.name()).collect();
        return Err(ImportError::Ambiguous { folder: folder(), files: names.join(", ") });
    }
    for other in main.drain(chosen..) {
        unread.push(format!("{}: {} looks more like the events", other.source, HINTS[best]));
    }
    Ok(main)
}

fn finish(
    path: &Path,
    options: &ImportOptions,
    files: Vec<FilePlan>,
    mut guesses: Vec<String>,
    unread: Vec<String>,
) -> Result<Plan, ImportError> {
    for (field, column) in &options.map {
        let used = files.iter().any(|f| {
            f.columns.iter().any(|c| c.name == *column || (c.index.wrapping_add(1)).to_string() == *column)
        });
        if !used {
            let names: BTreeSet<String> = files
                .iter()
                .flat_map(|f| f.columns.iter().map(|c| c.name.clone()).chain(f.unread.iter().cloned()))
                .collect();
            return Err(ImportError::Option(format!(
                "--map {field}={column}: there is no column `{column}`; the columns are {}",
                names.into_iter().collect::<Vec<_>>().join(", ")
            )));
        }
    }
    let format = options.format.unwrap_or_else(|| format_of(&files));
    let lists = files.iter().any(|f| f.layout == Layout::List);
    let ordered = lists && (format == Format::Sequences);
    for file in &files {
        if let Layout::Delimited { header: false, .. } = file.layout
            && file.role == Role::Events
            && format != Format::Movielens
            && options.map.is_empty()
        {
            guesses.push(format!("{} has no header; its columns are taken in the usual order", file.source));
        }
        if file.role == Role::Events && file.columns.iter().any(|c| c.field == Field::At(TimeUnit::Order)) {
            guesses.push(format!("the times of {} are small numbers; only their order is used", file.source));
        }
    }
    let positive = match &options.positive {
        None => None,
        Some(text) => Some(positive(text, options, &files)?),
    };
    Ok(Plan {
        name: name_of(path),
        format,
        files,
        ordered,
        guesses,
        unread,
        positive,
        strict: options.strict,
        max_problems: options.max_problems,
    })
}

/// `rating>=4` as a rule on the value of a kind.
fn positive(
    text: &str,
    options: &ImportOptions,
    files: &[FilePlan],
) -> Result<(String, String), ImportError> {
    let condition = Condition::parse(text).ok_or_else(|| {
        ImportError::Option(format!("--positive must read like `rating>=4`, received `{text}`"))
    })?;
    let value = files.iter().flat_map(|f| &f.columns).find(|c| c.field == Field::Value);
    let known = matches!(condition.field.as_str(), "rating" | "value")
        || value.is_some_and(|c| c.name == condition.field);
    if !known || value.is_none() {
        let columns = value.map_or_else(|| "none".to_owned(), |c| format!("`{}`", c.name));
        return Err(ImportError::Option(format!(
            "--positive {text}: expected the column that holds values ({columns}), received `{}`",
            condition.field
        )));
    }
    let events = files.iter().find(|f| f.role == Role::Events);
    let kind =
        options.kind.clone().or_else(|| events.map(|f| f.kind.clone())).unwrap_or_else(|| "rating".into());
    let sign_and_number = &text[text.find(['<', '>', '=']).unwrap_or(0)..];
    Ok((kind, format!("value {}", sign_and_number.trim())))
}

fn format_of(files: &[FilePlan]) -> Format {
    let Some(first) = files.first() else { return Format::Csv };
    let stem = first.source.stem();
    match &first.layout {
        Layout::List if first.part == Part::Whole => Format::Sequences,
        Layout::List | Layout::Candidates | Layout::Others => Format::Pairs,
        Layout::Json => Format::Jsonl,
        Layout::Gorse => Format::Gorse,
        Layout::Parquet => Format::Parquet,
        Layout::Tar => Format::Csv,
        Layout::Delimited { separator, .. } => {
            let recbole = ["inter", "item", "user"].iter().any(|e| ends(&stem, e));
            let family = ["u.data", "u.item", "u.user", "ratings.dat", "movies.dat", "users.dat"]
                .contains(&stem.as_str())
                || files.iter().any(|f| f.source.stem() == "movies.csv" && f.columns.len() == 3)
                || (stem.starts_with('u') && (ends(&stem, "base") || ends(&stem, "test")));
            if family {
                Format::Movielens
            } else if recbole {
                Format::Recbole
            } else if separator == "," || separator == ";" {
                Format::Csv
            } else {
                Format::Tsv
            }
        }
    }
}

/// The folder's name, or the file's up to its first dot.
fn name_of(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = absolute.file_name().map_or_else(|| "data".to_owned(), |n| n.to_string_lossy().into_owned());
    if path.is_dir() {
        return name;
    }
    name.split('.').find(|p| !p.is_empty()).unwrap_or("data").to_owned()
}
