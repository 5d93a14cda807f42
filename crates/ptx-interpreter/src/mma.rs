//! Tensor-core products: which element each register of each lane holds, and the sums.
//!
//! Products are exact and added in f64 together with C, then rounded once to the type of D. A tensor core adds in an order
//! and precision of its own (it keeps fewer bits and truncates), so results on a card differ by some units in the last
//! place of the largest term: about `k * 2^-23` times the sum of the absolute products.

use half::{bf16, f16};

use crate::float::tf32_part;
use crate::lanes::{Lanes, WARP};

/// Type of A and B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    F16,
    Bf16,
    Tf32,
}

/// Which product it is; n is 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub m: usize,
    pub k: usize,
    pub input: Input,
    /// D and C in f32, or in f16.
    pub d_wide: bool,
    pub c_wide: bool,
    /// Layouts; all but m8n8k4 have A by rows and B by columns.
    pub a_rows: bool,
    pub b_rows: bool,
}

const N: usize = 8;

impl Shape {
    fn per_register(&self) -> usize {
        if self.input == Input::Tf32 { 1 } else { 2 }
    }
    pub fn a_registers(&self) -> usize {
        let problems = if self.m == 8 { 4 } else { 1 };
        problems * self.m * self.k / WARP / self.per_register()
    }
    pub fn b_registers(&self) -> usize {
        let problems = if self.m == 8 { 4 } else { 1 };
        problems * N * self.k / WARP / self.per_register()
    }
    pub fn c_registers(&self, wide: bool) -> usize {
        let problems = if self.m == 8 { 4 } else { 1 };
        problems * self.m * N / WARP / if wide { 1 } else { 2 }
    }
    /// Row and column of element `i` (in the order of registers, low half first) of lane `lane` in A.
    pub fn a(&self, lane: usize, i: usize) -> (usize, usize) {
        let (g, t) = (lane / 4, lane % 4);
        match (self.m, self.input) {
            (8, _) if self.a_rows => (lane % 4 + 4 * (lane / 16), i),
            (8, _) => (i + 4 * (lane / 16), lane % 4),
            (_, Input::Tf32) => (g + 8 * (i & 1), t + 4 * (i >> 1)),
            _ => (g + 8 * (i >> 1 & 1), 2 * t + (i & 1) + 8 * (i >> 2)),
        }
    }
    /// Row (k) and column (n) in B.
    pub fn b(&self, lane: usize, i: usize) -> (usize, usize) {
        let (g, t) = (lane / 4, lane % 4);
        match (self.m, self.input) {
            (8, _) if self.b_rows => (lane % 4, i + 4 * (lane / 16)),
            (8, _) => (i, lane % 4 + 4 * (lane / 16)),
            (_, Input::Tf32) => (t + 4 * i, g),
            _ => (2 * t + (i & 1) + 8 * (i >> 1), g),
        }
    }
    /// Row and column in C and D.
    pub fn c(&self, lane: usize, i: usize, wide: bool) -> (usize, usize) {
        let (g, t) = (lane / 4, lane % 4);
        match (self.m, wide) {
            (8, true) => ((lane & 1) + (i & 2) + 4 * (lane / 16), (i & 4) + (lane & 2) + (i & 1)),
            (8, false) => (lane % 4 + 4 * (lane / 16), i),
            _ => (g + 8 * (i >> 1), 2 * t + (i & 1)),
        }
    }
    /// Which of the four small products of m8n8k4 a lane takes part in.
    pub fn problem(&self, lane: usize) -> usize {
        if self.m == 8 { lane % 16 / 4 } else { 0 }
    }
}

impl Input {
    /// Value of a half.
    pub fn half(self, bits: u16) -> f64 {
        if self == Input::F16 { f16::from_bits(bits).to_f64() } else { bf16::from_bits(bits).to_f64() }
    }
}

pub(crate) fn element(input: Input, registers: &[Lanes], lane: usize, i: usize) -> f64 {
    if input == Input::Tf32 {
        return tf32_part(registers[i][lane] as u32);
    }
    input.half((registers[i / 2][lane] >> (16 * (i % 2))) as u16)
}

/// D of all lanes.
pub(crate) fn multiply(shape: &Shape, a: &[Lanes], b: &[Lanes], c: &[Lanes]) -> Vec<Lanes> {
    let per = shape.per_register();
    let problems = if shape.m == 8 { 4 } else { 1 };
    let mut left = [[[0.0; 16]; 16]; 4]; // [problem][m, k]
    let mut right = [[[0.0; N]; 16]; 4]; // [problem][k, n]
    let mut sum = [[[0.0; N]; 16]; 4]; // [problem][m, n]
    for lane in 0..WARP {
        let problem = shape.problem(lane);
        for i in 0..a.len() * per {
            let (row, column) = shape.a(lane, i);
            left[problem][row][column] = element(shape.input, a, lane, i);
        }
        for i in 0..b.len() * per {
            let (row, column) = shape.b(lane, i);
            right[problem][row][column] = element(shape.input, b, lane, i);
        }
        for i in 0..c.len() * if shape.c_wide { 1 } else { 2 } {
            let (row, column) = shape.c(lane, i, shape.c_wide);
            sum[problem][row][column] = if shape.c_wide {
                f64::from(f32::from_bits(c[i][lane] as u32))
            } else {
                element(Input::F16, c, lane, i)
            };
        }
    }
    for ((left, right), sum) in left.iter().zip(&right).zip(&mut sum).take(problems) {
        for (left, sum) in left.iter().zip(sum).take(shape.m) {
            for (x, right) in left.iter().zip(right).take(shape.k) {
                sum.iter_mut().zip(right).for_each(|(sum, y)| *sum += x * y);
            }
        }
    }
    let mut d = vec![[0; WARP]; shape.c_registers(shape.d_wide)];
    for lane in 0..WARP {
        let problem = shape.problem(lane);
        for i in 0..d.len() * if shape.d_wide { 1 } else { 2 } {
            let (row, column) = shape.c(lane, i, shape.d_wide);
            let x = sum[problem][row][column];
            if shape.d_wide {
                d[i][lane] = u64::from((x as f32).to_bits());
            } else {
                d[i / 2][lane] |= u64::from(f16::from_f64(x).to_bits()) << (16 * (i % 2));
            }
        }
    }
    d
}
