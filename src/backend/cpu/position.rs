//! Sinusoids, computed in double precision and rounded once.

use super::blocks::{BLOCK, for_each, part_mut};
use super::real::Real;

/// Fills `out [G, P, d]`; `backward(g)` says whether group `g` has negated distances.
pub fn position_encoding<R: Real>(
    out: &mut [R],
    [positions, d]: [usize; 2],
    keys: usize,
    clamp_len: Option<usize>,
    backward: impl Fn(usize) -> bool + Sync,
) {
    if out.is_empty() {
        return;
    }
    let half = d / 2;
    let (first, others) = out.split_at_mut(positions * d);
    let sign = if backward(0) { -1.0 } else { 1.0 };
    let rows = (BLOCK / 8 / d).max(1); // a sine costs as much as some dozen products
    for_each(positions.div_ceil(rows), part_mut(first, rows * d), |block, mut out| {
        for i in 0..half {
            let frequency = 10000f64.powf(-2.0 * i as f64 / d as f64);
            for (t, row) in out.chunks_exact_mut(d).enumerate() {
                let limit = clamp_len.map_or(f64::INFINITY, |limit| limit as f64);
                let distance = (keys as f64 - (block * rows + t) as f64).clamp(-limit, limit) * sign;
                let (sin, cos) = (distance * frequency).sin_cos();
                row[i] = R::from_f64(sin);
                row[half + i] = R::from_f64(cos);
            }
        }
    });
    // The sine is odd and the cosine even, so the other groups differ in signs alone.
    let first = &*first;
    let groups = others.len() / first.len();
    for_each(groups, part_mut(others, first.len()), |g, mut out| {
        let flip = if groups > 0 && backward(g + 1) != backward(0) { -R::ONE } else { R::ONE };
        for (out, row) in out.chunks_exact_mut(d).zip(first.chunks_exact(d)) {
            for (out, &x) in out[..half].iter_mut().zip(&row[..half]) {
                *out = x * flip;
            }
            out[half..].copy_from_slice(&row[half..]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinusoids_of_signed_clamped_distances() {
        for (groups, positions, d, keys, clamp) in
            [(1, 1, 2, 1, None), (2, 17, 6, 9, None), (3, 33, 34, 20, Some(5)), (1, 3, 2, 0, None)]
        {
            let mut out = vec![f64::NAN; groups * positions * d];
            position_encoding(&mut out, [positions, d], keys, clamp, |g| g == 1);
            for (at, &got) in out.iter().enumerate() {
                let (g, t, c) = (at / d / positions, at / d % positions, at % d);
                let mut p = keys as f64 - t as f64;
                if let Some(limit) = clamp {
                    p = p.clamp(-(limit as f64), limit as f64);
                }
                let angle = if g == 1 { -p } else { p } / 10000f64.powf((c % (d / 2)) as f64 * 2.0 / d as f64);
                let want = if c < d / 2 { angle.sin() } else { angle.cos() };
                assert!((got - want).abs() < 1e-13, "{got} {want}");
            }
        }
    }
}
