//! Loss and validation over the epochs as an SVG chart: two panels, one below the other.

use super::History;
use std::fmt::Write;

const WIDTH: f64 = 720.0;
const PANEL: f64 = 190.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const INK: &str = "#2b2326";
const FAINT: &str = "#7d7276";
const RULE: &str = "#e7dfe1";
const LINE: &str = "#7b2d43";

/// The chart of a run; of one without epochs, an empty frame.
pub fn curves(history: &History) -> String {
    let loss: Vec<(usize, f64)> = history.epochs.iter().map(|r| (r.epoch, r.loss)).collect();
    let valid: Vec<(usize, f64)> =
        history.epochs.iter().filter_map(|r| r.validation.map(|v| (r.epoch, v))).collect();
    let mut panels = vec![("loss", loss, None)];
    if !valid.is_empty() {
        panels.push((history.metric.as_str(), valid, history.best));
    }
    let last = history.epochs.last().map_or(1, |r| r.epoch);
    let height = panels.len() as f64 * PANEL + 20.0;
    let mut out = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="Georgia, 'Liberation Serif', serif" role="img"><title>Training</title><rect width="100%" height="100%" fill="#fffdfb"/>"##
    );
    for (n, (name, points, best)) in panels.iter().enumerate() {
        panel(&mut out, name, points, *best, last, n as f64 * PANEL);
    }
    out.push_str("</svg>\n");
    out
}

fn panel(out: &mut String, name: &str, points: &[(usize, f64)], best: Option<usize>, last: usize, top: f64) {
    let (y0, y1) = (top + 44.0, top + PANEL - 8.0);
    let name: String = name.chars().filter(|c| !matches!(c, '<' | '>' | '&' | '"')).collect();
    let _ = write!(out, r#"<text x="{LEFT}" y="{}" font-size="15" fill="{INK}">{name}</text>"#, top + 26.0);
    let low = points.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    if !low.is_finite() || !high.is_finite() {
        return;
    }
    let span = if high > low { high - low } else { 1.0 };
    let x = |epoch: usize| LEFT + (epoch - 1) as f64 / (last.max(2) - 1) as f64 * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| y1 - (value - low) / span * (y1 - y0);
    for value in [low, low + span / 2.0, low + span] {
        let _ = write!(
            out,
            r#"<line x1="{LEFT}" x2="{}" y1="{y:.1}" y2="{y:.1}" stroke="{RULE}"/><text x="{}" y="{:.1}" font-size="11" fill="{FAINT}" text-anchor="end">{value:.4}</text>"#,
            WIDTH - RIGHT,
            LEFT - 8.0,
            y(value) + 4.0,
            y = y(value),
        );
    }
    let path: Vec<String> = points.iter().map(|&(e, v)| format!("{:.1},{:.1}", x(e), y(v))).collect();
    let _ = write!(
        out,
        r#"<polyline points="{}" fill="none" stroke="{LINE}" stroke-width="1.8"/>"#,
        path.join(" ")
    );
    if let Some(&(epoch, value)) = best.and_then(|b| points.iter().find(|p| p.0 == b)) {
        let _ = write!(
            out,
            r#"<circle cx="{:.1}" cy="{:.1}" r="4" fill="{LINE}"/><text x="{}" y="{}" font-size="12" fill="{FAINT}" text-anchor="end">best {value:.4} in epoch {epoch}</text>"#,
            x(epoch),
            y(value),
            WIDTH - RIGHT,
            top + 26.0,
        );
    } else {
        let (epoch, value) = points[points.len() - 1];
        let _ = write!(
            out,
            r#"<text x="{}" y="{}" font-size="12" fill="{FAINT}" text-anchor="end">{value:.4} after epoch {epoch}</text>"#,
            WIDTH - RIGHT,
            top + 26.0,
        );
    }
}
