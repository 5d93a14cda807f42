//! Which characters of a paragraph each piece of its vocabulary's text stands for.
//!
//! Cleaning and pieces change the text, so characters are paired by a longest common subsequence within a band around
//! the diagonal, with the original's order of preference; every choice between equals shows in the answers' offsets.

use crate::data::text::{TextOptions, preprocess_text};

/// Pairs of characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// For each character of the paragraph its partner in the text of the pieces.
    pub to_pieces: Vec<Option<u32>>, // [n]
    /// For each character of the text of the pieces its partner in the paragraph.
    pub to_context: Vec<Option<u32>>, // [m]
}

/// Largest band in cells: 1 GiB of moves. Texts that differ so much are no cleaning of each other.
const MOST_CELLS: usize = 1 << 30;

/// Each character as the cleaning would leave it alone; `None` when it would become several or none.
pub fn cleaned(context: &[char], options: &TextOptions) -> Vec<Option<char>> {
    let options = TextOptions { remove_space: false, ..*options };
    let mut buffer = [0; 4];
    let clean = |&c: &char| {
        if c.is_ascii() {
            return Some(if options.lower { c.to_ascii_lowercase() } else { c });
        }
        let text = preprocess_text(c.encode_utf8(&mut buffer), &options);
        let mut chars = text.chars();
        chars.next().filter(|_| chars.next().is_none())
    };
    context.iter().map(clean).collect()
}

/// What a cell of the table came from.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Move {
    /// Nowhere: the way back ends here.
    None,
    /// The character above.
    Up,
    /// The character on the left.
    Left,
    /// Both, which match.
    Match,
}

/// Pairs `context`, as [`cleaned`], with `text`; `None` when less than four fifths of it find a partner.
pub fn align(context: &[Option<char>], text: &[char]) -> Option<Alignment> {
    let (n, m) = (context.len(), text.len());
    if n == 0 || m == 0 {
        return None;
    }
    let enough = 0.8 * n as f64;
    let mut width = n.abs_diff(m) + 5;
    let (mut moves, mut length) = table(context, text, width)?;
    if f64::from(length) <= enough {
        width *= 2;
        (moves, length) = table(context, text, width)?;
    }
    if f64::from(length) < enough {
        return None;
    }
    let mut alignment = Alignment { to_pieces: vec![None; n], to_context: vec![None; m] };
    let (mut i, mut j) = (n, m); // one beyond the cell, so that 0 means outside
    let mut any = false;
    while i > 0 && j > 0 {
        let Some(column) = (j - 1 + width).checked_sub(i - 1).filter(|&c| c < 2 * width) else { break };
        match moves[(i - 1) * 2 * width + column] {
            Move::None => break,
            Move::Up => i -= 1,
            Move::Left => j -= 1,
            Move::Match => {
                (i, j) = (i - 1, j - 1);
                alignment.to_pieces[i] = Some(j as u32);
                alignment.to_context[j] = Some(i as u32);
                any = true;
            }
        }
    }
    any.then_some(alignment)
}

/// Moves of every cell, `[n, 2 width]` with column `j - i + width`, and the length of the longest subsequence.
fn table(context: &[Option<char>], text: &[char], width: usize) -> Option<(Vec<Move>, u32)> {
    let (n, m, columns) = (context.len(), text.len(), 2 * width);
    if n.checked_mul(columns)? > MOST_CELLS {
        return None;
    }
    let mut moves = vec![Move::None; n * columns];
    let (mut above, mut row) = (vec![0u32; columns + 1], vec![0u32; columns + 1]); // one more: beyond the band is 0
    for (i, &character) in context.iter().enumerate() {
        let moves = &mut moves[i * columns..][..columns];
        row.fill(0);
        let first = width.saturating_sub(i); // the column of j = 0, where the band reaches it
        let end = (m + width).saturating_sub(i).min(columns);
        for c in first..end {
            let j = c + i - width;
            let (mut best, mut from) = (0, Move::None);
            if i > 0 {
                (best, from) = (above[c + 1], Move::Up);
            }
            if j > 0 && c > 0 && row[c - 1] > best {
                (best, from) = (row[c - 1], Move::Left);
            }
            if character == Some(text[j]) {
                let before = if i > 0 && j > 0 { above[c] } else { 0 };
                if before + 1 > best {
                    (best, from) = (before + 1, Move::Match);
                }
            }
            (row[c], moves[c]) = (best, from);
        }
        std::mem::swap(&mut above, &mut row);
    }
    let last = m - 1 + width - (n - 1);
    Some((moves, above[last]))
}

/// The partner of position `at`, or where it would be between its neighbours' partners: as the first character of
/// something (`start`) or as its last. `length` is that of the other side, where the end may reach beyond the last
/// partner.
pub fn partner(map: &[Option<u32>], at: usize, length: Option<usize>, start: bool) -> Option<usize> {
    if let Some(partner) = *map.get(at)? {
        return Some(partner as usize);
    }
    let left = map[..at].iter().rev().find_map(|p| *p).map(|p| p as usize);
    let right = map[at..].iter().find_map(|p| *p).map(|p| p as usize);
    Some(match (left, right) {
        (None, None) => return None,
        (None, Some(right)) if right >= 1 => {
            if start {
                0
            } else {
                right - 1
            }
        }
        (None, Some(right)) => right,
        (Some(left), None) => match length.filter(|&length| left + 1 < length) {
            Some(_) if start => left + 1,
            Some(length) => length - 1,
            None => left,
        },
        (Some(left), Some(right)) => match (start, right > left + 1) {
            (true, true) => left + 1,
            (true, false) => right,
            (false, true) => right - 1,
            (false, false) => left,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(context: &str, text: &str) -> Option<Alignment> {
        let context: Vec<char> = context.chars().collect();
        let text: Vec<char> = text.chars().collect();
        align(&cleaned(&context, &TextOptions::default()), &text)
    }

    #[test]
    fn equal_texts_with_the_leading_space() {
        let alignment = pair("abc de", " abc de").unwrap();
        assert_eq!(alignment.to_pieces, (1..7).map(Some).collect::<Vec<_>>());
        assert_eq!(alignment.to_context[0], None);
        assert_eq!(partner(&alignment.to_context, 0, Some(6), true), Some(0));
        // The first pair's partner is 0, so there is nothing before it to end at.
        assert_eq!(partner(&alignment.to_context, 0, Some(6), false), Some(0));
    }
    #[test]
    fn characters_that_become_several_have_no_partner() {
        // One half is one character here and three there.
        let alignment = pair("abcdefgh½ijklmnop", " abcdefgh1⁄2ijklmnop").unwrap();
        assert_eq!(alignment.to_pieces[8], None);
        assert_eq!(alignment.to_pieces[9], Some(12));
        assert_eq!(partner(&alignment.to_pieces, 8, None, true), Some(9));
        assert_eq!(partner(&alignment.to_pieces, 8, None, false), Some(11));
        // Between neighbours that touch, the first character is the right one's and the last the left one's.
        assert_eq!(partner(&alignment.to_context, 10, Some(17), true), Some(8));
        assert_eq!(partner(&alignment.to_context, 10, Some(17), false), Some(8));
    }
    #[test]
    fn other_texts_do_not_align() {
        assert_eq!(pair("abcdefghij", " klmnopqrst"), None);
        assert_eq!(pair("", " a"), None);
        assert_eq!(pair("a", ""), None);
    }
    #[test]
    fn gaps_at_the_ends() {
        let map = [None, Some(3), None, None, Some(4), None];
        assert_eq!(partner(&map, 0, None, true), Some(0));
        assert_eq!(partner(&map, 0, None, false), Some(2));
        assert_eq!(partner(&map, 2, None, true), Some(4));
        assert_eq!(partner(&map, 3, None, false), Some(3));
        assert_eq!(partner(&map, 5, None, true), Some(4));
        assert_eq!(partner(&map, 5, Some(9), true), Some(5));
        assert_eq!(partner(&map, 5, Some(9), false), Some(8));
        assert_eq!(partner(&map, 6, None, true), None);
        assert_eq!(partner(&[None, None], 1, None, true), None);
    }
}
