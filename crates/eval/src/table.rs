//! Runs as a table for a terminal: 80 columns, best values marked.

use crate::compare::Comparison;
use crate::report::{Report, Run};
use std::collections::BTreeSet;
use std::fmt::Write;

const WIDTH: usize = 80;

/// One row per run, in the report's order. `*` marks the best of a metric, `=` what a comparison (if given) cannot
/// tell from it. Metrics that do not fit beside each other follow in further tables.
pub fn table(report: &Report, comparison: Option<&Comparison>) -> String {
    let keys: BTreeSet<&String> = report.runs.iter().flat_map(|run| run.metrics.keys()).collect();
    let keys: Vec<&String> = keys.into_iter().collect();
    let longest = report.runs.iter().map(|run| run.recipe.chars().count()).max().unwrap_or(0);
    let name_width = longest.clamp("recipe".len(), 24);
    let seconds_width = 9;
    // Each metric takes a space, its value with a mark, and a rule.
    let width_of = |key: &str| key.chars().count().max(7) + 3;
    let room = WIDTH - (name_width + 4) - (seconds_width + 3);
    let mut out = String::new();
    let mut rest = &keys[..];
    while !rest.is_empty() {
        let mut used = 0;
        let fits = rest.iter().take_while(|key| {
            used += width_of(key);
            used <= room
        });
        let (now, later) = rest.split_at(fits.count().max(1));
        write_table(&mut out, report, comparison, now, name_width);
        rest = later;
    }
    out.push_str(&footer(report, comparison.is_some()));
    out
}

fn write_table(
    out: &mut String,
    report: &Report,
    comparison: Option<&Comparison>,
    keys: &[&String],
    name_width: usize,
) {
    let mut header = vec!["recipe".to_owned()];
    header.extend(keys.iter().map(|key| (*key).clone()));
    header.push("fit s".to_owned());
    let rows: Vec<Vec<String>> = report
        .runs
        .iter()
        .map(|run| {
            let mut row = vec![shorten(&run.recipe, name_width)];
            row.extend(keys.iter().map(|key| cell(report, run, key, comparison)));
            row.push(format!("{:.2}", run.seconds.fit));
            row
        })
        .collect();
    let widths: Vec<usize> = (0..header.len())
        .map(|c| rows.iter().chain([&header]).map(|row| row[c].chars().count()).max().unwrap_or(0))
        .collect();
    let rule = |left, middle, right| {
        let bars: Vec<String> = widths.iter().map(|w| "─".repeat(w + 2)).collect();
        format!("{left}{}{right}\n", bars.join(middle))
    };
    let line = |row: &[String]| {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells
            .map(|(c, (text, &w))| if c == 0 { format!(" {text:<w$} ") } else { format!(" {text:>w$} ") });
        format!("│{}│\n", cells.collect::<Vec<_>>().join("│"))
    };
    out.push_str(&rule("╭", "┬", "╮"));
    out.push_str(&line(&header));
    out.push_str(&rule("├", "┼", "┤"));
    for row in &rows {
        out.push_str(&line(row));
    }
    out.push_str(&rule("╰", "┴", "╯"));
}

fn cell(report: &Report, run: &Run, key: &str, comparison: Option<&Comparison>) -> String {
    let Some(&value) = run.metrics.get(key) else { return "–".to_owned() };
    let better = run.definitions.get(key).map(|d| d.definition.metric.higher_is_better());
    let of_others = report.runs.iter().filter_map(|r| r.metrics.get(key)).copied();
    let best = match better {
        Some(Some(false)) => value <= of_others.fold(f64::INFINITY, f64::min),
        Some(None) => false,
        _ => value >= of_others.fold(f64::NEG_INFINITY, f64::max),
    };
    let tested = |c: &&Comparison| c.differences.iter().any(|d| d.metric == key && d.other == run.recipe);
    let mark = match comparison.filter(tested) {
        _ if best && report.runs.len() > 1 => "*",
        Some(c) if c.ties_with_best(key, &run.recipe, 0.05) => "=",
        _ => " ",
    };
    // Shares print with four places; counts and bits need fewer.
    if value.abs() >= 10.0 { format!("{value:.1}{mark}") } else { format!("{value:.4}{mark}") }
}

fn shorten(name: &str, width: usize) -> String {
    if name.chars().count() <= width {
        return name.to_owned();
    }
    name.chars().take(width - 1).chain(['…']).collect()
}

/// The protocol, which no table may lack.
fn footer(report: &Report, compared: bool) -> String {
    let mut out = String::new();
    if let Some(run) = report.runs.first() {
        let _ = writeln!(
            out,
            "{}: {} users, {} items, {} events",
            run.dataset.name, run.dataset.users, run.dataset.items, run.dataset.events
        );
        if let Some(d) = run.definitions.values().next().map(|d| &d.definition) {
            let seen = if d.seen_removed { "seen items removed" } else { "seen items kept" };
            let _ = writeln!(
                out,
                "split {}, {} part, {} users asked\nranking {}, {seen}; {} definitions",
                d.split, d.on, d.users, d.candidates, d.profile
            );
        }
    }
    if report.runs.len() > 1 {
        out.push_str("* best");
        out.push_str(if compared { "   = not told apart from it (sign flips, Holm, 5 %)\n" } else { "\n" });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::run;

    #[test]
    fn it_lines_up_within_eighty_columns_and_names_the_protocol() {
        let long = "a recipe with a name that goes on and on";
        let keys =
            ["recall@10", "recall@20", "ndcg@10", "ndcg@20", "precision@10", "mrr@10", "popularity@10"];
        let values = |v: f64| keys.iter().map(|&k| (k, v)).collect::<Vec<_>>();
        let report = Report { runs: vec![run("ease", &values(0.2)), run(long, &values(123.456))] };
        let text = table(&report, None);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        for part in
            ["0.2000 ", "123.5*", "a recipe with a name th…", "split loo", "2 users", "* best", "all items"]
        {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let widths: Vec<usize> = text.lines().take(5).map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|w| *w == widths[0]), "{text}");
        assert!(!table(&report, None).contains("popularity@10 *"));
    }

    #[test]
    fn nothing_measured_is_no_panic() {
        assert_eq!(table(&Report::default(), None), "");
        assert!(table(&Report { runs: vec![run("ease", &[])] }, None).contains("4 events"));
    }
}
