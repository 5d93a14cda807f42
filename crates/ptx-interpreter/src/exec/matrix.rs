//! Matrix instructions: all 32 lanes take part.

use super::Block;
use crate::error::{Checked, Fault, Rule};
use crate::kernel::{Op, Space};
use crate::lanes::{Lanes, WARP};
use crate::mma::multiply;
use crate::warp::Warp;

impl Block<'_, '_> {
    pub(super) fn matrix(&mut self, warp: &mut Warp, op: &Op, mask: u32) -> Checked {
        whole(mask)?;
        match op {
            Op::LdMatrix { d, address, transposed } => {
                // Lane i gives the row i % 8 of matrix i / 8; lanes beyond the last matrix give nothing.
                let lanes = 8 * d.len();
                let used = if lanes == WARP { u32::MAX } else { (1 << lanes) - 1 };
                let addresses = self.addresses(warp, *address, used)?;
                for (matrix, d) in d.iter().enumerate() {
                    let mut rows = [[0; 8]; 8];
                    for (row, values) in rows.iter_mut().enumerate() {
                        let lane = 8 * matrix + row;
                        *values = self.read_row(warp, lane, addresses[lane])?;
                    }
                    let out = distribute(&rows, *transposed);
                    self.set(warp, *d, mask, &out);
                }
                self.count(Space::Shared, &addresses, used, 16, false);
            }
            Op::StMatrix { s, address, transposed } => {
                let lanes = 8 * s.len();
                let used = if lanes == WARP { u32::MAX } else { (1 << lanes) - 1 };
                let addresses = self.addresses(warp, *address, used)?;
                for (matrix, s) in s.iter().enumerate() {
                    let rows = collect(self.read(warp, *s, mask)?, *transposed);
                    for (row, values) in rows.iter().enumerate() {
                        let lane = 8 * matrix + row;
                        self.write_row(warp, lane, addresses[lane], *values)?;
                    }
                }
                self.count(Space::Shared, &addresses, used, 16, true);
            }
            Op::MovMatrix { d, a } => {
                let out = distribute(&collect(self.read(warp, *a, mask)?, false), true);
                self.set(warp, *d, mask, &out);
            }
            Op::Mma { shape, d, a, b, c } => {
                let read = |registers: &[u16]| -> Checked<Vec<Lanes>> {
                    registers.iter().map(|r| self.read(warp, *r, mask).copied()).collect()
                };
                let out = multiply(shape, &read(a)?, &read(b)?, &read(c)?);
                for (d, out) in d.iter().zip(&out) {
                    self.set(warp, *d, mask, out);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// All lanes of the warp are here.
pub(super) fn whole(mask: u32) -> Checked {
    if mask == u32::MAX {
        return Ok(());
    }
    let message = format!("all 32 lanes must execute this together, but the lanes here are {mask:#010x}");
    Err(Fault::new(Rule::WrongMask, mask.trailing_zeros() as usize, message))
}

/// 8x8 halves to lanes: lane l holds row l / 4, elements 2 (l % 4) and the next; transposed, of the transpose.
fn distribute(rows: &[[u16; 8]; 8], transposed: bool) -> Lanes {
    std::array::from_fn(|lane| {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        let at = |column: usize| u64::from(if transposed { rows[column][row] } else { rows[row][column] });
        at(column) | at(column + 1) << 16
    })
}
/// The reverse.
fn collect(values: &Lanes, transposed: bool) -> [[u16; 8]; 8] {
    let mut rows = [[0; 8]; 8];
    for (lane, value) in values.iter().enumerate() {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        for (i, half) in [*value as u16, (*value >> 16) as u16].into_iter().enumerate() {
            if transposed {
                rows[column + i][row] = half;
            } else {
                rows[row][column + i] = half;
            }
        }
    }
    rows
}
