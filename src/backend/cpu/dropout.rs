//! Dropout: the mask is drawn where it is used, from the place of the element in the whole batch.

use super::blocks::{BLOCK, for_each, part, part_mut};
use super::real::Real;
use super::vector::vectorize;
use crate::op::philox::{DECISIONS, Keep, Place};
use crate::op::{DropoutSite, KEY_LEN};
use crate::{Error, Result};

/// The mask of one site in one step, over a tensor of rows.
#[derive(Clone, Copy)]
pub struct DropoutMask<'k> {
    keep: Keep,
    site: u32,
    batch_rows: &'k [u32], // [B]
    place: Place,
    width: usize,
}

/// Decisions drawn at a time, on the stack.
const DRAWN: usize = 512;
const _: () = assert!(DRAWN.is_multiple_of(DECISIONS));

/// Key of a step and numbers of the batch rows, of a key tensor `[2 + B]`.
pub fn split_key(key: &[u32]) -> ([u32; 2], &[u32]) {
    ([key[0], key[1]], &key[KEY_LEN..])
}

impl<'k> DropoutMask<'k> {
    /// The mask of `site` under this step's `key [2 + B]`, for a tensor `[rows, width]`.
    ///
    /// # Errors
    /// When the rate is out of range, or the rows are no multiple of those of the batch.
    pub fn new(key: &'k [u32], site: DropoutSite, [rows, width]: [usize; 2]) -> Result<Self> {
        let (key, batch_rows) = split_key(key);
        let batch = batch_rows.len();
        let place = Place::new(rows, batch, site.lead).ok_or_else(|| {
            Error::shape("dropout", "rows", format!("{} or more for each of {batch}", site.lead), rows)
        })?;
        Ok(DropoutMask { keep: Keep::new(key, f64::from(site.rate))?, site: site.site, batch_rows, place, width })
    }

    /// `x *= mask * scale` for the elements of the tensor from `first` on.
    #[inline(always)]
    pub fn apply<R: Real>(self, first: usize, x: &mut [R]) {
        let scale = R::from_f64(self.keep.scale());
        let mut drawn = [R::ZERO; DRAWN];
        let (mut at, mut rest) = (first, x);
        while !rest.is_empty() {
            let (r, c) = (at / self.width, at % self.width);
            // Blocks of decisions begin at multiples of their size; the first one may be needed from its middle on.
            let skip = c % DECISIONS;
            let count = (self.width - c).min(DRAWN - skip).min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            let drawn = &mut drawn[..skip + count];
            let (batch_row, i) = self.place.of(r);
            self.keep.row([i as u32, self.batch_rows[batch_row], self.site], c - skip, scale, drawn);
            for (x, &factor) in now.iter_mut().zip(&drawn[skip..]) {
                *x *= factor;
            }
            (at, rest) = (at + count, later);
        }
    }
}

/// `out = x * mask * scale`; without `x`, `out` is changed in place.
pub fn dropout<R: Real>(out: &mut [R], x: Option<&[R]>, mask: DropoutMask<'_>) {
    let blocks = out.len().div_ceil(BLOCK);
    for_each(blocks, (part_mut(out, BLOCK), x.map(|x| part(x, BLOCK))), |block, (mut out, x)| {
        vectorize(
            #[inline(always)]
            || {
                if let Some(x) = &x {
                    out.copy_from_slice(x);
                }
                mask.apply(block * BLOCK, &mut out);
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::TensorId;

    #[test]
    fn drops_what_philox_says() {
        // Batch rows of the first and of the second part, in blocks of threads that begin anywhere in a row.
        for (batch, lead, tail, width) in
            [(1, 1, 0, 1), (2, 3, 0, 17), (3, 2, 1, 33), (2, 5, 4, BLOCK - 3), (1, 0, 2, 600)]
        {
            let site = DropoutSite { key: TensorId(0), site: 3, rate: 0.5, lead };
            let key: Vec<u32> = [1, 2].into_iter().chain((0..batch).map(|b| 7 * b + 5)).collect();
            let rows = batch as usize * (lead + tail);
            let mask = DropoutMask::new(&key, site, [rows, width]).unwrap();
            let keep = Keep::new([1, 2], 0.5).unwrap();
            let mut want = vec![];
            for (part, first) in [(lead, 0), (tail, lead)] {
                for (b, i) in (0..batch).flat_map(|b| (0..part).map(move |i| (b, first + i))) {
                    let mut row = vec![0.0; width];
                    keep.row([i as u32, 7 * b + 5, 3], 0, 2.0, &mut row);
                    want.extend(row);
                }
            }
            let x: Vec<f64> = (1..=rows * width).map(|i| i as f64).collect();
            for (want, x) in want.iter_mut().zip(&x) {
                *want *= x;
            }
            let mut out = vec![f64::NAN; x.len()];
            dropout(&mut out, Some(&x), mask);
            assert_eq!(out, want);
            let mut same = x;
            dropout(&mut same, None, mask);
            assert_eq!(same, want);
        }
        let site = DropoutSite { key: TensorId(0), site: 3, rate: 0.5, lead: 2 };
        assert!(DropoutMask::new(&[1, 2, 0, 1], site, [5, 4]).is_err());
    }
}
