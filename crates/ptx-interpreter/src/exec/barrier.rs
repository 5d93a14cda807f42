//! Barriers of blocks and warps.

use super::Block;
use crate::error::{Checked, Fault, Rule};
use crate::kernel::{NONE, Op};
use crate::lanes::{WARP, lanes_of};
use crate::shadow::{CLOCKS, Clock};
use crate::warp::{State, Warp};

/// One of the 16 barriers of a block.
pub(super) struct Barrier {
    /// Warps that arrived since it completed last.
    arrived: Vec<usize>,
    /// Those of them that wait.
    waiting: Vec<usize>,
    /// Threads it waits for; `None`: the whole block.
    count: Option<u32>,
    /// What the arrived warps know.
    known: Clock,
}

impl Default for Barrier {
    fn default() -> Self {
        Barrier { arrived: vec![], waiting: vec![], count: None, known: [0; CLOCKS] }
    }
}

/// A clock that knows what two know.
pub(super) fn join(clock: &mut Clock, other: &Clock) {
    clock.iter_mut().zip(other).for_each(|(clock, other)| *clock = (*clock).max(*other));
}

impl Block<'_, '_> {
    pub(super) fn barrier(&mut self, warp: &mut Warp, op: &Op, mask: u32) -> Checked {
        match op {
            Op::WarpBarrier { mask: members } => {
                self.members(warp, *members, mask)?;
                warp.sync();
            }
            Op::Barrier { id, count, waits } => {
                let count = if *count == NONE { None } else { Some(self.uniform(warp, *count, mask)?) };
                let id = self.uniform(warp, *id, mask)? as usize;
                self.arrive(warp, id, count, *waits, mask)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The value of a register that must be the same in all lanes.
    fn uniform(&self, warp: &Warp, register: u16, mask: u32) -> Checked<u32> {
        let values = self.read(warp, register, mask)?;
        let first = values[mask.trailing_zeros() as usize];
        match lanes_of(mask).find(|&lane| values[lane] != first) {
            None => Ok(first as u32),
            Some(lane) => {
                let message = format!("the lanes of a warp name different barriers ({first} and {})", values[lane]);
                Err(Fault::new(Rule::Barrier, lane, message))
            }
        }
    }

    fn arrive(&mut self, warp: &mut Warp, id: usize, count: Option<u32>, waits: bool, mask: u32) -> Checked {
        let wrong = |lane: u32, message: String| Err(Fault::new(Rule::Barrier, lane as usize, message));
        if mask != warp.live {
            let missing = warp.live & !mask;
            let message = format!(
                "only {} of the {} live lanes of the warp reach this barrier; lane {} is elsewhere",
                mask.count_ones(),
                warp.live.count_ones(),
                missing.trailing_zeros()
            );
            return wrong(mask.trailing_zeros(), message);
        }
        let Some(barrier) = self.barriers.get_mut(id) else {
            return wrong(0, format!("there are 16 barriers, {id} is none of them"));
        };
        if let Some(count) = count.filter(|c| *c == 0 || !c.is_multiple_of(WARP as u32)) {
            return wrong(0, format!("a barrier waits for a multiple of 32 threads, not {count}"));
        }
        if barrier.arrived.is_empty() {
            barrier.count = count;
            barrier.known = [0; CLOCKS];
        } else if barrier.count != count {
            return wrong(0, format!("barrier {id} is used with two counts: {:?} and {count:?}", barrier.count));
        }
        if barrier.arrived.contains(&warp.index) {
            return wrong(0, format!("the warp arrives a second time at barrier {id} before it completed"));
        }
        barrier.arrived.push(warp.index);
        join(&mut barrier.known, &warp.clock);
        if waits {
            barrier.waiting.push(warp.index);
            warp.state = State::Waiting;
        }
        warp.sync();
        self.launch.report.barriers += 1;
        Ok(())
    }

    /// Lets go those whose barrier is complete.
    pub(super) fn release_barriers(&mut self) -> Checked {
        let live = self.warps.iter().filter(|w| w.state != State::Done).count();
        for id in 0..self.barriers.len() {
            let barrier = &mut self.barriers[id];
            let arrived = barrier.arrived.len();
            let expected = barrier.count.map_or(live, |count| count as usize / WARP);
            if arrived == 0 || arrived < expected {
                continue;
            }
            if arrived > expected {
                let message = format!("{arrived} warps arrived at barrier {id}, which waits for {expected}");
                return Err(Fault::new(Rule::Barrier, 0, message));
            }
            let barrier = std::mem::take(barrier);
            let full = barrier.waiting.len() == live;
            self.full_barriers += u32::from(full);
            for index in barrier.waiting {
                let warp = &mut self.warps[index];
                warp.state = State::Running;
                let own = warp.clock[index];
                join(&mut warp.clock, &barrier.known);
                warp.clock[index] = own;
                if full {
                    warp.full_barriers = self.full_barriers;
                }
            }
        }
        Ok(())
    }

    /// Why nothing goes on.
    pub(super) fn stuck(&self) -> String {
        let live = self.warps.iter().filter(|w| w.state != State::Done).count();
        let of = |(id, b): (usize, &Barrier)| {
            let expected = b.count.map_or(live as u32 * WARP as u32, |c| c);
            format!("barrier {id} has {} of {expected} threads", b.arrived.len() * WARP)
        };
        let all: Vec<_> = self.barriers.iter().enumerate().filter(|(_, b)| !b.arrived.is_empty()).map(of).collect();
        format!("no warp can go on: {}", all.into_iter().chain(self.mbarriers.stuck()).collect::<Vec<_>>().join(", "))
    }
}
