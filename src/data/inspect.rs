//! One record as a person would want to see it: text, segments, predicted tokens, the order of their prediction, and
//! who sees whom.

use std::fmt::Write;
use std::ops::Range;
use std::path::Path;

use super::batch::classes;
use super::loader;
use super::permutation::{BlockOrder, TokenClass, check_perm_size, sample_permutation};
use super::record::Record;
use super::record_info::{Index, RecordSettings};
use super::row_layout::is_backward;
use super::tokenizer::Tokenizer;
use crate::Result;

pub mod svg;

/// A record with one permutation drawn.
pub struct View {
    /// Where it is from, a line.
    pub title: String,
    /// The record.
    pub record: Record,
    /// Tokens as text, `▁` for the space before a word.
    pub pieces: Vec<String>, // [L]
    /// Length of the first half.
    pub reuse_len: usize,
    /// Whether its row reads backwards; `None` when that is not known.
    pub backward: Option<bool>,
    /// Query `i` sees key `j` when `query_rank[i] > key_rank[j]`.
    pub query_rank: Vec<i32>, // [L]
    /// See `query_rank`.
    pub key_rank: Vec<i32>, // [L]
}

/// A part of a sequence that is one stretch of text.
struct Part {
    name: &'static str,
    range: Range<usize>,
}

const WIDTH: usize = 100; // characters of a line

/// How [`View::open`] looks at a record.
#[derive(Clone, Copy, Debug, Default)]
pub struct InspectOptions<'a> {
    /// Makes text of ids; without it tokens are shown as numbers.
    pub tokenizer: Option<&'a Tokenizer>,
    /// Seed of the permutation, as of a training run.
    pub seed: u64,
    /// Time that the record is read, from 0.
    pub epoch: u64,
    /// Positions that are permuted together; the first half when `None`.
    pub perm_size: Option<usize>,
}

impl View {
    /// Reads record `index` (counted from 0) of the file `path` and draws the permutation that training with this file
    /// alone would draw.
    ///
    /// # Errors
    /// When the file is damaged or has fewer records, or `perm_size` does not fit.
    pub fn open(path: &Path, index: u64, options: &InspectOptions) -> Result<Self> {
        let record = Record::read(path, index)?;
        let len = record.input.len();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let named = RecordSettings::parse_file_name(&name, "tfrecords").filter(|(_, named)| named.bsz > 0);
        let beside = named.as_ref().and_then(|(prefix, named)| Index::beside(path, prefix, named).ok());
        let mut title = format!("{index} of {}", path.display());
        let mut backward = None;
        if let Some((_, RecordSettings { bsz, bi_data, uncased, .. })) = &named {
            let row = (index % *bsz as u64) as usize;
            let case = if *uncased { "lower-cased" } else { "cased" };
            title += &format!("; step {}, row {row} of {bsz}, {case}", index / *bsz as u64);
            let cores = beside.as_ref().and_then(|index| index.files.num_core_per_host);
            backward = match cores {
                Some(cores) => Some(is_backward(row, *bsz, cores, *bi_data)),
                None => Some(false).filter(|_| !bi_data),
            };
        }
        if let Some(made) = beside.and_then(|index| index.made).filter(|made| !made.program.is_empty()) {
            title += &format!(", made by {}", made.program);
        }
        let reuse_len = named.and_then(|(_, named)| named.reuse_len).unwrap_or(len / 2).min(len);
        let perm_size = options.perm_size.unwrap_or(reuse_len);
        check_perm_size(perm_size, reuse_len, len)?;
        let (mut query_rank, mut key_rank) = (vec![0; len], vec![0; len]);
        let classes = classes(&record.input, &record.is_masked);
        let mut rng = loader::rng(options.seed, options.epoch, index);
        let order = BlockOrder::Shared;
        sample_permutation(&classes, reuse_len, perm_size, order, &mut rng, &mut query_rank, &mut key_rank);
        let piece = |&id: &i32| {
            let piece = options.tokenizer.and_then(|t| t.piece(u32::try_from(id).ok()?));
            piece.map_or_else(|| format!("▁{id}"), str::to_owned)
        };
        let pieces = record.input.iter().map(piece).collect();
        Ok(Self { title, pieces, reuse_len, backward, query_rank, key_rank, record })
    }

    fn len(&self) -> usize {
        self.record.input.len()
    }

    fn classes(&self) -> Vec<TokenClass> {
        classes(&self.record.input, &self.record.is_masked)
    }

    /// Whether position `query` sees position `key`, in the query stream; the content stream sees itself besides.
    pub fn sees(&self, query: usize, key: usize) -> bool {
        self.query_rank[query] > self.key_rank[key]
    }

    /// The first half, A and B.
    fn parts(&self) -> [Part; 3] {
        let len = self.len();
        let segment = |segment| {
            let is = |i: &usize| self.record.segment_ids[*i] == segment;
            let start = (self.reuse_len..len).find(is).unwrap_or(len);
            let end = (start..len).find(|i| !is(i)).unwrap_or(len);
            start..end.saturating_sub(1).max(start) // without its <sep>
        };
        [
            Part { name: "reused", range: 0..self.reuse_len.min(len) },
            Part { name: "A", range: segment(0) },
            Part { name: "B", range: segment(1) },
        ]
    }

    /// Positions of `range` in the order in which the text was written.
    fn natural(&self, range: Range<usize>) -> Vec<usize> {
        if self.backward == Some(true) { range.rev().collect() } else { range.collect() }
    }

    /// Text of `range` with predicted spans in brackets.
    fn text(&self, range: Range<usize>, classes: &[TokenClass]) -> String {
        let mut text = String::new();
        let mut open = false;
        for i in self.natural(range) {
            let predicted = classes[i] == TokenClass::Target;
            if open && !predicted {
                text.push(']');
            }
            let piece = self.pieces[i].replace('▁', " ");
            let (space, word) = piece.split_at(piece.len() - piece.trim_start().len());
            text.push_str(space);
            if predicted && !open {
                text.push('[');
            }
            text.push_str(word);
            open = predicted;
        }
        if open {
            text.push(']');
        }
        text
    }

    /// Targets of `range` in the order of their prediction.
    fn order(&self, range: Range<usize>, classes: &[TokenClass]) -> Vec<usize> {
        let mut targets: Vec<usize> = range.filter(|&i| classes[i] == TokenClass::Target).collect();
        targets.sort_by_key(|&i| self.query_rank[i]);
        targets
    }

    fn facts(&self, classes: &[TokenClass]) -> Vec<(&'static str, String)> {
        let count = |class| classes.iter().filter(|c| **c == class).count();
        let targets = count(TokenClass::Target);
        let masked = self.record.is_masked.iter().filter(|m| **m).count();
        let spans: Vec<String> = self.parts().iter().map(|p| format!("{} {}", p.name, span(&p.range))).collect();
        let direction = match self.backward {
            Some(true) => "backwards; its text is shown as it was written, last token first",
            Some(false) => "forwards",
            None => "not known: the index file beside it does not tell",
        };
        let chosen = match masked - targets {
            0 => String::new(),
            lost => format!("; {lost} more chosen, but <sep> and <cls> are never predicted"),
        };
        let follows = if self.record.is_next { "follows" } else { "does not follow" };
        vec![
            ("record", self.title.clone()),
            ("reads", direction.into()),
            ("segments", format!("{}; B {follows} A", spans.join(", "))),
            ("predicted", format!("{targets} of {} tokens{chosen}", self.len())),
        ]
    }

    /// The record as lines of text for a terminal.
    pub fn to_text(&self) -> String {
        let classes = self.classes();
        let mut out = String::new();
        // Writing to a string cannot fail.
        for (name, fact) in self.facts(&classes) {
            let _ = writeln!(out, "{name:<11} {fact}");
        }
        for part in self.parts() {
            let _ = writeln!(out, "\n{}", part.name);
            wrap(&mut out, self.text(part.range, &classes).split(' ').filter(|word| !word.is_empty()));
        }
        let halves =
            [("reused", 0..self.reuse_len.min(self.len())), ("A and B", self.reuse_len.min(self.len())..self.len())];
        let _ = writeln!(out, "\norder of prediction; each token sees the context and those before it");
        for (name, range) in halves {
            let order = self.order(range, &classes);
            let words: Vec<String> = order.iter().map(|&i| format!("{i}:{}", self.pieces[i])).collect();
            let _ = writeln!(out, "{name}");
            wrap(&mut out, words.iter().map(String::as_str));
        }
        self.table(&mut out, &classes);
        self.braille(&mut out);
        out
    }

    /// One token a line.
    fn table(&self, out: &mut String, classes: &[TokenClass]) {
        let mut place = vec![None; self.len()];
        for half in [0..self.reuse_len.min(self.len()), self.reuse_len.min(self.len())..self.len()] {
            self.order(half, classes).into_iter().enumerate().for_each(|(n, i)| place[i] = Some(n + 1));
        }
        let _ = writeln!(out, "\nposition segment  predicted  sees      id  token");
        for (i, &id) in self.record.input.iter().enumerate() {
            let mark = match (classes[i], place[i], self.record.is_masked[i]) {
                (TokenClass::Target, Some(n), _) => format!("* {n}."),
                (TokenClass::Functional, _, true) => "-".into(), // chosen, but never predicted
                _ => String::new(),
            };
            let sees = (0..self.len()).filter(|&j| self.sees(i, j)).count();
            let (segment, piece) = (self.record.segment_ids[i], &self.pieces[i]);
            let _ = writeln!(out, "{i:>8} {segment:>7}  {mark:<9} {sees:>5} {id:>7}  {piece}");
        }
    }

    /// The mask, eight positions a character; only where it fits a line.
    fn braille(&self, out: &mut String) {
        let len = self.len();
        if len > 2 * WIDTH {
            let _ = writeln!(out, "\nmask of {len} x {len}: too wide for a terminal; see --svg");
            return;
        }
        let _ = writeln!(out, "\nmask: a dot where the query (down) sees the key (across), 4 x 2 a character");
        const DOTS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
        for top in (0..len).step_by(4) {
            for left in (0..len).step_by(2) {
                let mut cell = 0x2800; // the empty braille pattern
                for (i, row) in DOTS.iter().enumerate() {
                    for (j, dot) in row.iter().enumerate() {
                        if top + i < len && left + j < len && self.sees(top + i, left + j) {
                            cell |= dot;
                        }
                    }
                }
                out.extend(char::from_u32(cell));
            }
            out.push('\n');
        }
    }
}

fn span(range: &Range<usize>) -> String {
    if range.is_empty() { "empty".into() } else { format!("{}-{}", range.start, range.end - 1) }
}

/// Appends `words` in lines, two spaces in.
fn wrap<'a>(out: &mut String, words: impl Iterator<Item = &'a str>) {
    let mut column = 0;
    for word in words {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > WIDTH {
            out.push('\n');
            column = 0;
        }
        out.push_str(if column == 0 { "  " } else { " " });
        out.push_str(word);
        column += width + if column == 0 { 2 } else { 1 };
    }
    if column > 0 {
        out.push('\n');
    }
}

#[cfg(test)]
mod tests;
