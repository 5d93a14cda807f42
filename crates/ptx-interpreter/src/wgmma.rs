//! Warpgroup products: where the elements of a matrix in shared memory lie, and the sums.
//!
//! A descriptor names a matrix in pieces of 16 bytes (8 halves that are neighbours along the contiguous dimension). Their
//! places are the canonical layouts of the PTX ISA ("Shared Memory Matrix Layout", "Strides"), with W = 8, 4, 2 pieces in
//! a row of a 128, 64, 32-byte swizzle:
//!
//! - K-major, swizzled: row r, piece c of k at `r % 8 * 16 W + r / 8 * stride + 16 c`; the leading offset is not used;
//! - K-major, none: `r % 8 * 16 + r / 8 * stride + c * leading`;
//! - MN-major, swizzled: k, piece p of rows at `k % 8 * 16 W + k / 8 * stride + p % W * 16 + p / W * leading`;
//! - MN-major, none: `k % 8 * 16 + k / 8 * leading + p * stride`.
//!
//! The swizzle then exchanges pieces by the bits of the whole address: bits 4 and up are changed by bits 7 and up.

use crate::lanes::{Lanes, WARP};
use crate::mma::{Input, Shape};

/// Elements along k.
pub(crate) const K: usize = 16;
/// Rows of A and D that one warp has.
pub(crate) const ROWS: usize = 16;
/// Warps of a warpgroup.
pub(crate) const WARPS: usize = 4;
/// Bytes of a piece.
pub(crate) const PIECE: usize = 16;
/// Bits of a descriptor that mean nothing and must be 0.
const RESERVED: u64 = 0xc000 | 0xc000 << 16 | 0x1_c000 << 32 | 0x3ff << 52;
/// Bits of an address that a descriptor holds.
const ADDRESS: u64 = 0x3ffff;

/// A matrix in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub start: u64,
    pub leading: u64,
    pub stride: u64,
    /// Bytes of a swizzled row: 128, 64, 32, or 16 without a swizzle.
    pub width: u64,
}

impl Descriptor {
    /// Takes the fields apart; the error says what is wrong with them.
    pub fn decode(bits: u64) -> Result<Self, String> {
        if bits & RESERVED != 0 {
            return Err(format!(
                "descriptor {bits:#018x} has bits that must be 0 ({:#x}): did an addition overflow a field?",
                bits & RESERVED
            ));
        }
        if bits >> 49 & 7 != 0 {
            return Err(format!("descriptor {bits:#018x} has base offset {}; only 0 is modelled", bits >> 49 & 7));
        }
        let field = |at: u32| (bits >> at & 0x3fff) << 4;
        let width = [16, 128, 64, 32][(bits >> 62) as usize];
        Ok(Descriptor { start: field(0), leading: field(16), stride: field(32), width })
    }
    /// Bytes after which the pattern of the swizzle repeats.
    fn pattern(&self) -> u64 {
        8 * self.width
    }
    /// Checks that `rows` rows (along M or N) and 16 columns can be read.
    pub fn check(&self, rows: usize, transposed: bool) -> Result<(), String> {
        let Descriptor { start, leading, stride, width } = *self;
        if width == 16 {
            return Ok(());
        }
        let (pattern, within) = (self.pattern(), start % width);
        if start % pattern >= width {
            return Err(format!(
                "start address {start:#x} lies {} bytes after a multiple of {pattern}, where the {width}-byte swizzle \
                 begins: only steps within its first row of {width} bytes are possible",
                start % pattern
            ));
        }
        let pieces = if transposed { rows as u64 / 8 } else { 2 };
        let in_row = pieces.min(width / 16);
        if within + 16 * in_row > width {
            return Err(format!(
                "start address {start:#x} lies {within} bytes into a row of {width}: the {} bytes read run out of it",
                16 * in_row
            ));
        }
        let several = if transposed {
            [(pieces > in_row, "leading", leading), (true, "stride", stride)]
        } else {
            [(false, "leading", leading), (rows > 8, "stride", stride)]
        };
        for (used, name, offset) in several {
            if used && !offset.is_multiple_of(pattern) {
                return Err(format!(
                    "{name} byte offset {offset} is no multiple of the {pattern} bytes in which the {width}-byte \
                     swizzle repeats"
                ));
            }
        }
        Ok(())
    }
    /// Address of a piece: 8 elements along k from `8 * piece` in row `line`; transposed, 8 rows from `8 * piece` at `line`
    /// of k.
    pub fn piece(&self, line: usize, piece: usize, transposed: bool) -> u64 {
        let Descriptor { start, leading, stride, width } = *self;
        let (line, piece) = (line as u64, piece as u64);
        let offset = match (width, transposed) {
            (16, false) => line % 8 * 16 + line / 8 * stride + piece * leading,
            (16, true) => line % 8 * 16 + line / 8 * leading + piece * stride,
            (_, false) => line % 8 * width + line / 8 * stride + piece * 16,
            (_, true) => {
                let in_row = width / 16;
                line % 8 * width + line / 8 * stride + piece % in_row * 16 + piece / in_row * leading
            }
        };
        let address = (start + offset) & ADDRESS;
        address ^ ((address >> 7 & (width / 16 - 1)) << 4)
    }
    /// Line and piece, as [`Self::piece`] takes them, of all pieces of `rows` rows from `first`.
    pub fn pieces(first: usize, rows: usize, transposed: bool) -> Vec<(usize, usize)> {
        let (lines, pieces) =
            if transposed { (0..K, first / 8..(first + rows) / 8) } else { (first..first + rows, 0..2) };
        lines.flat_map(|line| pieces.clone().map(move |piece| (line, piece))).collect()
    }
}

/// One warp's part of D, [16, n] in registers: `a` by row and k, `b` by k and column, `c` the accumulators where they count.
pub(crate) fn multiply(n: usize, negative: bool, a: &[[f64; K]; ROWS], b: &[f64], c: Option<&[Lanes]>) -> Vec<Lanes> {
    let mut sums = vec![0.0; ROWS * n];
    for (a, sums) in a.iter().zip(sums.chunks_exact_mut(n)) {
        for (x, b) in a.iter().zip(b.chunks_exact(n)) {
            let x = if negative { -x } else { *x };
            sums.iter_mut().zip(b).for_each(|(sum, y)| *sum += x * y);
        }
    }
    let mut d = vec![[0; WARP]; n / 2];
    for (i, register) in d.iter_mut().enumerate() {
        for (lane, value) in register.iter_mut().enumerate() {
            let (row, column) = accumulator(lane, i);
            let before = c.map_or(0.0, |c| f64::from(f32::from_bits(c[i][lane] as u32)));
            *value = u64::from(((sums[row * n + column] + before) as f32).to_bits());
        }
    }
    d
}

/// Row (of the warp's 16) and column of D that register `i` of a lane holds: tiles of `mma.m16n8`, side by side.
fn accumulator(lane: usize, i: usize) -> (usize, usize) {
    let (row, column) = TILE.c(lane, i % 4, true);
    (row, 8 * (i / 4) + column)
}

/// A in registers has the layout of `mma.m16n8k16`.
pub(crate) const TILE: Shape =
    Shape { m: 16, k: 16, input: Input::Bf16, d_wide: true, c_wide: true, a_rows: true, b_rows: false };
