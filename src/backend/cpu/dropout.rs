//! Dropout: the mask is drawn where it is used, from the flat index of the element.

use super::blocks::{BLOCK, for_each, part, part_mut};
use super::real::Real;
use super::vector::vectorize;
use crate::Result;
use crate::op::DropoutSite;
use crate::op::philox::{DECISIONS, Keep};

/// The mask of one site in one step.
#[derive(Clone, Copy)]
pub struct DropoutMask {
    keep: Keep,
    site: u32,
}

/// Decisions drawn at a time, on the stack.
const DRAWN: usize = 512;
const _: () = assert!(DRAWN.is_multiple_of(DECISIONS) && BLOCK.is_multiple_of(DECISIONS));

impl DropoutMask {
    /// The mask of `site` under this step's key.
    ///
    /// # Errors
    /// When the rate is out of range.
    pub fn new(key: [u32; 2], site: DropoutSite) -> Result<Self> {
        Ok(DropoutMask { keep: Keep::new(key, f64::from(site.rate))?, site: site.site })
    }

    /// `x *= mask * scale` for the elements of the tensor from `first` on, a multiple of [`DECISIONS`].
    #[inline(always)]
    pub fn apply<R: Real>(self, first: usize, x: &mut [R]) {
        let scale = R::from_f64(self.keep.scale());
        let mut drawn = [R::ZERO; DRAWN];
        for (i, x) in x.chunks_mut(DRAWN).enumerate() {
            let drawn = &mut drawn[..x.len()];
            self.keep.elements((first + i * DRAWN) as u64, self.site, scale, drawn);
            for (x, &factor) in x.iter_mut().zip(&*drawn) {
                *x *= factor;
            }
        }
    }
}

/// `out = x * mask * scale`; without `x`, `out` is changed in place.
pub fn dropout<R: Real>(out: &mut [R], x: Option<&[R]>, mask: DropoutMask) {
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
        let site = DropoutSite { key: TensorId(0), site: 3, rate: 0.5 };
        let mask = DropoutMask::new([1, 2], site).unwrap();
        for n in [1, 3, 17, 33, 2 * BLOCK + 5] {
            let x: Vec<f64> = (1..=n).map(|i| i as f64).collect();
            let mut want = vec![0.0; n];
            Keep::new([1, 2], 0.5).unwrap().elements(0, 3, 2.0, &mut want);
            for (want, x) in want.iter_mut().zip(&x) {
                *want *= x;
            }
            let mut out = vec![f64::NAN; n];
            dropout(&mut out, Some(&x), mask);
            assert_eq!(out, want);
            let mut same = x;
            dropout(&mut same, None, mask);
            assert_eq!(same, want);
        }
    }
}
