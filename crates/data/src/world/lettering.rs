//! Lettering without fonts: how wide a text will be, and lines of even length that fit a box.

/// A text set in lines.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lettering {
    pub lines: Vec<Line>,
    /// Font size, in the units of the box.
    pub size: f64,
    /// From one baseline to the next.
    pub leading: f64,
    /// Written from right to left.
    pub rtl: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub text: String,
    /// Estimated width at the size chosen.
    pub width: f64,
}

impl Lettering {
    pub fn height(&self) -> f64 {
        self.leading * self.lines.len() as f64
    }
}

/// What to set, and where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    pub width: f64,
    pub height: f64,
    pub largest: f64,
    pub smallest: f64,
    /// Baseline distance as a multiple of the size.
    pub leading: f64,
}

/// Longest text worth setting; the rest of a longer one cannot be read at any size.
const LONGEST: usize = 300;

/// The largest size at which `text` fits, in as few lines as that takes, then as even as they can be.
///
/// Words are broken only where even the smallest comfortable size leaves no other way; a text that does not fit
/// at the smallest size ends in an ellipsis.
pub(super) fn fit(text: &str, space: Space) -> Lettering {
    let pieces = pieces(text);
    let rtl = first_strong_is_rtl(text);
    let made = |lines: Vec<(String, f64)>, size: f64| Lettering {
        lines: lines.into_iter().map(|(text, em)| Line { text, width: em * size }).collect(),
        size,
        leading: size * space.leading,
        rtl,
    };
    let mut size = space.largest;
    while size >= space.smallest {
        let limit = space.width / size;
        let room = ((space.height / (size * space.leading)) as usize).max(1);
        let whole = pieces.iter().all(|p| p.width <= limit);
        // Short lines of big letters look better than one word cut in two.
        if whole || size < space.smallest * 1.4 {
            let lines = set(&pieces, limit);
            if lines.len() <= room {
                return made(balanced(&pieces, lines, limit), size);
            }
        }
        size -= 1.0;
    }
    let size = space.smallest;
    let mut lines = set(&pieces, space.width / size);
    let room = ((space.height / (size * space.leading)) as usize).max(1);
    if lines.len() > room {
        lines.truncate(room);
        if let Some((text, width)) = lines.last_mut() {
            while *width + em('…') > space.width / size {
                let Some(last) = text.pop() else { break };
                *width -= em(last);
            }
            text.push('…');
            *width += em('…');
        }
    }
    made(lines, size)
}

/// Something that is not broken if it can be helped: a word, or one ideograph.
struct Piece {
    text: String,
    width: f64,
    space_before: bool,
}

fn pieces(text: &str) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::new();
    let mut space_before = false;
    let mut open = false;
    for c in text.chars().filter(|&c| printable(c)).take(LONGEST) {
        if c.is_whitespace() || c.is_control() {
            space_before = true;
            open = false;
            continue;
        }
        let joins = open
            && (!ideograph(c) || em(c) == 0.0)
            && !out.last().is_some_and(|p| p.text.ends_with(ideograph));
        match out.last_mut() {
            Some(last) if joins || (em(c) == 0.0 && !space_before) || closes(c) && !space_before => {
                last.text.push(c);
                last.width += em(c);
            }
            _ => out.push(Piece { text: c.to_string(), width: em(c), space_before }),
        }
        space_before = false;
        open = true;
    }
    out
}

/// Punctuation that may not begin a line.
fn closes(c: char) -> bool {
    matches!(c, '、' | '。' | '，' | '．' | '」' | '』' | '）' | '！' | '？' | '：' | '；' | 'ー' | '…')
}

/// Greedy lines of at most `limit` em; a piece wider than that is cut, never before a mark that has no width.
fn set(pieces: &[Piece], limit: f64) -> Vec<(String, f64)> {
    let mut lines: Vec<(String, f64)> = Vec::new();
    for piece in pieces {
        let gap = if piece.space_before { em(' ') } else { 0.0 };
        match lines.last_mut() {
            Some((text, width)) if *width + gap + piece.width <= limit => {
                if piece.space_before {
                    text.push(' ');
                }
                text.push_str(&piece.text);
                *width += gap + piece.width;
                continue;
            }
            _ => {}
        }
        let mut line = (String::new(), 0.0);
        for c in piece.text.chars() {
            if em(c) > 0.0 && line.1 + em(c) > limit && !line.0.is_empty() {
                lines.push(std::mem::take(&mut line));
            }
            line.0.push(c);
            line.1 += em(c);
        }
        lines.push(line);
    }
    lines
}

/// The same number of lines with the narrowest limit that still gives that number.
fn balanced(pieces: &[Piece], lines: Vec<(String, f64)>, limit: f64) -> Vec<(String, f64)> {
    if lines.len() < 2 || pieces.iter().any(|p| p.width > limit) {
        return lines;
    }
    let widest = pieces.iter().map(|p| p.width).fold(0.0, f64::max);
    let (mut low, mut high, mut best) = (widest, limit, lines);
    for _ in 0..12 {
        let middle = f64::midpoint(low, high);
        let tried = set(pieces, middle);
        if tried.len() <= best.len() {
            best = tried;
            high = middle;
        } else {
            low = middle;
        }
    }
    best
}

/// What an XML document may hold; the rest is left out.
pub(super) fn printable(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
        && !matches!(c, '\u{7f}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn ideograph(c: char) -> bool {
    matches!(c, '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}' | '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe4f}'
        | '\u{ff00}'..='\u{ff60}' | '\u{20000}'..='\u{3ffff}')
}

/// Whether the first letter with a direction is Hebrew, Arabic or another script written from the right.
fn first_strong_is_rtl(text: &str) -> bool {
    let rtl = |c: char| matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}' | '\u{10800}'..='\u{10fff}' | '\u{1e800}'..='\u{1efff}');
    text.chars().find(|&c| c.is_alphabetic()).is_some_and(rtl)
}

/// Width of a character in ems of a bookish serif face, rather a little too wide than too narrow.
pub(super) fn em(c: char) -> f64 {
    match c {
        '\u{300}'..='\u{36f}'
        | '\u{483}'..='\u{489}'
        | '\u{591}'..='\u{5bd}'
        | '\u{610}'..='\u{61a}'
        | '\u{64b}'..='\u{65f}'
        | '\u{1ab0}'..='\u{1aff}'
        | '\u{1dc0}'..='\u{1dff}'
        | '\u{200b}'..='\u{200f}'
        | '\u{20d0}'..='\u{20ff}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{fe20}'..='\u{fe2f}'
        | '\u{e0100}'..='\u{e01ef}' => 0.0,
        ' ' => 0.27,
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | '’' | '|' | '!' => 0.33,
        'f' | 't' | 'r' | 'I' | '(' | ')' | '-' | '[' | ']' | '“' | '”' | '"' => 0.44,
        's' | 'c' | 'z' | 'e' | 'a' | 'J' => 0.54,
        'm' | 'w' => 0.89,
        'M' | 'W' | '@' | '%' | '—' | '…' => 1.02,
        'a'..='z' | '0'..='9' => 0.61,
        'B' | 'E' | 'F' | 'L' | 'P' | 'R' | 'S' | 'T' | 'Z' => 0.71,
        'A'..='Z' => 0.81,
        c if ideograph(c) || c >= '\u{1f000}' => 1.04,
        c if c.is_uppercase() => 0.82,
        // Scripts of South and South-East Asia run wide and stack marks that we do not know.
        '\u{900}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' => 0.78,
        _ => 0.64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPACE: Space = Space { width: 300.0, height: 200.0, largest: 60.0, smallest: 14.0, leading: 1.15 };

    fn lines(text: &str) -> Vec<String> {
        fit(text, SPACE).lines.into_iter().map(|l| l.text).collect()
    }

    #[test]
    fn short_titles_are_large_and_even() {
        assert_eq!(fit("Emma", SPACE).size, 60.0);
        assert_eq!(lines("Sense and Sensibility"), ["Sense and", "Sensibility"]);
        let set = fit("The Strange Case of Dr Jekyll and Mr Hyde", SPACE);
        let widths: Vec<f64> = set.lines.iter().map(|l| l.width).collect();
        assert!(widths.iter().all(|w| *w > 100.0), "{set:?}");
    }

    #[test]
    fn scripts_without_spaces_break_anywhere_but_before_a_stop() {
        let title = "ある日の暮方の事である。一人の下人が、羅生門の下で雨やみを待っていた。";
        let set = lines(title);
        assert!(set.len() > 1);
        assert_eq!(set.concat(), title);
        assert!(set.iter().all(|l| !l.starts_with(['。', '、'])), "{set:?}");
        assert!(fit("ألف ليلة وليلة", SPACE).rtl);
        assert!(!fit("1001 Nights", SPACE).rtl);
    }

    #[test]
    fn one_endless_word_is_cut() {
        let set = fit(&"x".repeat(10_000), SPACE);
        assert!(set.lines.len() > 1 && set.lines.iter().all(|l| l.width <= 300.0));
    }

    proptest! {
        /// Whatever the title: inside the box, nothing lost unless an ellipsis says so.
        #[test]
        fn always_fits(text in prop_oneof![".*", "[a-zA-Zéא漢字 \u{301}]{0,400}", "(\\w{1,40} ){0,30}"]) {
            let set = fit(&text, SPACE);
            prop_assert!(set.height() <= 200.0 + 1e-6, "{} lines of {}", set.lines.len(), set.leading);
            for line in &set.lines {
                prop_assert!(line.width <= 300.0 + 1e-6, "{line:?}");
            }
            let plain = |s: &str| s.chars().filter(|c| !c.is_whitespace() && !c.is_control() && printable(*c)).take(LONGEST).collect::<String>();
            let joined = plain(&set.lines.iter().map(|l| l.text.as_str()).collect::<String>());
            let wanted = plain(&text.chars().filter(|&c| printable(c)).take(LONGEST).collect::<String>());
            if let Some(start) = joined.strip_suffix('…') {
                prop_assert!(wanted.starts_with(start));
            } else {
                prop_assert_eq!(joined, wanted);
            }
        }
    }
}
