//! Questions to windows: paragraph, question, and the answer's place in pieces.

use super::align::{align, cleaned, partner};
use crate::Result;
use crate::data::special::{CLS, SEP};
use crate::task::encoder::Encoder;
use crate::task::example::Question;
use crate::task::feature::{Feature, Sequence, Target, Window};

/// Lengths of windows, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Of a whole window.
    pub max_seq_length: usize,
    /// Of the question, whose end is cut off.
    pub max_query_length: usize,
    /// From one window to the next.
    pub doc_stride: usize,
}

/// A paragraph in pieces, with the characters that each piece stands for.
#[derive(Clone, Debug)]
pub struct Pieces {
    ids: Vec<i32>,
    characters: Vec<(u32, u32)>,
    to_pieces: Vec<Option<u32>>, // character of the context to character of the pieces
    piece_of: Vec<u32>,          // character of the pieces to piece
}

impl Pieces {
    /// Encodes and aligns a paragraph; `Ok(None)` when the pieces are not the paragraph's text.
    ///
    /// # Errors
    /// When the paragraph cannot be encoded.
    pub fn new(context: &str, encoder: &Encoder) -> Result<Option<Pieces>> {
        let tokens = encoder.tokens(context)?;
        let context: Vec<char> = context.chars().collect();
        let (mut text, mut piece_of, mut ends) = (vec![], vec![], vec![]);
        for (i, token) in tokens.iter().enumerate() {
            let first = text.len();
            text.extend(token.piece.chars().map(|c| if c == crate::data::tokenizer::SPACE_MARK { ' ' } else { c }));
            piece_of.resize(text.len(), i as u32);
            ends.push((first, text.len().saturating_sub(1)));
        }
        let Some(alignment) = align(&cleaned(&context, &encoder.text), &text) else { return Ok(None) };
        let n = context.len();
        let place = |at, start| partner(&alignment.to_context, at, Some(n), start).unwrap_or(0) as u32;
        let characters = ends.into_iter().map(|(first, last)| (place(first, true), place(last, false))).collect();
        let ids = tokens.iter().map(|token| token.id as i32).collect();
        Ok(Some(Pieces { ids, characters, to_pieces: alignment.to_pieces, piece_of }))
    }

    /// First and last piece of an answer; `clamp` moves places beyond the paragraph onto its last character, as the
    /// Chinese program does. `None` when there are no such pieces, or the last comes before the first.
    pub fn answer(&self, start: usize, length: usize, clamp: bool) -> Option<(usize, usize)> {
        let end = (start + length).checked_sub(1)?;
        let place = |at: usize, first| {
            let at = if clamp { at.min(self.to_pieces.len().saturating_sub(1)) } else { at };
            let character = partner(&self.to_pieces, at, None, first)?;
            self.piece_of.get(character).map(|&piece| piece as usize)
        };
        let (start, end) = (place(start, true)?, place(end, false)?);
        (start <= end).then_some((start, end))
    }
}

/// First pieces and numbers of pieces of the windows of a paragraph.
pub fn windows(pieces: usize, longest: usize, stride: usize) -> Vec<(usize, usize)> {
    let (mut windows, mut start) = (vec![], 0);
    while start < pieces {
        let length = (pieces - start).min(longest);
        windows.push((start, length));
        if start + length == pieces {
            break;
        }
        start += length.min(stride);
    }
    windows
}

/// The window that shows a piece with most context: the first of the best.
fn best_window(windows: &[(usize, usize)], piece: usize) -> Option<usize> {
    let mut best: Option<(f64, usize)> = None;
    for (i, &(start, length)) in windows.iter().enumerate() {
        if piece < start || piece >= start + length {
            continue;
        }
        let context = (piece - start).min(start + length - 1 - piece);
        let score = context as f64 + 0.01 * length as f64;
        if best.is_none_or(|(most, _)| score > most) {
            best = Some((score, i));
        }
    }
    best.map(|(_, i)| i)
}

/// `P SEP Q SEP CLS` for every window of the paragraph; with `training` each has the answer's place, or CLS where it
/// shows none of it. `Err` of the inner result says why the question has no features.
///
/// # Errors
/// When the question cannot be encoded.
pub fn convert(
    question: &Question,
    index: usize,
    pieces: &Pieces,
    encoder: &Encoder,
    lengths: Lengths,
    training: bool,
    clamp: bool,
) -> Result<std::result::Result<Vec<Feature>, String>> {
    let mut query = encoder.ids(&question.question)?;
    query.truncate(lengths.max_query_length);
    let answer = match question.answers.first().filter(|_| training && !question.impossible) {
        None => None,
        Some(answer) => {
            let place = answer.start.and_then(|start| pieces.answer(start, answer.text.chars().count(), clamp));
            if place.is_none() {
                let (id, at) =
                    (&question.id, answer.start.map_or("an unknown place".into(), |at| format!("character {at}")));
                return Ok(Err(format!("question {id}: the answer at {at} is not in its paragraph")));
            }
            place
        }
    };
    let longest = lengths.max_seq_length - query.len() - 3;
    let windows = windows(pieces.ids.len(), longest, lengths.doc_stride);
    let mut best = vec![0; pieces.ids.len()];
    for (piece, best) in best.iter_mut().enumerate() {
        *best = best_window(&windows, piece).unwrap_or(0);
    }
    let mut features = vec![];
    for (i, &(start, length)) in windows.iter().enumerate() {
        let shown = start..start + length;
        let mut sequence = Sequence::default();
        sequence.extend(&pieces.ids[shown.clone()], 0);
        sequence.push(SEP, 0);
        sequence.extend(&query, 1);
        sequence.push(SEP, 1);
        let cls = sequence.len();
        sequence.push(CLS, 2);
        let target = match answer {
            _ if !training => Target::None,
            Some((first, last)) if first >= start && last < shown.end => {
                Target::Span { start: first - start, end: last - start, impossible: false }
            }
            _ => Target::Span { start: cls, end: cls, impossible: true },
        };
        let window = Window {
            index: i,
            paragraph_len: length,
            characters: pieces.characters[shown.clone()].to_vec(),
            max_context: best[shown].iter().map(|&window| window == i).collect(),
        };
        features.push(Feature { example: index, sequences: vec![sequence], target, window: Some(window) });
    }
    Ok(Ok(features))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_step_by_the_stride_and_end_with_the_paragraph() {
        assert_eq!(windows(10, 6, 3), [(0, 6), (3, 6), (6, 4)]);
        assert_eq!(windows(6, 6, 3), [(0, 6)]);
        assert_eq!(windows(9, 4, 8), [(0, 4), (4, 4), (8, 1)]);
        assert_eq!(windows(0, 4, 2), []);
    }
    #[test]
    fn longer_windows_win_between_equals() {
        let all = windows(10, 6, 3);
        // Piece 4: one to the right in the first window, one to the left in the second; both are as long.
        assert_eq!(best_window(&all, 4), Some(0));
        assert_eq!(best_window(&all, 5), Some(1));
        // Piece 8: none to the right in the second, one in the last.
        assert_eq!(best_window(&all, 8), Some(2));
        assert_eq!(best_window(&all, 10), None);
    }
}
