//! Which rows of a batch read their text backwards, and what the text itself says about it.
//!
//! With `bi_data` the rows are laid out by core: each core's share holds its forward rows first, then the same rows
//! backwards. The original's names and index files do not tell the number of cores, and nothing in it checks that
//! training counts as many as the data were made for; where it does not, half of the rows get the wrong sign of
//! distance. But a backward row repeats its forward row's text in reverse, so the rows tell.

/// Whether row `row` of a batch reads its text backwards.
///
/// With `bi_data`, each of `num_core` equal slices of the `bsz` rows holds its forward rows first, then the same rows
/// backwards.
pub fn is_backward(row: usize, bsz: usize, num_core: usize, bi_data: bool) -> bool {
    let per_core = bsz / num_core;
    bi_data && row % per_core >= per_core / 2
}

/// Numbers of cores for which `bsz` rows in both directions can be laid out, ascending.
pub(crate) fn possible_cores(bsz: usize) -> impl Iterator<Item = usize> {
    (1..=bsz / 2).filter(move |cores| bsz.is_multiple_of(2 * cores))
}

/// Steps at either end of a row that hold the same text.
const LAST: usize = 3;

/// Whether [`shown_by_text`] looks at a step; it is the same without the others.
pub(crate) fn is_at_end(step: u64, steps: u64) -> bool {
    step < LAST as u64 || step + LAST as u64 >= steps
}

/// The number of cores whose layout the text of the rows shows, `told` if it is among several; `None` where fewer than
/// three steps, or rows that do not repeat each other, show nothing.
///
/// `input` holds the tokens of all records in order, sequences of `2 * reuse_len` or more whose first `reuse_len` tokens
/// go on from step to step.
pub(crate) fn shown_by_text(
    input: &[i32], // [steps * bsz, seq_len]
    bsz: usize,
    seq_len: usize,
    reuse_len: usize,
    told: Option<usize>,
) -> Option<usize> {
    let steps = input.len() / (bsz * seq_len);
    if steps < LAST {
        return None;
    }
    let head = |step: usize, row: usize| {
        let at = (step * bsz + row) * seq_len;
        &input[at..at + reuse_len]
    };
    // The forward row stops up to two reuse_len short of its stream's end, where the backward row begins; the third head
    // of the backward row therefore lies whole in the last heads of the forward row.
    let repeats = |forward: usize, backward: usize| {
        let end: Vec<i32> = (steps - LAST..steps).flat_map(|step| head(step, forward)).copied().collect();
        let reversed: Vec<i32> = head(LAST - 1, backward).iter().rev().copied().collect();
        end.windows(reuse_len).any(|part| part == reversed)
    };
    let fits = |cores: &usize| {
        let per_core = bsz / cores;
        let pair = |pair: usize| {
            let forward = pair / (per_core / 2) * per_core + pair % (per_core / 2);
            (forward, forward + per_core / 2)
        };
        (0..bsz / 2).map(pair).all(|(forward, backward)| repeats(forward, backward))
    };
    let told = told.filter(|cores| possible_cores(bsz).any(|possible| possible == *cores));
    told.filter(fits).or_else(|| possible_cores(bsz).find(fits))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of streams of `len` tokens, cut as the original cuts them; second halves hold other text.
    fn records(bsz: usize, cores: usize, len: usize, token: impl Fn(usize) -> i32) -> Vec<i32> {
        let (seq_len, reuse_len) = (16, 8);
        let half = bsz / cores / 2;
        let mut input = Vec::new();
        for step in 0..(len - seq_len) / reuse_len + 1 {
            for row in 0..bsz {
                let stream = row / (2 * half) * half + row % half;
                let place = |i: usize| if is_backward(row, bsz, cores, true) { len - 1 - i } else { i };
                let text = |i: usize| token(stream * len + place(step * reuse_len + i));
                input.extend((0..reuse_len).map(text));
                input.extend([-1; 8]);
            }
        }
        input
    }

    #[test]
    fn text_shows_the_layout() {
        for cores in [1, 2, 3, 6] {
            for len in 33..60 {
                let input = records(12, cores, len, |i| i as i32);
                let steps = input.len() / (12 * 16);
                let shown = |told| shown_by_text(&input, 12, 16, 8, told);
                let expected = Some(cores).filter(|_| steps >= 3);
                let at_end = |(step, _): &(usize, _)| is_at_end(*step as u64, steps as u64);
                let ends: Vec<i32> =
                    input.chunks(12 * 16).enumerate().filter(at_end).flat_map(|s| s.1.to_vec()).collect();
                assert_eq!(shown_by_text(&ends, 12, 16, 8, None), expected, "{cores} {len}, both ends");
                assert_eq!(
                    [shown(None), shown(Some(1)), shown(Some(5)), shown(Some(0))],
                    [expected; 4],
                    "{cores} {len}"
                );
            }
        }
        // The same word everywhere fits every layout; then what was told holds.
        let input = records(12, 2, 60, |_| 7);
        assert_eq!(shown_by_text(&input, 12, 16, 8, Some(3)), Some(3));
        // Rows of one direction, or too few steps, show nothing.
        let input: Vec<i32> = (0..12 * 16 * 5).collect();
        assert_eq!(shown_by_text(&input, 12, 16, 8, Some(2)), None);
        assert_eq!(shown_by_text(&input[..12 * 16 * 2], 12, 16, 8, None), None);
    }
}
