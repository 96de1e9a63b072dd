//! Covers: a typographic SVG for any item with a title, its colours and pattern chosen by genre, era and id.
//!
//! Three layouts (a framed panel, art above letters, letters above art), about twenty patterns that stand for
//! kinds of books, and sixteen palettes. The same item always gets the same cover. Titles are set by
//! `lettering`, which fits any text; nothing is loaded from anywhere.

use super::lettering::{Lettering, Space, fit, printable};
use serde_json::Value;
use sommelier_core::{Item, Rng};
use std::fmt::Write;

const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 600.0;
const SERIF: &str =
    "'Iowan Old Style','Palatino Linotype',Palatino,'Book Antiqua',Georgia,'Noto Serif',serif";
const SANS: &str = "'Avenir Next','Gill Sans','Helvetica Neue','Noto Sans',Arial,sans-serif";

/// Ground, letters, accent, and a tone near the ground for patterns behind letters.
#[derive(Debug, Clone, Copy)]
struct Palette {
    ground: &'static str,
    ink: &'static str,
    accent: &'static str,
    soft: &'static str,
}

const fn palette(
    ground: &'static str,
    ink: &'static str,
    accent: &'static str,
    soft: &'static str,
) -> Palette {
    Palette { ground, ink, accent, soft }
}

const PALETTES: [Palette; 16] = [
    palette("#14213d", "#f5efe0", "#fca311", "#27365c"), // 0 navy
    palette("#5b1a1a", "#f6e7d2", "#d9a441", "#752a27"), // 1 oxblood
    palette("#1f3b2d", "#f2ead3", "#c9a24b", "#2f5743"), // 2 bottle green
    palette("#f3e9d6", "#2b2118", "#b5402c", "#e0cba8"), // 3 cream
    palette("#0f4c5c", "#f7efe2", "#fb8b24", "#1d6779"), // 4 teal
    palette("#3c1f3f", "#f3e4ea", "#d98fa6", "#573159"), // 5 plum
    palette("#e0a526", "#2a1f0c", "#7a3416", "#f0c562"), // 6 mustard
    palette("#a9cfe0", "#12303f", "#c8394f", "#87b8cd"), // 7 sky
    palette("#1d1d22", "#ececec", "#cf4638", "#33333c"), // 8 charcoal
    palette("#c9d3b8", "#26331f", "#8a4b2a", "#aebd97"), // 9 sage
    palette("#e9c4bd", "#40201f", "#8c2f39", "#dba79d"), // 10 rose
    palette("#e8dcc2", "#1f3550", "#2f6690", "#d0bd98"), // 11 sand
    palette("#2b2d6e", "#f0ecff", "#ff9f80", "#41449a"), // 12 indigo
    palette("#3f4122", "#f1ecd4", "#e3b23c", "#575a31"), // 13 olive
    palette("#f7f3ea", "#1a1a1a", "#0b6e4f", "#e0d6c2"), // 14 paper
    palette("#a9492a", "#fbeede", "#f5cf8a", "#bf6746"), // 15 terracotta
];

/// What is drawn in the art: each stands for a kind of book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Motif {
    Waves,
    Peaks,
    Arches,
    Bars,
    Orbits,
    Petals,
    Meander,
    Curtain,
    Harlequin,
    Scallops,
    Geometry,
    Blocks,
    Chevrons,
    Confetti,
    Leaves,
    Contours,
    Rays,
    Windows,
    Stripes,
}

/// The look of a genre: a motif, and the palettes that suit it.
fn look(genre: &str) -> Option<(Motif, &'static [usize])> {
    Some(match genre.to_lowercase().as_str() {
        "sea" => (Motif::Waves, &[0, 4, 7, 11]),
        "adventure" | "action" | "travel" | "western" => (Motif::Peaks, &[4, 6, 15, 13, 11]),
        "gothic" | "horror" => (Motif::Arches, &[8, 5, 1, 0]),
        "mystery" | "crime" | "thriller" | "film-noir" => (Motif::Bars, &[8, 0, 1, 13]),
        "science fiction" | "sci-fi" | "fantasy" => (Motif::Orbits, &[12, 4, 0, 5]),
        "poetry" | "musical" | "music" => (Motif::Petals, &[10, 9, 14, 5]),
        "epic" | "history" => (Motif::Meander, &[15, 3, 1, 6]),
        "tragedy" | "religion" => (Motif::Rays, &[1, 8, 15, 0]),
        "drama" => (Motif::Curtain, &[1, 5, 3, 2]),
        "comedy" | "satire" => (Motif::Harlequin, &[6, 7, 14, 10]),
        "romance" => (Motif::Scallops, &[10, 5, 1, 9]),
        "philosophy" | "essays" | "science" => (Motif::Geometry, &[14, 11, 2, 3]),
        "modernism" | "psychological" => (Motif::Blocks, &[3, 11, 14, 12, 7]),
        "society" | "politics" => (Motif::Windows, &[2, 11, 13, 3]),
        "war" | "historical" => (Motif::Chevrons, &[13, 1, 8, 2]),
        "children's" | "animation" | "folk tales" | "fables" => (Motif::Confetti, &[6, 7, 9, 10]),
        "nature" => (Motif::Leaves, &[9, 2, 13, 14]),
        "memoir" | "biography" | "documentary" => (Motif::Contours, &[14, 3, 11, 9]),
        "short stories" => (Motif::Stripes, &[3, 7, 12, 9, 15]),
        _ => return None,
    })
}

/// The motif and palettes of an item that has no genre we know.
const PLAIN: [(Motif, &[usize]); 4] = [
    (Motif::Stripes, &[0, 2, 4, 12]),
    (Motif::Geometry, &[14, 11, 3, 9]),
    (Motif::Blocks, &[3, 7, 15, 12]),
    (Motif::Harlequin, &[6, 10, 2, 4]),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// A panel with a frame, in the middle of the pattern.
    Panel,
    /// Art in the upper part, letters below it.
    ArtAbove,
    /// Letters above, art in the lower part.
    ArtBelow,
}

/// The item's cover as an SVG document of 400 × 600 units: title (or id), author and year in our own design.
///
/// Reads the properties `title`, `author` (or `director`, `artist`, `brand`), `year` and `genres` (or
/// `categories`); all may be missing and hold any text.
pub fn cover(item: &Item) -> String {
    let title = item.title().filter(|t| t.chars().any(|c| !c.is_whitespace())).unwrap_or(&item.id);
    let author =
        ["author", "director", "artist", "brand"].iter().find_map(|key| text(item, key)).unwrap_or_default();
    let year = item.properties.get("year").and_then(Value::as_i64);
    let mut rng = Rng::new(fingerprint(&item.id));

    let genres = genres(item);
    let (motif, palettes) =
        genres.iter().find_map(|g| look(g)).unwrap_or_else(|| PLAIN[rng.below(PLAIN.len())]);
    let palette = PALETTES[palettes[rng.below(palettes.len())]];
    let layout = match year {
        Some(..=1600) => Layout::Panel,
        Some(1601..=1890) => [Layout::Panel, Layout::ArtAbove, Layout::Panel][rng.below(3)],
        _ => [Layout::ArtAbove, Layout::ArtBelow, Layout::ArtBelow][rng.below(3)],
    };

    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" aria-label=""#
    );
    escape(&mut svg, title);
    let _ = write!(svg, r#""><rect width="{WIDTH}" height="{HEIGHT}" fill="{}"/>"#, palette.ground);
    match layout {
        Layout::Panel => panel(&mut svg, palette, motif, &mut rng, title, &author, year),
        Layout::ArtAbove => art_above(&mut svg, palette, motif, &mut rng, title, &author, year),
        Layout::ArtBelow => art_below(&mut svg, palette, motif, &mut rng, title, &author, year),
    }
    // A shade along the hinge makes a rectangle a book.
    svg.push_str(concat!(
        r##"<rect width="9" height="600" fill="#000" opacity=".13"/>"##,
        r##"<rect x="9" width="2" height="600" fill="#fff" opacity=".12"/></svg>"##
    ));
    svg
}

fn panel(
    svg: &mut String,
    p: Palette,
    motif: Motif,
    rng: &mut Rng,
    title: &str,
    author: &str,
    year: Option<i64>,
) {
    // What is drawn in the middle would hide behind the panel.
    let motif = match motif {
        Motif::Petals => Motif::Leaves,
        Motif::Geometry => Motif::Contours,
        other => other,
    };
    draw(
        svg,
        motif,
        Art { x: 0.0, y: 0.0, w: WIDTH, h: HEIGHT, line: p.soft, fill: p.soft, back: p.ground },
        rng,
    );
    let (x, y, w, h) = (52.0, 112.0, 296.0, 376.0);
    let _ = write!(
        svg,
        r#"<rect x="{x}" y="{y}" width="{w}" height="{h}" fill="{}"/><rect x="{}" y="{}" width="{}" height="{}" fill="none" stroke="{}" stroke-width="2.5"/><rect x="{}" y="{}" width="{}" height="{}" fill="none" stroke="{}" stroke-width=".8"/>"#,
        p.ground,
        x + 9.0,
        y + 9.0,
        w - 18.0,
        h - 18.0,
        p.accent,
        x + 15.0,
        y + 15.0,
        w - 30.0,
        h - 30.0,
        p.accent,
    );
    let middle = WIDTH / 2.0;
    let set = fit(title, Space { width: 236.0, height: 196.0, largest: 58.0, smallest: 13.0, leading: 1.14 });
    let top = 246.0 - set.height() / 2.0 + 6.0;
    lines(
        svg,
        &set,
        middle,
        top,
        Style { fill: p.ink, family: SERIF, weight: 600, middle: true, spacing: 0.0 },
    );
    ornament(svg, middle, 374.0, p.accent, rng);
    let by = fit(author, Space { width: 232.0, height: 50.0, largest: 19.0, smallest: 9.0, leading: 1.25 });
    lines(
        svg,
        &by,
        middle,
        418.0 - by.height() / 2.0,
        Style { fill: p.ink, family: SERIF, weight: 400, middle: true, spacing: 0.0 },
    );
    if let Some(year) = year {
        let _ = write!(
            svg,
            r#"<text x="{middle}" y="462" font-family="{SERIF}" font-size="14" letter-spacing="2" fill="{}" text-anchor="middle">{}</text>"#,
            p.accent,
            era(year)
        );
    }
}

fn art_above(
    svg: &mut String,
    p: Palette,
    motif: Motif,
    rng: &mut Rng,
    title: &str,
    author: &str,
    year: Option<i64>,
) {
    clip(svg, 0.0, 0.0, WIDTH, 318.0, |svg| {
        draw(
            svg,
            motif,
            Art { x: 0.0, y: 0.0, w: WIDTH, h: 318.0, line: p.accent, fill: p.soft, back: p.ground },
            rng,
        );
    });
    let _ = write!(svg, r#"<rect y="318" width="{WIDTH}" height="5" fill="{}"/>"#, p.accent);
    let set = fit(title, Space { width: 336.0, height: 168.0, largest: 60.0, smallest: 14.0, leading: 1.1 });
    lines(
        svg,
        &set,
        32.0,
        346.0,
        Style { fill: p.ink, family: SERIF, weight: 700, middle: false, spacing: 0.0 },
    );
    byline(svg, p, author, year, 566.0);
}

fn art_below(
    svg: &mut String,
    p: Palette,
    motif: Motif,
    rng: &mut Rng,
    title: &str,
    author: &str,
    year: Option<i64>,
) {
    let set = fit(title, Space { width: 336.0, height: 176.0, largest: 62.0, smallest: 14.0, leading: 1.06 });
    lines(
        svg,
        &set,
        32.0,
        36.0,
        Style { fill: p.ink, family: SANS, weight: 700, middle: false, spacing: -0.4 },
    );
    let under = 36.0 + set.height() + 16.0;
    let _ = write!(svg, r#"<rect x="32" y="{under:.1}" width="54" height="5" fill="{}"/>"#, p.accent);
    let top = (under + 34.0).max(262.0);
    clip(svg, 0.0, top, WIDTH, 532.0 - top, |svg| {
        draw(
            svg,
            motif,
            Art { x: 0.0, y: top, w: WIDTH, h: 532.0 - top, line: p.accent, fill: p.soft, back: p.ground },
            rng,
        );
    });
    byline(svg, p, author, year, 574.0);
}

/// Author on the left, year on the right, on one line.
fn byline(svg: &mut String, p: Palette, author: &str, year: Option<i64>, baseline: f64) {
    let by = fit(author, Space { width: 262.0, height: 36.0, largest: 19.0, smallest: 9.0, leading: 1.15 });
    let top = baseline - by.height() + by.leading * 0.2;
    let rtl_at = if by.rtl { 32.0 + 262.0 } else { 32.0 };
    lines_at(
        svg,
        &by,
        rtl_at,
        top,
        Style { fill: p.ink, family: SANS, weight: 500, middle: false, spacing: 0.2 },
    );
    if let Some(year) = year {
        let _ = write!(
            svg,
            r#"<text x="368" y="{baseline}" font-family="{SANS}" font-size="15" letter-spacing="1" fill="{}" text-anchor="end">{}</text>"#,
            p.accent,
            era(year)
        );
    }
}

#[derive(Clone, Copy)]
struct Style {
    fill: &'static str,
    family: &'static str,
    weight: u32,
    /// Centred on x, or starting at it.
    middle: bool,
    spacing: f64,
}

/// Lines from `top` down; a text written from the right starts at the right margin.
fn lines(svg: &mut String, set: &Lettering, x: f64, top: f64, style: Style) {
    lines_at(svg, set, if set.rtl && !style.middle { WIDTH - x } else { x }, top, style);
}

fn lines_at(svg: &mut String, set: &Lettering, x: f64, top: f64, style: Style) {
    let anchor = if style.middle { "middle" } else { "start" };
    let direction = if set.rtl { "rtl" } else { "ltr" };
    let _ = write!(
        svg,
        r#"<g font-family="{}" font-size="{:.1}" font-weight="{}" fill="{}" text-anchor="{anchor}" direction="{direction}" letter-spacing="{}">"#,
        style.family, set.size, style.weight, style.fill, style.spacing
    );
    for (row, line) in set.lines.iter().enumerate() {
        let y = top + set.leading * row as f64 + set.size * 0.86;
        let _ = write!(svg, r#"<text x="{x:.1}" y="{y:.1}""#);
        // Where a line nearly fills its space, an unknown font must not carry it over the edge.
        if line.width > 180.0 && line.text.chars().count() > 1 && !plain(&line.text) {
            let _ = write!(svg, r#" textLength="{:.1}" lengthAdjust="spacingAndGlyphs""#, line.width);
        }
        svg.push('>');
        escape(svg, &line.text);
        svg.push_str("</text>");
    }
    svg.push_str("</g>");
}

/// Letters whose widths `lettering` knows, in every font named above.
fn plain(text: &str) -> bool {
    text.chars().all(|c| matches!(c, ' '..='~' | '\u{a0}'..='\u{17f}' | '‘'..='”' | '…' | '—'))
}

#[derive(Clone, Copy)]
struct Art {
    x: f64,
    y: f64,
    w: f64,
    h: f64,
    line: &'static str,
    fill: &'static str,
    back: &'static str,
}

fn clip(svg: &mut String, x: f64, y: f64, w: f64, h: f64, draw: impl FnOnce(&mut String)) {
    let _ = write!(
        svg,
        r#"<svg x="{x}" y="{y:.1}" width="{w}" height="{h:.1}" viewBox="{x} {y:.1} {w} {h:.1}" overflow="hidden">"#
    );
    draw(svg);
    svg.push_str("</svg>");
}

/// Draws `motif` over the whole of `a`.
fn draw(svg: &mut String, motif: Motif, a: Art, rng: &mut Rng) {
    let Art { x, y, w, h, line, fill, back } = a;
    let (right, bottom) = (x + w, y + h);
    let (cx, cy) = (x + w / 2.0, y + h / 2.0);
    match motif {
        Motif::Waves => {
            let sun = x + w * (0.25 + 0.5 * rng.unit());
            let _ = write!(
                svg,
                r#"<circle cx="{sun:.0}" cy="{:.0}" r="{:.0}" fill="{line}"/>"#,
                y + h * 0.34,
                h.min(w) * 0.16
            );
            let rows = 9;
            for row in 0..rows {
                let top = y + h * (0.36 + 0.075 * row as f64);
                let length = 62.0 + 9.0 * row as f64;
                let swell = 7.0 + 1.7 * row as f64;
                let mut path = format!("M{:.1} {top:.1}", x - length * rng.unit() - 40.0);
                for _ in 0..12 {
                    let _ = write!(
                        path,
                        "q{:.1} {:.1} {:.1} 0t{:.1} 0",
                        length / 4.0,
                        -swell,
                        length / 2.0,
                        length / 2.0
                    );
                }
                let (tone, edge) = if row % 2 == 0 { (fill, line) } else { (back, fill) };
                let _ = write!(
                    svg,
                    r#"<path d="{path}V{bottom:.0}H{x}Z" fill="{tone}" stroke="{edge}" stroke-width="1.6"/>"#
                );
            }
        }
        Motif::Peaks => {
            let sun = x + w * (0.2 + 0.6 * rng.unit());
            let _ = write!(
                svg,
                r#"<circle cx="{sun:.0}" cy="{:.0}" r="{:.0}" fill="{line}"/>"#,
                y + h * 0.33,
                h.min(w) * 0.15
            );
            for row in 0..4 {
                let base = y + h * (0.44 + 0.16 * row as f64);
                let mut path = format!("M{:.0} {bottom:.0}L{:.0} {base:.0}", x - 10.0, x - 10.0);
                let mut at = x - 10.0;
                while at < right + 40.0 {
                    let step = 34.0 + 46.0 * rng.unit();
                    at += step;
                    let _ =
                        write!(path, "L{:.0} {:.0}", at - step / 2.0, base - h * (0.05 + 0.13 * rng.unit()));
                    let _ = write!(path, "L{at:.0} {:.0}", base + h * 0.03 * rng.unit());
                }
                let tone = if row % 2 == 0 { fill } else { back };
                let _ = write!(
                    svg,
                    r#"<path d="{path}V{bottom:.0}Z" fill="{tone}" stroke="{line}" stroke-width="1.4" stroke-linejoin="round"/>"#
                );
            }
        }
        Motif::Arches => {
            let moon = h.min(w) * 0.17;
            let (mx, my) = (x + w * (0.3 + 0.4 * rng.unit()), y + h * 0.24);
            let _ = write!(
                svg,
                r#"<circle cx="{mx:.0}" cy="{my:.0}" r="{moon:.0}" fill="{line}"/><circle cx="{:.0}" cy="{:.0}" r="{:.0}" fill="{back}"/>"#,
                mx + moon * 0.42,
                my - moon * 0.12,
                moon * 0.88
            );
            let wide = 50.0;
            let mut at = x - 25.0;
            let mut tall = 0;
            while at < right {
                let top = y + h * (0.5 + 0.14 * f64::from(tall % 2));
                let _ = write!(
                    svg,
                    r#"<path d="M{at:.0} {bottom:.0}V{top:.0}Q{at:.0} {:.0} {:.0} {:.0}Q{:.0} {:.0} {:.0} {top:.0}V{bottom:.0}Z" fill="{fill}" stroke="{line}" stroke-width="1.5"/>"#,
                    top - 34.0,
                    at + wide / 2.0,
                    top - 62.0,
                    at + wide,
                    top - 34.0,
                    at + wide,
                );
                let _ = write!(
                    svg,
                    r#"<path d="M{:.0} {bottom:.0}V{:.0}q0 -16 11 -26q11 10 11 26V{bottom:.0}Z" fill="{back}"/>"#,
                    at + 14.0,
                    top + 18.0
                );
                at += wide;
                tall += 1;
            }
        }
        Motif::Bars => {
            let light = x + w * (0.3 + 0.4 * rng.unit());
            let _ = write!(
                svg,
                r#"<path d="M{light:.0} {:.0}L{:.0} {bottom:.0}H{:.0}Z" fill="{fill}"/>"#,
                y + h * 0.1,
                light - w * 0.42,
                light + w * 0.42
            );
            let _ = write!(
                svg,
                r#"<circle cx="{light:.0}" cy="{:.0}" r="{:.0}" fill="{line}"/>"#,
                y + h * 0.1,
                h.min(w) * 0.05
            );
            for _ in 0..90 {
                let (sx, sy, length) =
                    (x + w * 1.15 * rng.unit(), y + h * rng.unit() - 20.0, 16.0 + 34.0 * rng.unit());
                let _ = write!(
                    svg,
                    r#"<path d="M{sx:.0} {sy:.0}l{:.0} {length:.0}" stroke="{line}" stroke-width="1.1" opacity=".55"/>"#,
                    -length * 0.28
                );
            }
            let (kx, ky) = (light, y + h * 0.62);
            let _ = write!(
                svg,
                r#"<path d="M{:.0} {:.0}a22 22 0 1 1 26 0l12 62h-50z" fill="{back}" stroke="{line}" stroke-width="2"/>"#,
                kx - 13.0,
                ky
            );
        }
        Motif::Orbits => {
            let (ox, oy) = (x + w * (0.35 + 0.3 * rng.unit()), cy);
            let tilt = -35.0 + 70.0 * rng.unit();
            for _ in 0..60 {
                let _ = write!(
                    svg,
                    r#"<circle cx="{:.0}" cy="{:.0}" r="{:.1}" fill="{line}" opacity=".7"/>"#,
                    x + w * rng.unit(),
                    y + h * rng.unit(),
                    0.6 + 1.3 * rng.unit()
                );
            }
            let reach = w.min(h);
            let _ = write!(
                svg,
                r#"<g transform="rotate({tilt:.0} {ox:.0} {oy:.0})" fill="none" stroke="{line}" stroke-width="1.5">"#
            );
            for ring in 1..6 {
                let r = reach * 0.13 * f64::from(ring);
                let turn = std::f64::consts::TAU * rng.unit();
                let (px, py) = (ox + r * 1.25 * turn.cos(), oy + r * 0.5 * turn.sin());
                let _ = write!(
                    svg,
                    r#"<ellipse cx="{ox:.0}" cy="{oy:.0}" rx="{:.0}" ry="{:.0}" opacity=".8"/><circle cx="{px:.0}" cy="{py:.0}" r="{:.0}" fill="{line}"/>"#,
                    r * 1.25,
                    r * 0.5,
                    3.0 + 6.0 * rng.unit()
                );
            }
            let _ = write!(
                svg,
                r#"</g><circle cx="{ox:.0}" cy="{oy:.0}" r="{:.0}" fill="{fill}" stroke="{line}" stroke-width="2"/>"#,
                reach * 0.1
            );
        }
        Motif::Petals => {
            let petals = 8 + 2 * rng.below(4);
            let reach = w.min(h) * 0.46;
            for ring in 0..3 {
                let r = reach * (1.0 - 0.3 * f64::from(ring));
                for petal in 0..petals {
                    let turn = 360.0 * (petal as f64 + 0.5 * f64::from(ring % 2)) / petals as f64;
                    let tone = if ring % 2 == 0 { fill } else { back };
                    let _ = write!(
                        svg,
                        r#"<path transform="rotate({turn:.1} {cx:.0} {cy:.0})" d="M{cx:.0} {cy:.0}q{:.0} {:.0} 0 {:.0}q{:.0} {:.0} 0 {:.0}z" fill="{tone}" stroke="{line}" stroke-width="1.4"/>"#,
                        r * 0.34,
                        -r * 0.5,
                        -r,
                        -r * 0.34,
                        r * 0.5,
                        r
                    );
                }
            }
            let _ =
                write!(svg, r#"<circle cx="{cx:.0}" cy="{cy:.0}" r="{:.0}" fill="{line}"/>"#, reach * 0.12);
        }
        Motif::Meander => {
            let step = 40.0;
            let mut row = y + 14.0;
            while row < bottom + step {
                let mut path = format!("M{:.0} {row:.0}", x - step);
                let mut at = x - step;
                while at < right + step {
                    path.push_str("h33v-26h-20v13h7");
                    path.push('M');
                    at += step;
                    let _ = write!(path, "{:.0} {row:.0}", at - 7.0);
                    path.push_str("h7");
                }
                let _ = write!(
                    svg,
                    r#"<path d="{path}" fill="none" stroke="{line}" stroke-width="4"/><path d="M{x} {:.0}H{right}" stroke="{line}" stroke-width="1.4"/>"#,
                    row + 7.0
                );
                row += 46.0;
            }
        }
        Motif::Curtain => {
            let folds = 10;
            let wide = w / f64::from(folds);
            for fold in 0..folds {
                let left = x + wide * f64::from(fold);
                let tone = if fold % 2 == 0 { fill } else { back };
                let _ = write!(
                    svg,
                    r#"<path d="M{left:.0} {y:.0}h{wide:.1}V{:.0}q{:.1} 14 {:.1} 0z" fill="{tone}" stroke="{line}" stroke-width="1"/>"#,
                    bottom - 18.0,
                    -wide / 2.0,
                    -wide
                );
            }
            for swag in 0..4 {
                let left = x + w / 4.0 * f64::from(swag);
                for drop in 0..3 {
                    let deep = 44.0 + 30.0 * f64::from(drop);
                    let _ = write!(
                        svg,
                        r#"<path d="M{left:.0} {y:.0}q{:.0} {:.0} {:.0} 0" fill="{}" stroke="{line}" stroke-width="1.6"/>"#,
                        w / 8.0,
                        deep * 1.6 - 60.0 * f64::from(drop),
                        w / 4.0,
                        if drop == 0 { fill } else { "none" }
                    );
                }
            }
        }
        Motif::Harlequin => {
            let (dx, dy) = (w / 8.0, 50.0);
            let odd = rng.below(3);
            let mut row = 0;
            while y + dy * f64::from(row) - dy < bottom {
                for column in 0..10 {
                    let px =
                        x + dx * f64::from(column) + if row % 2 == 0 { 0.0 } else { dx / 2.0 } - dx / 2.0;
                    let py = y + dy * f64::from(row);
                    let tone = match (row * 3 + column * 5) as usize % 7 {
                        n if n == odd => line,
                        n if n % 2 == 0 => fill,
                        _ => back,
                    };
                    let _ = write!(
                        svg,
                        r#"<path d="M{px:.1} {:.1}l{:.1} {dy}l{:.1} {dy}l{:.1} -{dy}z" fill="{tone}" stroke="{fill}" stroke-width=".8"/>"#,
                        py - dy,
                        dx / 2.0,
                        -dx / 2.0,
                        -dx / 2.0
                    );
                }
                row += 1;
            }
        }
        Motif::Scallops => {
            let r = 33.0;
            let mut row = 0;
            while y + r * f64::from(row) - r < bottom {
                let shift = if row % 2 == 0 { 0.0 } else { r };
                for column in -1..8 {
                    let px = x + 2.0 * r * f64::from(column) + shift;
                    let py = y + r * f64::from(row);
                    let _ = write!(
                        svg,
                        r#"<g fill="{back}" stroke="{line}" stroke-width="1.3"><circle cx="{px:.0}" cy="{py:.0}" r="{r}"/><circle cx="{px:.0}" cy="{py:.0}" r="{:.0}" fill="{fill}"/><circle cx="{px:.0}" cy="{py:.0}" r="{:.0}"/></g>"#,
                        r * 0.68,
                        r * 0.34
                    );
                }
                row += 1;
            }
        }
        Motif::Geometry => {
            let r = w.min(h) * 0.38;
            let turn = 60.0 * rng.unit();
            let _ = write!(
                svg,
                r#"<g fill="none" stroke="{line}" stroke-width="2"><circle cx="{cx:.0}" cy="{cy:.0}" r="{r:.0}" fill="{fill}"/><g transform="rotate({turn:.0} {cx:.0} {cy:.0})">"#
            );
            for corners in [3, 4, 6] {
                let mut path = String::new();
                for corner in 0..corners {
                    let angle = std::f64::consts::TAU * f64::from(corner) / f64::from(corners);
                    let _ = write!(
                        path,
                        "{}{:.1} {:.1}",
                        if corner == 0 { "M" } else { "L" },
                        cx + r * angle.sin(),
                        cy - r * angle.cos()
                    );
                }
                let _ = write!(svg, r#"<path d="{path}Z"/>"#);
            }
            let _ = write!(
                svg,
                r#"</g><circle cx="{cx:.0}" cy="{cy:.0}" r="{:.0}"/><circle cx="{cx:.0}" cy="{cy:.0}" r="{:.0}" fill="{line}"/><path d="M{x} {cy:.0}H{right}M{cx:.0} {y}V{bottom}" stroke-width=".9"/></g>"#,
                r * 0.5,
                r * 0.09
            );
        }
        Motif::Blocks => {
            let side = w / 4.0;
            let mut py = y;
            while py < bottom {
                for column in 0..4 {
                    let px = x + side * f64::from(column);
                    let (a, b) = [(line, back), (fill, back), (back, fill), (fill, line)][rng.below(4)];
                    let _ = write!(
                        svg,
                        r#"<path d="M{px:.0} {py:.0}h{side:.0}v{side:.0}h-{side:.0}z" fill="{b}"/>"#
                    );
                    let (far_x, far_y) = (px + side, py + side);
                    let shape = match rng.below(4) {
                        0 => format!(
                            "M{px:.0} {py:.0}H{far_x:.0}A{side:.0} {side:.0} 0 0 1 {px:.0} {far_y:.0}Z"
                        ),
                        1 => format!(
                            "M{far_x:.0} {far_y:.0}V{py:.0}A{side:.0} {side:.0} 0 0 0 {px:.0} {far_y:.0}Z"
                        ),
                        2 => format!("M{px:.0} {far_y:.0}L{far_x:.0} {py:.0}V{far_y:.0}Z"),
                        _ => format!(
                            "M{px:.0} {py:.0}H{far_x:.0}A{:.0} {:.0} 0 0 1 {px:.0} {py:.0}Z",
                            side / 2.0,
                            side / 2.0
                        ),
                    };
                    let _ = write!(svg, r#"<path d="{shape}" fill="{a}"/>"#);
                }
                py += side;
            }
        }
        Motif::Chevrons => {
            let step = 30.0;
            let mut row = y - 60.0;
            let mut n = rng.below(3);
            while row < bottom + 40.0 {
                let tone = [fill, back, line][n % 3];
                let thick = if n % 3 == 2 { 5.0 } else { step };
                let _ = write!(
                    svg,
                    r#"<path d="M{x} {row:.0}l{:.1} 54l{:.1} -54v{thick}l-{:.1} 54l-{:.1} -54z" fill="{tone}"/>"#,
                    w / 2.0,
                    w / 2.0,
                    w / 2.0,
                    w / 2.0
                );
                row += if n % 3 == 2 { 12.0 } else { step };
                n += 1;
            }
        }
        Motif::Confetti => {
            let moon = x + w * (0.25 + 0.5 * rng.unit());
            let _ = write!(
                svg,
                r#"<circle cx="{moon:.0}" cy="{:.0}" r="{:.0}" fill="{line}"/>"#,
                y + h * 0.3,
                h.min(w) * 0.13
            );
            for _ in 0..46 {
                let (px, py, size) = (x + w * rng.unit(), y + h * 0.75 * rng.unit(), 3.0 + 5.0 * rng.unit());
                let _ = match rng.below(3) {
                    0 => write!(svg, r#"<circle cx="{px:.0}" cy="{py:.0}" r="{size:.1}" fill="{fill}"/>"#),
                    1 => write!(
                        svg,
                        r#"<path d="M{px:.0} {py:.0}l{size:.1} {:.1}h-{:.1}z" fill="{line}"/>"#,
                        size * 1.7,
                        size * 2.0
                    ),
                    _ => write!(
                        svg,
                        r#"<path d="M{px:.0} {py:.0}v{:.1}m-{size:.1} -{size:.1}h{:.1}" stroke="{line}" stroke-width="2"/>"#,
                        size * 2.0,
                        size * 2.0
                    ),
                };
            }
            for hill in 0..3 {
                let top = y + h * (0.66 + 0.11 * f64::from(hill));
                let tone = if hill % 2 == 0 { fill } else { back };
                let bend = h * (0.05 + 0.12 * rng.unit());
                let _ = write!(
                    svg,
                    r#"<path d="M{x} {top:.0}q{:.0} {:.0} {:.0} 0t{:.0} 0V{bottom}H{x}Z" fill="{tone}" stroke="{line}" stroke-width="1.6"/>"#,
                    w / 4.0,
                    if hill % 2 == 0 { -bend } else { bend },
                    w / 2.0,
                    w / 2.0
                );
            }
        }
        Motif::Leaves => {
            let columns = 4;
            let wide = w / f64::from(columns);
            for column in 0..columns {
                let stem = x + wide * (f64::from(column) + 0.5);
                let _ =
                    write!(svg, r#"<path d="M{stem:.0} {y}V{bottom}" stroke="{line}" stroke-width="1.6"/>"#);
                let mut at = y + 46.0 * rng.unit() - 10.0;
                while at < bottom + 40.0 {
                    for side in [-1.0, 1.0] {
                        let reach = side * wide * 0.46;
                        let tone = if rng.below(4) == 0 { line } else { fill };
                        let _ = write!(
                            svg,
                            r#"<path d="M{stem:.0} {at:.0}q{:.1} -4 {reach:.1} -34q{:.1} 2 {:.1} 34z" fill="{tone}" stroke="{line}" stroke-width="1"/>"#,
                            reach * 0.7,
                            -reach * 0.9,
                            -reach
                        );
                    }
                    at += 38.0;
                }
            }
        }
        Motif::Contours => {
            let (ox, oy) = (x + w * (0.3 + 0.4 * rng.unit()), y + h * (0.35 + 0.3 * rng.unit()));
            let turn = 180.0 * rng.unit();
            let _ = write!(
                svg,
                r#"<g fill="none" stroke="{line}" transform="rotate({turn:.0} {ox:.0} {oy:.0})">"#
            );
            for ring in 1..34 {
                let r = 11.0 * f64::from(ring);
                let wobble = 1.0 + 0.12 * (f64::from(ring) * 0.55).sin();
                let _ = write!(
                    svg,
                    r#"<ellipse cx="{:.0}" cy="{oy:.0}" rx="{:.0}" ry="{:.0}" stroke-width="{}" stroke="{}"/>"#,
                    ox + f64::from(ring) * 1.6,
                    r * 1.18 * wobble,
                    r * 0.8 / wobble,
                    if ring % 5 == 0 { 2.6 } else { 1.2 },
                    if ring % 2 == 0 { line } else { fill }
                );
            }
            svg.push_str("</g>");
        }
        Motif::Rays => {
            let (ox, oy) = (cx, y + h * 0.58);
            let rays = 18 + 2 * rng.below(5);
            for ray in 0..rays {
                let (from, to) = (ray as f64 / rays as f64, (ray as f64 + 0.5) / rays as f64);
                let far = w + h;
                let (a, b) = (std::f64::consts::TAU * from, std::f64::consts::TAU * to);
                let _ = write!(
                    svg,
                    r#"<path d="M{ox:.0} {oy:.0}L{:.0} {:.0}L{:.0} {:.0}Z" fill="{fill}"/>"#,
                    ox + far * a.cos(),
                    oy + far * a.sin(),
                    ox + far * b.cos(),
                    oy + far * b.sin()
                );
            }
            let r = w.min(h) * 0.17;
            let _ = write!(
                svg,
                r#"<circle cx="{ox:.0}" cy="{oy:.0}" r="{:.0}" fill="{back}" stroke="{line}" stroke-width="2"/><circle cx="{ox:.0}" cy="{oy:.0}" r="{r:.0}" fill="{line}"/>"#,
                r * 1.4
            );
        }
        Motif::Windows => {
            let (columns, side) = (7, w / 7.0);
            let mut py = y + 10.0;
            while py < bottom {
                for column in 0..columns {
                    let px = x + side * f64::from(column) + 9.0;
                    let tone = if rng.below(5) == 0 { line } else { fill };
                    let _ = write!(
                        svg,
                        r#"<path d="M{px:.1} {:.1}v-{:.1}a{:.1} {:.1} 0 0 1 {:.1} 0v{:.1}z" fill="{tone}"/><path d="M{:.1} {:.1}v-{:.1}" stroke="{back}" stroke-width="1.6"/>"#,
                        py + 52.0,
                        36.0,
                        (side - 18.0) / 2.0,
                        (side - 18.0) / 2.0,
                        side - 18.0,
                        36.0,
                        px + (side - 18.0) / 2.0,
                        py + 52.0,
                        54.0
                    );
                }
                let _ = write!(
                    svg,
                    r#"<path d="M{x} {:.0}H{right}" stroke="{fill}" stroke-width="3"/>"#,
                    py + 58.0
                );
                py += 72.0;
            }
        }
        Motif::Stripes => {
            let lean = if rng.below(2) == 0 { 1.0 } else { -1.0 };
            let mut at = x - h;
            let mut n = 0;
            while at < right + h {
                let wide = [22.0, 5.0, 12.0, 5.0][n % 4];
                let tone = [fill, line, fill, back][n % 4];
                let _ = write!(
                    svg,
                    r#"<path d="M{at:.0} {y}h{wide}l{:.0} {h:.0}h-{wide}z" fill="{tone}"/>"#,
                    lean * h * 0.55
                );
                at += wide + 9.0;
                n += 1;
            }
        }
    }
}

/// A small device between title and author.
fn ornament(svg: &mut String, x: f64, y: f64, tone: &str, rng: &mut Rng) {
    let device = match rng.below(4) {
        0 => format!(
            r#"<path d="M{:.0} {y}h44m18 0h44" stroke="{tone}" stroke-width="1.2"/><path d="M{x} {:.0}l6 6l-6 6l-6 -6z" fill="{tone}"/>"#,
            x - 53.0,
            y - 6.0
        ),
        1 => format!(
            r#"<g fill="{tone}"><circle cx="{x}" cy="{y}" r="4"/><circle cx="{:.0}" cy="{y}" r="2.4"/><circle cx="{:.0}" cy="{y}" r="2.4"/></g>"#,
            x - 18.0,
            x + 18.0
        ),
        2 => format!(
            r#"<path d="M{:.0} {y}q14 -12 28 0t28 0" fill="none" stroke="{tone}" stroke-width="2"/>"#,
            x - 28.0
        ),
        _ => format!(
            r#"<path d="M{x} {:.0}q9 8 0 18q-9 -10 0 -18M{:.0} {y}q-14 -9 -28 0q14 9 28 0M{:.0} {y}q14 -9 28 0q-14 9 -28 0" fill="{tone}"/>"#,
            y - 9.0,
            x - 9.0,
            x + 9.0
        ),
    };
    svg.push_str(&device);
}

fn text(item: &Item, key: &str) -> Option<String> {
    item.properties.get(key).and_then(Value::as_str).map(str::to_owned).filter(|t| !t.trim().is_empty())
}

fn genres(item: &Item) -> Vec<&str> {
    let list = |key: &str| item.properties.get(key).and_then(Value::as_array);
    list("genres").or_else(|| list("categories")).into_iter().flatten().filter_map(Value::as_str).collect()
}

/// `800 BC`, or the plain year.
fn era(year: i64) -> String {
    if year < 0 { format!("{} BC", year.unsigned_abs()) } else { year.to_string() }
}

fn fingerprint(id: &str) -> u64 {
    let hash = blake3::hash(id.as_bytes());
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"))
}

/// Text for XML, in an element or an attribute; characters XML may not hold are left out.
fn escape(svg: &mut String, text: &str) {
    for c in text.chars().filter(|&c| printable(c)) {
        match c {
            '&' => svg.push_str("&amp;"),
            '<' => svg.push_str("&lt;"),
            '>' => svg.push_str("&gt;"),
            '"' => svg.push_str("&quot;"),
            '\'' => svg.push_str("&#39;"),
            c => svg.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::books;
    use super::*;
    use proptest::prelude::*;
    use sommelier_core::Time;

    /// Tags open and close in order, and nothing between them is raw markup.
    fn well_formed(svg: &str) -> Result<(), String> {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = svg;
        while let Some(start) = rest.find('<') {
            if rest[..start].contains('>') {
                return Err(format!("stray > in {:?}", &rest[..start]));
            }
            let end = rest[start..].find('>').ok_or("a tag does not end")? + start;
            let tag = &rest[start + 1..end];
            if let Some(name) = tag.strip_prefix('/') {
                if open.pop() != Some(name) {
                    return Err(format!("</{name}> closes nothing"));
                }
            } else if !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap_or_default());
            }
            if tag.matches('"').count() % 2 == 1 || tag.contains('<') {
                return Err(format!("broken attributes in {tag:?}"));
            }
            rest = &rest[end + 1..];
        }
        if open.is_empty() { Ok(()) } else { Err(format!("{open:?} stay open")) }
    }

    #[test]
    fn every_book_has_a_cover_of_its_own_that_stays_the_same() {
        let mut seen = hashbrown::HashSet::new();
        for book in books() {
            let item = book.item(Time::default());
            let svg = cover(&item);
            assert_eq!(svg, cover(&item));
            well_formed(&svg).unwrap_or_else(|e| panic!("{}: {e}", book.id));
            assert!(svg.len() < 60_000, "{}: {} bytes", book.id, svg.len());
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{}", book.id);
            assert!(seen.insert(svg), "{}", book.id);
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_a_sound_document(title in ".*", author in ".*", id in ".+", year in proptest::option::of(any::<i64>())) {
            let mut item = Item::new(id);
            item.properties.insert("title".into(), title.into());
            item.properties.insert("author".into(), author.into());
            if let Some(year) = year {
                item.properties.insert("year".into(), year.into());
            }
            let svg = cover(&item);
            prop_assert!(well_formed(&svg).is_ok(), "{:?} in {svg}", well_formed(&svg));
            prop_assert!(svg.chars().all(printable));
        }
    }

    #[test]
    fn markup_in_a_title_is_text() {
        let mut item = Item::new("x");
        item.properties.insert("title".into(), "<script>alert(1)</script> & \"more\"".into());
        let svg = cover(&item);
        assert!(!svg.contains("<script") && svg.contains("&lt;script&gt;"));
    }

    #[test]
    fn items_without_a_title_show_their_id() {
        assert!(cover(&Item::new("item-4711")).contains("item-4711"));
    }
}
