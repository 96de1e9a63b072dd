//! Runs as an SVG bar chart: one panel per metric, one bar per run, whiskers for the 95 % intervals.

use crate::report::{Report, Run};
use std::fmt::Write;

const LEFT: f64 = 170.0;
const RIGHT: f64 = 80.0;
const WIDTH: f64 = 760.0;
const BAR: f64 = 18.0;
const STEP: f64 = 26.0;
const HEAD: f64 = 40.0;
/// Bars of the best run, of the others; text, faint text, rules.
const BEST: &str = "#7b2d43";
const OTHER: &str = "#c9a5ae";
const INK: &str = "#2b2326";
const FAINT: &str = "#7d7276";
const RULE: &str = "#e7dfe1";

/// Draws the metrics named by `keys` that any run has, runs in the report's order.
pub fn svg_chart(report: &Report, keys: &[&str], title: &str) -> String {
    let keys: Vec<&&str> =
        keys.iter().filter(|k| report.runs.iter().any(|r| r.metrics.contains_key(**k))).collect();
    let panel = HEAD + report.runs.len() as f64 * STEP + 34.0;
    let height = 70.0 + keys.len() as f64 * panel + 24.0;
    let mut out = String::new();
    let _ = write!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="Georgia, 'Liberation Serif', serif" role="img"><title>{title}</title><rect width="100%" height="100%" fill="#fffdfb"/>"##,
        title = escape(title),
    );
    text(&mut out, 24.0, 38.0, 20.0, INK, "start", title);
    if let Some(caption) = caption(report) {
        text(&mut out, 24.0, 58.0, 12.0, FAINT, "start", &caption);
    }
    for (n, key) in keys.iter().enumerate() {
        draw_panel(&mut out, report, key, 70.0 + n as f64 * panel);
    }
    out.push_str("</svg>\n");
    out
}

fn draw_panel(out: &mut String, report: &Report, key: &str, top: f64) {
    let high = |run: &Run| {
        let interval = run.definitions.get(key).and_then(|d| d.high);
        run.metrics.get(key).map_or(0.0, |v| v.max(interval.unwrap_or(*v)))
    };
    let (step, most) = ticks(report.runs.iter().map(high).fold(0.0, f64::max));
    let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * (value / most).clamp(0.0, 1.0);
    let bottom = top + HEAD + report.runs.len() as f64 * STEP;
    text(out, 24.0, top + 24.0, 15.0, INK, "start", key);
    let mut value = 0.0;
    while value <= most * 1.0001 {
        let at = x(value);
        let _ = write!(
            out,
            r#"<line x1="{at:.1}" x2="{at:.1}" y1="{:.1}" y2="{bottom:.1}" stroke="{RULE}"/>"#,
            top + HEAD - 6.0
        );
        text(out, at, bottom + 14.0, 11.0, FAINT, "middle", &short(value));
        value += step;
    }
    let best = best(report, key);
    for (n, run) in report.runs.iter().enumerate() {
        let y = top + HEAD + n as f64 * STEP;
        text(out, LEFT - 10.0, y + 13.5, 13.0, INK, "end", &clip(&run.recipe, 22));
        let Some(&value) = run.metrics.get(key) else {
            text(out, LEFT + 6.0, y + 13.5, 12.0, FAINT, "start", "not measured");
            continue;
        };
        let fill = if best == Some(n) { BEST } else { OTHER };
        let _ = write!(
            out,
            r#"<rect x="{LEFT}" y="{y:.1}" width="{:.1}" height="{BAR}" rx="2" fill="{fill}"/>"#,
            x(value) - LEFT
        );
        let mut end = x(value);
        if let Some((low, high)) = run.definitions.get(key).and_then(|d| Some((d.low?, d.high?))) {
            let (a, b, middle) = (x(low), x(high), y + BAR / 2.0);
            let _ = write!(
                out,
                r#"<path d="M{a:.1} {middle:.1}H{b:.1}M{a:.1} {:.1}v8M{b:.1} {:.1}v8" stroke="{INK}" fill="none"/>"#,
                middle - 4.0,
                middle - 4.0
            );
            end = end.max(b);
        }
        text(out, end + 7.0, y + 13.5, 12.0, INK, "start", &exact(value));
    }
}

fn best(report: &Report, key: &str) -> Option<usize> {
    let better =
        report.runs.iter().find_map(|r| r.definitions.get(key))?.definition.metric.higher_is_better()?;
    let sign = if better { 1.0 } else { -1.0 };
    let value = |n: &usize| report.runs[*n].metrics.get(key).map_or(f64::NEG_INFINITY, |v| sign * v);
    (0..report.runs.len()).max_by(|a, b| value(a).total_cmp(&value(b)))
}

/// A round step that cuts 0 to `most` into four to eight parts, and the end of the axis.
fn ticks(most: f64) -> (f64, f64) {
    if !(most > 0.0 && most.is_finite()) {
        return (0.25, 1.0);
    }
    let rough = most / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|s| s * power).find(|s| *s >= rough).unwrap_or(rough);
    (step, (most / step).ceil() * step)
}

fn caption(report: &Report) -> Option<String> {
    let run = report.runs.first()?;
    let definition = &run.definitions.values().next()?.definition;
    let seen = if definition.seen_removed { "seen removed" } else { "seen kept" };
    Some(format!(
        "{}: {} users, {} items · split {} ({}) · {} asked · ranking {}, {seen} · 95 % bootstrap intervals over users",
        run.dataset.name,
        run.dataset.users,
        run.dataset.items,
        definition.split,
        definition.on,
        definition.users,
        definition.candidates
    ))
}

fn text(out: &mut String, x: f64, y: f64, size: f64, fill: &str, anchor: &str, words: &str) {
    let _ = write!(
        out,
        r#"<text x="{x:.1}" y="{y:.1}" font-size="{size}" fill="{fill}" text-anchor="{anchor}">{}</text>"#,
        escape(words)
    );
}

/// Four places, as tables print.
fn exact(value: f64) -> String {
    if value.abs() >= 10.0 { format!("{value:.1}") } else { format!("{value:.4}") }
}

/// The same without idle zeros, for axes.
fn short(value: f64) -> String {
    exact(value).trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn clip(name: &str, most: usize) -> String {
    if name.chars().count() <= most {
        name.to_owned()
    } else {
        name.chars().take(most - 1).chain(['…']).collect()
    }
}

fn escape(words: &str) -> String {
    let mut out = String::with_capacity(words.len());
    for c in words.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // Control characters are not allowed in XML at all.
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::run;

    #[test]
    fn axes_are_round() {
        assert_eq!(ticks(0.37), (0.1, 0.4));
        assert_eq!(ticks(0.19), (0.05, 0.2));
        assert_eq!(ticks(0.0), (0.25, 1.0));
        let (step, most) = ticks(9.0);
        assert!((3.0..=8.0).contains(&(most / step)) && most >= 9.0);
    }

    #[test]
    fn it_draws_every_run_and_escapes_names() {
        let report = Report { runs: vec![run("<ease>", &[("ndcg@10", 0.3)]), run("ials & co", &[])] };
        let svg = svg_chart(&report, &["ndcg@10", "map@10"], "Five \u{1} items");
        assert!(
            svg.contains("&lt;ease&gt;") && svg.contains("ials &amp; co") && svg.contains("not measured")
        );
        assert!(!svg.contains("map@10") && !svg.contains('\u{1}'));
        assert_eq!(svg.matches("<rect x=").count(), 1);
        assert_eq!(svg.matches(BEST).count(), 1);
    }
}
