//! A stream of bytes cut into blocks that end where records end, in bounded memory whatever the stream holds.

use super::batch::Batch;
use memchr::{memchr, memchr_iter, memrchr};
use std::io::{self, Read};

/// Bytes of an ordinary block.
const BLOCK: usize = 1 << 20;
/// A record longer than this is a problem, not a row.
pub const MAX_RECORD: usize = 4 << 20;

/// Some whole records.
pub struct Block {
    pub bytes: Vec<u8>,
    /// Line number of its first byte, from 1.
    pub first_line: u64,
    /// What went wrong between the block before and the end of this one.
    pub problems: Vec<(u64, String)>,
}

pub struct Blocks<'a> {
    reader: &'a mut dyn Read,
    /// The separator's last byte where fields may be quoted: a quote opens only at the start of a field.
    quoted_after: Option<u8>,
    carry: Vec<u8>,
    line: u64,
    done: bool,
    problems: Vec<(u64, String)>,
}

impl<'a> Blocks<'a> {
    pub fn new(reader: &'a mut dyn Read, quoted_after: Option<u8>) -> Blocks<'a> {
        Blocks { reader, quoted_after, carry: Vec::new(), line: 1, done: false, problems: Vec::new() }
    }

    /// The next block; `None` at the end. Problems that belong to no block come with a last, empty one.
    pub fn next(&mut self) -> io::Result<Option<Block>> {
        let mut want = BLOCK;
        loop {
            self.fill(want)?;
            if self.line == 1 && self.carry.starts_with(b"\xef\xbb\xbf") {
                self.carry.drain(..3);
            }
            let cut = if self.done { Some(self.carry.len()) } else { self.last_record_end() };
            match cut {
                Some(0) if self.problems.is_empty() => return Ok(None),
                Some(cut) => return Ok(Some(self.cut(cut))),
                None if self.carry.len() < MAX_RECORD => want = self.carry.len() * 2,
                None => self.drop_long_record()?,
            }
        }
    }

    fn cut(&mut self, at: usize) -> Block {
        let rest = self.carry.split_off(at);
        let bytes = std::mem::replace(&mut self.carry, rest);
        let first_line = self.line;
        self.line += memchr_iter(b'\n', &bytes).count() as u64;
        Block { bytes, first_line, problems: std::mem::take(&mut self.problems) }
    }

    fn fill(&mut self, want: usize) -> io::Result<()> {
        while !self.done && self.carry.len() < want {
            let have = self.carry.len();
            self.carry.resize(want, 0);
            match self.reader.read(&mut self.carry[have..]) {
                Ok(0) => {
                    self.carry.truncate(have);
                    self.done = true;
                }
                Ok(n) => self.carry.truncate(have + n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => self.carry.truncate(have),
                // The disk failed: nothing to be saved here.
                Err(e) if e.raw_os_error().is_some() => return Err(e),
                // The compressed stream is damaged or cut off: what came out of it so far is good, except the
                // record in which it broke.
                Err(e) => {
                    self.carry.truncate(have);
                    let whole = memrchr(b'\n', &self.carry).map_or(0, |at| at + 1);
                    self.carry.truncate(whole);
                    self.done = true;
                    let line = self.line + memchr_iter(b'\n', &self.carry).count() as u64;
                    self.problems.push((
                        line,
                        format!("the compressed data breaks off here ({e}); rows before this line were read"),
                    ));
                }
            }
        }
        Ok(())
    }

    /// The end of the last whole record in `carry`.
    fn last_record_end(&self) -> Option<usize> {
        let plain = |bytes: &[u8]| memrchr(b'\n', bytes).map(|at| at + 1);
        let Some(separator) = self.quoted_after else { return plain(&self.carry) };
        if memchr(b'"', &self.carry).is_none() {
            return plain(&self.carry);
        }
        let bytes = &self.carry;
        let (mut at, mut end) = (0, None);
        let mut field_start = true;
        while at < bytes.len() {
            if field_start && bytes[at] == b'"' {
                match close_quote(bytes, at) {
                    // A quote as the last byte may be half of an escaped one.
                    Some(close) if close + 1 < bytes.len() => at = close + 1,
                    _ => return end,
                }
                field_start = false;
                continue;
            }
            match bytes[at] {
                b'\n' => {
                    end = Some(at + 1);
                    field_start = true;
                }
                b => field_start = b == separator,
            }
            at += 1;
        }
        end
    }

    fn drop_long_record(&mut self) -> io::Result<()> {
        let line = self.line;
        if let Some(end) = memchr(b'\n', &self.carry) {
            // Lines there are, so it is a quote that keeps them together.
            self.carry.drain(..=end);
            self.line += 1;
            self.problems.push((line, unclosed()));
            return Ok(());
        }
        self.carry.clear();
        while !self.done {
            self.fill(BLOCK)?;
            if let Some(end) = memchr(b'\n', &self.carry) {
                self.carry.drain(..=end);
                break;
            }
            self.carry.clear();
        }
        self.line += 1;
        self.problems
            .push((line, format!("the line is longer than {} MiB and was left out", MAX_RECORD >> 20)));
        Ok(())
    }
}

/// The words for a quote that never closes.
pub fn unclosed() -> String {
    "a quote opens on this line and never closes; the line was left out".to_owned()
}

/// The place of the quote that closes the one at `open`; doubled quotes are text.
pub fn close_quote(bytes: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        at += memchr(b'"', &bytes[at..])?;
        if bytes.get(at + 1) != Some(&b'"') {
            return Some(at);
        }
        at += 2;
    }
}

impl Block {
    /// The block as text. Lines that are not UTF-8 become empty lines and problems of `batch`'s file.
    pub fn into_text(self, latin1: bool) -> (String, Vec<(u64, String)>) {
        let mut problems = self.problems;
        if latin1 {
            return (encoding_rs::mem::decode_latin1(&self.bytes).into_owned(), problems);
        }
        match String::from_utf8(self.bytes) {
            Ok(text) => (text, problems),
            Err(error) => {
                let bytes = error.into_bytes();
                let mut text = String::with_capacity(bytes.len());
                for (line, piece) in (self.first_line..).zip(bytes.split_inclusive(|&b| b == b'\n')) {
                    match std::str::from_utf8(piece) {
                        Ok(good) => text.push_str(good),
                        Err(e) => {
                            problems.push((
                                line,
                                format!(
                                    "not UTF-8 from byte {} on; the line was left out",
                                    e.valid_up_to() + 1
                                ),
                            ));
                            text.push('\n');
                        }
                    }
                }
                (text, problems)
            }
        }
    }
}

/// Adds what the block said to the batch made of it.
pub fn report(batch: &mut Batch, problems: Vec<(u64, String)>) {
    for (line, reason) in problems {
        batch.skip(line, None, reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8], quotes: bool) -> (Vec<String>, Vec<(u64, String)>) {
        let mut reader = bytes;
        let mut blocks = Blocks::new(&mut reader, quotes.then_some(b','));
        let (mut texts, mut problems) = (Vec::new(), Vec::new());
        while let Some(block) = blocks.next().unwrap() {
            let (text, found) = block.into_text(false);
            texts.push(text);
            problems.extend(found);
        }
        (texts, problems)
    }

    #[test]
    fn blocks_end_at_records() {
        let row = format!("a,\"{}\n\"\"{}\",b\n", "x".repeat(1000), "y".repeat(1000));
        let bytes = row.repeat(2000);
        let (texts, problems) = all(bytes.as_bytes(), true);
        assert!(texts.len() > 2 && problems.is_empty());
        assert_eq!(texts.concat(), bytes);
        assert!(texts.iter().all(|t| t.len() % row.len() == 0));
    }

    #[test]
    fn a_long_line_and_an_open_quote_cost_one_line_each() {
        let long = format!("1\n{}\n2\n", "z".repeat(10 << 20));
        let (texts, problems) = all(long.as_bytes(), false);
        assert_eq!(texts.concat(), "1\n2\n");
        assert_eq!(problems[0].0, 2);

        let open = format!("1,1\n\"x,1\n{}", "2,2\n".repeat(2 << 20));
        let (texts, problems) = all(open.as_bytes(), true);
        assert_eq!(problems, [(2, unclosed())]);
        assert_eq!(texts.concat().len(), open.len() - 5);
    }

    #[test]
    fn bad_utf8_costs_its_line() {
        let (texts, problems) = all(b"1\n\xff\n2\n", false);
        assert_eq!(texts, ["1\n\n2\n"]);
        assert_eq!(problems.len(), 1);
    }
}
