//! Which rows of a batch belong together when it is worked on in parts: by ranks, in micro-batches, or both.

use super::row_layout::is_backward;

/// The rows of a batch of `bsz` in the order in which `parts` equal parts take them, one after the other.
///
/// With `bi_data` each part has as many backward rows as forward rows, forward rows first, wherever these can be dealt out
/// evenly; a backward row is with the forward row of the same text. Else, and for one part, rows stay as they lie.
///
/// What a row is does not depend on this: its direction is that of its place in the records.
pub fn rows_of_parts(bsz: usize, num_core: usize, bi_data: bool, parts: usize) -> Vec<usize> {
    let (backward, forward): (Vec<usize>, Vec<usize>) =
        (0..bsz).partition(|&row| is_backward(row, bsz, num_core, bi_data));
    if parts <= 1 || !bi_data || forward.len() != backward.len() || !forward.len().is_multiple_of(parts) {
        return (0..bsz).collect();
    }
    let half = forward.len() / parts;
    forward.chunks(half).zip(backward.chunks(half)).flat_map(|(f, b)| [f, b].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_both_directions() {
        // One core: all forward rows lie first.
        assert_eq!(rows_of_parts(8, 1, true, 2), [0, 1, 4, 5, 2, 3, 6, 7]);
        assert_eq!(rows_of_parts(8, 1, true, 4), [0, 4, 1, 5, 2, 6, 3, 7]);
        // As many cores as parts: as they lie. More: the forward rows of its cores, then their backward rows.
        assert_eq!(rows_of_parts(8, 2, true, 2), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(rows_of_parts(8, 4, true, 2), [0, 2, 1, 3, 4, 6, 5, 7]);
        for (bsz, num_core) in [(8, 1), (8, 2), (8, 4), (24, 3), (12, 2)] {
            for parts in (1..=bsz).filter(|p| bsz % (2 * p) == 0) {
                let rows = rows_of_parts(bsz, num_core, true, parts);
                let mut sorted = rows.clone();
                sorted.sort_unstable();
                assert!(sorted.into_iter().eq(0..bsz));
                for part in rows.chunks(bsz / parts).filter(|_| parts > 1) {
                    let (first, second) = part.split_at(part.len() / 2);
                    assert!(first.iter().all(|&row| !is_backward(row, bsz, num_core, true)), "{rows:?}");
                    assert!(second.iter().all(|&row| is_backward(row, bsz, num_core, true)), "{rows:?}");
                }
            }
        }
    }

    #[test]
    fn rows_that_cannot_be_dealt_out_stay() {
        assert_eq!(rows_of_parts(4, 1, true, 4), [0, 1, 2, 3]);
        assert_eq!(rows_of_parts(6, 1, true, 2), [0, 1, 2, 3, 4, 5]);
        assert_eq!(rows_of_parts(4, 1, false, 2), [0, 1, 2, 3]);
        assert_eq!(rows_of_parts(8, 2, true, 1), [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
