//! What every task's examples become: padded sequences with targets.

use serde::{Deserialize, Serialize};

/// Which end of a sequence is padded, and with what segment; token 0 fills both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Padding {
    /// On the left, segment 4: CLS is the last position. Classification, choices, tokens.
    Left,
    /// On the right, segment 3. Spans.
    Right,
}

impl Padding {
    /// Segment id of padding.
    pub fn segment(self) -> i32 {
        match self {
            Padding::Left => 4,
            Padding::Right => 3,
        }
    }
    /// `values` with `fill` up to `length`.
    pub fn pad<T: Copy>(self, values: &[T], fill: T, length: usize) -> Vec<T> {
        let missing = std::iter::repeat_n(fill, length.saturating_sub(values.len()));
        let values = values.iter().copied();
        match self {
            Padding::Left => missing.chain(values).collect(),
            Padding::Right => values.chain(missing).collect(),
        }
    }
    /// Where position 0 of `real` tokens lies among `length` positions.
    pub fn offset(self, real: usize, length: usize) -> usize {
        match self {
            Padding::Left => length.saturating_sub(real),
            Padding::Right => 0,
        }
    }
}

/// Tokens of one row of a batch, without padding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// Token ids.
    pub ids: Vec<i32>,
    /// Segment ids, as long.
    pub segments: Vec<i32>,
}

impl Sequence {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
    /// Appends tokens of one segment.
    pub fn extend(&mut self, ids: &[i32], segment: i32) {
        self.ids.extend(ids);
        self.segments.resize(self.ids.len(), segment);
    }
    /// Appends one token.
    pub fn push(&mut self, id: i32, segment: i32) {
        self.extend(&[id], segment);
    }
}

/// What a model should answer for a feature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Target {
    /// Not known.
    None,
    /// A class, or the right one of several choices.
    Class(usize),
    /// A number.
    Value(f64),
    /// Positions among the feature's tokens.
    Span {
        /// First piece of the answer; the position of CLS where there is none.
        start: usize,
        /// Last piece, inclusive.
        end: usize,
        /// This window holds no answer.
        impossible: bool,
    },
    /// A class for every token; -1 where none is wanted.
    Tokens(Vec<i32>),
}

/// What a window of a paragraph needs for turning positions into text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Number of the window within its question, from 0.
    pub index: usize,
    /// Pieces of the paragraph in this window; they come first.
    pub paragraph_len: usize,
    /// First and last character of the context for each piece.
    pub characters: Vec<(u32, u32)>, // [paragraph_len]
    /// Whether this is the window that shows the piece with most context.
    pub max_context: Vec<bool>, // [paragraph_len]
}

/// One example, or one window of it, as a model sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feature {
    /// Index of its example.
    pub example: usize,
    /// One sequence; one for each choice of a multiple choice.
    pub sequences: Vec<Sequence>,
    /// The right answer.
    pub target: Target,
    /// Only for spans.
    pub window: Option<Window>,
}

impl Feature {
    /// Tokens of its longest sequence.
    pub fn longest(&self) -> usize {
        self.sequences.iter().map(Sequence::len).max().unwrap_or(0)
    }
    /// 1 where no answer may lie: everything but the paragraph and CLS.
    pub fn barred(&self, length: usize) -> Vec<f32> {
        let paragraph = self.window.as_ref().map_or(0, |w| w.paragraph_len);
        let cls = self.cls();
        (0..length).map(|at| if at < paragraph || at == cls { 0.0 } else { 1.0 }).collect()
    }
    /// Position of CLS among the tokens of the first sequence: the last.
    pub fn cls(&self) -> usize {
        self.sequences.first().map_or(0, |s| s.len().saturating_sub(1))
    }
}
