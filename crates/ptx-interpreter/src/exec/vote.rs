//! Instructions in which the lanes of a warp see each other: shuffles, votes, reductions.

use super::Block;
use crate::error::{Checked, Fault, Rule};
use crate::kernel::{Op, ShuffleMode, Vote};
use crate::lanes::{WARP, lanes_of};
use crate::warp::Warp;

impl Block<'_, '_> {
    /// The member mask, which must be the lanes that are here.
    pub(super) fn members(&self, warp: &Warp, register: u16, mask: u32) -> Checked<u32> {
        let values = self.read(warp, register, mask)?;
        for lane in lanes_of(mask) {
            let members = values[lane] as u32;
            // Lanes that have exited may be named; all others must be here.
            if members & warp.live != mask {
                let message = format!(
                    "the member mask is {members:#010x}, but the lanes here are {mask:#010x} of the live {:#010x}",
                    warp.live
                );
                return Err(Fault::new(Rule::WrongMask, lane, message));
            }
        }
        Ok(mask)
    }

    pub(super) fn vote(&mut self, warp: &mut Warp, op: &Op, mask: u32) -> Checked {
        match op {
            Op::Shuffle { mode, d, p, a, b, c, mask: members } => {
                self.members(warp, *members, mask)?;
                let (a, b, c) = (*self.read(warp, *a, mask)?, *self.read(warp, *b, mask)?, *self.read(warp, *c, mask)?);
                let (mut out, mut valid) = (a, 0);
                for lane in lanes_of(mask) {
                    let (from, ok) = source(*mode, lane, b[lane] as u32, c[lane] as u32);
                    if ok && mask >> from & 1 == 0 {
                        let message = format!("reads lane {from}, which takes no part in this shuffle");
                        return Err(Fault::new(Rule::WrongMask, lane, message));
                    }
                    valid |= u32::from(ok) << lane;
                    out[lane] = a[if ok { from } else { lane }];
                }
                self.set(warp, *d, mask, &out);
                self.set_predicate(warp, *p, mask, valid);
            }
            Op::Vote { vote, d, a, negated, mask: members } => {
                self.members(warp, *members, mask)?;
                let value = self.predicate(warp, *a, mask)?;
                let value = if *negated { !value } else { value } & mask;
                let holds = match vote {
                    Vote::Ballot => {
                        self.set(warp, *d, mask, &[u64::from(value); WARP]);
                        return Ok(());
                    }
                    Vote::All => value == mask,
                    Vote::Any => value != 0,
                    Vote::Uni => value == mask || value == 0,
                };
                self.set_predicate(warp, *d, mask, if holds { u32::MAX } else { 0 });
            }
            Op::MatchAny { d, a, mask: members } => {
                self.members(warp, *members, mask)?;
                let a = *self.read(warp, *a, mask)?;
                let equal = |lane: usize| lanes_of(mask).filter(|&l| a[l] == a[lane]).fold(0, |all, l| all | 1 << l);
                let out = std::array::from_fn(|lane| if mask >> lane & 1 == 1 { equal(lane) } else { 0 });
                self.set(warp, *d, mask, &out);
            }
            Op::MatchAll { d, p, a, mask: members } => {
                self.members(warp, *members, mask)?;
                let a = *self.read(warp, *a, mask)?;
                let first = a[mask.trailing_zeros() as usize];
                let all = lanes_of(mask).all(|lane| a[lane] == first);
                self.set(warp, *d, mask, &[if all { u64::from(mask) } else { 0 }; WARP]);
                self.set_predicate(warp, *p, mask, if all { u32::MAX } else { 0 });
            }
            Op::Redux { f, d, a, mask: members } => {
                self.members(warp, *members, mask)?;
                let a = *self.read(warp, *a, mask)?;
                let sum = lanes_of(mask).map(|lane| a[lane]).reduce(|x, y| f(x, y, 0)).unwrap_or(0);
                self.set(warp, *d, mask, &[sum; WARP]);
            }
            Op::Elect { d, p, mask: members } => {
                self.members(warp, *members, mask)?;
                let leader = mask.trailing_zeros();
                self.set(warp, *d, mask, &[u64::from(leader); WARP]);
                self.set_predicate(warp, *p, mask, 1 << leader);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Lane that `lane` reads, and whether it lies in the segment: the definition of the PTX ISA.
fn source(mode: ShuffleMode, lane: usize, b: u32, c: u32) -> (usize, bool) {
    let lane = lane as u32;
    let (b, clamp, segment) = (b & 0x1f, c & 0x1f, c >> 8 & 0x1f);
    let most = lane & segment | clamp & !segment;
    let least = lane & segment;
    let (from, ok) = match mode {
        ShuffleMode::Up => {
            let from = lane.wrapping_sub(b) as i32;
            (from as u32, from >= most as i32)
        }
        ShuffleMode::Down => (lane + b, lane + b <= most),
        ShuffleMode::Bfly => (lane ^ b, (lane ^ b) <= most),
        ShuffleMode::Idx => (least | b & !segment, (least | b & !segment) <= most),
    };
    ((from & 0x1f) as usize, ok)
}
