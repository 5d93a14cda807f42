//! Runs one block: warps take turns, each until it waits at a barrier or ends.

mod access;
mod barrier;
mod matrix;
mod mbarrier;
mod vote;
mod wgmma;

use crate::error::{Checked, Error, Fault, Finding, Result, Rule};
use crate::kernel::{Address, Kernel, NONE, Op, Pred, Reg, Special};
use crate::lanes::{Lanes, WARP, lanes_of};
use crate::memory::{Global, Region};
use crate::report::{Count, Report};
use crate::shadow::SharedShadow;
use crate::warp::{State, Warp};
use barrier::Barrier;
use mbarrier::MBarriers;
use wgmma::Warpgroup;

/// Turns of all warps in which polls of `mbarrier` may fail and nothing else happens.
const MOST_ROUNDS: u32 = 100;

/// In which order blocks, warps and lanes take their turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Schedule {
    /// Lowest numbers first.
    #[default]
    Ascending,
    /// Highest numbers first.
    Descending,
}

impl Schedule {
    /// Both: results must not depend on the order.
    pub const ALL: [Schedule; 2] = [Schedule::Ascending, Schedule::Descending];

    pub(crate) fn order(self, count: usize) -> Vec<usize> {
        match self {
            Schedule::Ascending => (0..count).collect(),
            Schedule::Descending => (0..count).rev().collect(),
        }
    }
}

/// What a launch is, and what it has counted so far.
pub(crate) struct Launch<'a> {
    pub kernel: &'a Kernel,
    pub global: &'a mut Global,
    pub params: &'a [u8],
    pub grid: [u32; 3],
    pub threads: [u32; 3],
    pub shared_bytes: usize,
    pub dynamic_bytes: usize,
    pub schedule: Schedule,
    pub first_block: u32,
    /// Warp instructions that are left before the launch counts as endless.
    pub budget: u64,
    pub counts: Vec<Count>,
    pub conflicts: Vec<u64>,
    pub report: Report,
    /// Warps of blocks that are done.
    pub spare: Vec<Warp>,
}

/// One block while it runs.
pub(crate) struct Block<'l, 'a> {
    launch: &'l mut Launch<'a>,
    /// Number since the machine was made.
    serial: u32,
    position: [u32; 3],
    shared: Region,
    shadow: SharedShadow,
    barriers: [Barrier; 16],
    mbarriers: MBarriers,
    full_barriers: u32,
    warpgroups: Vec<Warpgroup>,
    warps: Vec<Warp>,
    /// Where the current instruction is, for messages and counters.
    pc: usize,
    line: u32,
}

impl<'l, 'a> Block<'l, 'a> {
    pub fn new(launch: &'l mut Launch<'a>, position: [u32; 3], serial: u32) -> Self {
        let threads: u32 = launch.threads.iter().product();
        let count = threads.div_ceil(WARP as u32) as usize;
        let bytes = launch.shared_bytes;
        let mut block = Block {
            serial,
            position,
            shared: Region::new(bytes),
            shadow: SharedShadow::new(bytes, launch.kernel.granule, count, launch.kernel.products),
            barriers: Default::default(),
            mbarriers: MBarriers::default(),
            full_barriers: 0,
            warpgroups: vec![],
            warps: vec![],
            pc: 0,
            line: 0,
            launch,
        };
        for index in 0..count {
            let lanes = (threads - (index * WARP) as u32).min(WARP as u32);
            let live = if lanes == WARP as u32 { u32::MAX } else { (1 << lanes) - 1 };
            let mut warp = match block.launch.spare.pop() {
                Some(warp) => warp.again(block.launch.kernel, index, live),
                None => Warp::new(block.launch.kernel, index, live),
            };
            block.fill_specials(&mut warp);
            block.warps.push(warp);
        }
        block
    }

    fn fill_specials(&self, warp: &mut Warp) {
        let [x, y, _] = self.launch.threads;
        let count = self.launch.threads.iter().product::<u32>().div_ceil(WARP as u32);
        for &(register, special) in &self.launch.kernel.specials {
            let values = std::array::from_fn(|lane| {
                let thread = (warp.index * WARP + lane) as u32;
                u64::from(match special {
                    Special::Tid(0) => thread % x,
                    Special::Tid(1) => thread / x % y,
                    Special::Tid(_) => thread / x / y,
                    Special::Ntid(axis) => self.launch.threads[axis],
                    Special::Ctaid(axis) => self.position[axis],
                    Special::Nctaid(axis) => self.launch.grid[axis],
                    Special::LaneId => lane as u32,
                    Special::WarpId => warp.index as u32,
                    Special::NWarpId => count,
                    Special::MaskEq => 1 << lane,
                    Special::MaskLt => (1 << lane) - 1,
                    Special::MaskLe => (2_u64 << lane).wrapping_sub(1) as u32,
                    Special::MaskGt => !((2_u64 << lane).wrapping_sub(1) as u32),
                    Special::MaskGe => !((1_u32 << lane) - 1),
                    Special::DynamicShared => self.launch.dynamic_bytes as u32,
                    Special::TotalShared => self.launch.shared_bytes as u32,
                })
            });
            warp.set(register, u32::MAX, &values);
        }
    }

    pub fn run(mut self) -> Result<()> {
        let order = self.launch.schedule.order(self.warps.len());
        let mut rounds = 0;
        while self.warps.iter().any(|w| w.state != State::Done) {
            let mut progress = false;
            let changes = self.mbarriers.changes();
            for &index in &order {
                if matches!(self.warps[index].state, State::Running | State::Polling) {
                    progress |= self.warps[index].state == State::Running;
                    self.warps[index].state = State::Running;
                    // The warp is outside of the block while it runs, so that both can be changed.
                    let empty = Warp::new(&EMPTY, index, 0);
                    let mut warp = std::mem::replace(&mut self.warps[index], empty);
                    let result = self.run_warp(&mut warp);
                    self.warps[index] = warp;
                    result.map_err(|fault| self.finding(index, *fault))?;
                    self.release_barriers().map_err(|fault| self.finding(index, *fault))?;
                }
            }
            progress |= self.mbarriers.changes() != changes || self.warps.iter().any(|w| w.state == State::Running);
            rounds = if progress { 0 } else { rounds + 1 };
            let polling = self.warps.iter().any(|w| w.state == State::Polling);
            // Who polls may do something else in between, and then look again.
            if rounds > if polling { MOST_ROUNDS } else { 0 } {
                let stuck = self
                    .warps
                    .iter()
                    .find(|w| matches!(w.state, State::Waiting | State::Polling))
                    .map_or(0, |w| w.index);
                let message = self.stuck();
                return Err(self.finding(stuck, Fault { rule: Rule::Barrier, lane: 0, message }));
            }
        }
        self.warpgroups_agree()?;
        self.copies_arrived()?;
        self.launch.report.blocks += 1;
        self.launch.spare.append(&mut self.warps);
        Ok(())
    }

    fn finding(&self, warp: usize, fault: Fault) -> Error {
        let kernel = self.launch.kernel;
        let source = kernel.source.get((self.line as usize).saturating_sub(1)).map_or("", |l| l.trim());
        Error::finding(Finding {
            rule: fault.rule,
            kernel: kernel.name.clone(),
            line: self.line,
            source: source.to_owned(),
            block: self.position,
            thread: (warp * WARP + fault.lane) as u32,
            message: fault.message,
        })
    }

    /// Until the warp waits or ends.
    fn run_warp(&mut self, warp: &mut Warp) -> Checked {
        let kernel = self.launch.kernel;
        while warp.state == State::Running {
            if warp.pc >= warp.meet {
                warp.regroup();
            }
            let pc = warp.pc as usize;
            let instr = &kernel.code[pc];
            (self.pc, self.line) = (pc, instr.line);
            if self.launch.budget == 0 {
                let message = "the launch issued more instructions than it may: most likely a loop without an end";
                return Err(Fault::new(Rule::Endless, 0, message));
            }
            self.launch.budget -= 1;
            let mut mask = warp.mask;
            if instr.guard != NONE {
                let value = self.predicate(warp, instr.guard, mask)?;
                mask &= if instr.negated { !value } else { value };
            }
            let count = &mut self.launch.counts[pc];
            count.warps += 1;
            count.lanes += u64::from(mask.count_ones());
            warp.pc += 1;
            if mask != 0 {
                self.step(warp, &instr.op, mask)?;
                if let Some(register) = warp.flights.clobbered {
                    return Err(self.in_use(warp, register, "writes"));
                }
            }
        }
        Ok(())
    }

    /// A register whose lanes in `mask` must have been written.
    fn read<'w>(&self, warp: &'w Warp, register: Reg, mask: u32) -> Checked<&'w Lanes> {
        let at = usize::from(register);
        let missing = mask & !warp.written[at];
        if missing != 0 {
            if warp.flights.usage.get(at).is_some_and(|usage| usage.accumulating + usage.reading > 0) {
                return Err(self.in_use(warp, register, "reads"));
            }
            return Err(self.unwritten(&self.launch.kernel.registers[at], missing));
        }
        Ok(&warp.registers[at])
    }
    fn predicate(&self, warp: &Warp, predicate: Pred, mask: u32) -> Checked<u32> {
        let at = usize::from(predicate);
        let missing = mask & !warp.predicates_written[at];
        if missing != 0 {
            return Err(self.unwritten(&self.launch.kernel.predicates[at], missing));
        }
        Ok(warp.predicates[at])
    }
    #[cold]
    fn unwritten(&self, name: &str, missing: u32) -> Box<Fault> {
        let message = format!("reads {name}, which was never written on the way here");
        Fault::new(Rule::UnwrittenRegister, missing.trailing_zeros() as usize, message)
    }
    fn addresses(&self, warp: &Warp, address: Address, mask: u32) -> Checked<Lanes> {
        Ok(self.read(warp, address.base, mask)?.map(|base| base.wrapping_add(address.offset as u64)))
    }
    fn set(&self, warp: &mut Warp, register: Reg, mask: u32, values: &Lanes) {
        if register != NONE {
            warp.set(register, mask, values);
        }
    }
    fn set_predicate(&self, warp: &mut Warp, predicate: Pred, mask: u32, value: u32) {
        if predicate != NONE {
            warp.set_predicate(predicate, mask, value);
        }
    }

    fn step(&mut self, warp: &mut Warp, op: &Op, mask: u32) -> Checked {
        match op {
            Op::Map { f, d, s } => {
                let mut out = [0; WARP];
                let [a, b, c] = *s;
                f(&mut out, self.read(warp, a, mask)?, self.read(warp, b, mask)?, self.read(warp, c, mask)?);
                self.set(warp, *d, mask, &out);
            }
            Op::Lop3 { d, s, table } => {
                let [a, b, c] = *s;
                let (a, b, c) = (self.read(warp, a, mask)?, self.read(warp, b, mask)?, self.read(warp, c, mask)?);
                let out = std::array::from_fn(|i| u64::from(lop3(a[i] as u32, b[i] as u32, c[i] as u32, *table)));
                self.set(warp, *d, mask, &out);
            }
            Op::Bfi { d, s } => {
                let [a, b, start, length] = *s;
                let (a, b) = (self.read(warp, a, mask)?, self.read(warp, b, mask)?);
                let (start, length) = (self.read(warp, start, mask)?, self.read(warp, length, mask)?);
                let out = std::array::from_fn(|i| {
                    let (start, length) = (start[i] & 0xff, length[i] & 0xff);
                    let field = if length >= 32 { u64::from(u32::MAX) } else { (1 << length) - 1 };
                    let field = if start >= 32 { 0 } else { field << start & 0xffff_ffff };
                    let inserted = if start >= 32 { 0 } else { a[i] << start };
                    b[i] & !field | inserted & field
                });
                self.set(warp, *d, mask, &out);
            }
            Op::SetP { f, p, q, a, b, join } => {
                let holds = f(self.read(warp, *a, mask)?, self.read(warp, *b, mask)?);
                let (mut yes, mut no) = (holds, !holds);
                if let Some((join, c, negated)) = join {
                    let c = self.predicate(warp, *c, mask)?;
                    let c = if *negated { !c } else { c };
                    (yes, no) = (join(yes, c), join(no, c));
                }
                self.set_predicate(warp, *p, mask, yes);
                self.set_predicate(warp, *q, mask, no);
            }
            Op::Set { f, d, a, b, yes } => {
                let holds = f(self.read(warp, *a, mask)?, self.read(warp, *b, mask)?);
                let out = std::array::from_fn(|lane| if holds >> lane & 1 == 1 { *yes } else { 0 });
                self.set(warp, *d, mask, &out);
            }
            Op::SelP { d, a, b, p, negated } => {
                let p = self.predicate(warp, *p, mask)?;
                let p = if *negated { !p } else { p };
                let (a, b) = (self.read(warp, *a, mask)?, self.read(warp, *b, mask)?);
                let out = std::array::from_fn(|lane| if p >> lane & 1 == 1 { a[lane] } else { b[lane] });
                self.set(warp, *d, mask, &out);
            }
            Op::Logic { f, d, a, b } => {
                let value = f(self.predicate(warp, *a, mask)?, self.predicate(warp, *b, mask)?);
                self.set_predicate(warp, *d, mask, value);
            }
            Op::Pack { d, s, bits } => {
                let mut out = [0; WARP];
                for (i, s) in s.iter().enumerate() {
                    let part = self.read(warp, *s, mask)?;
                    out.iter_mut().zip(part).for_each(|(out, part)| *out |= part << (i as u32 * bits));
                }
                self.set(warp, *d, mask, &out);
            }
            Op::Unpack { d, s, bits } => {
                let whole = *self.read(warp, *s, mask)?;
                for (i, d) in d.iter().enumerate() {
                    let part = whole.map(|x| x >> (i as u32 * bits) & ((1 << bits) - 1));
                    self.set(warp, *d, mask, &part);
                }
            }
            Op::Branch { target } => warp.branch(mask, *target),
            Op::Exit => {
                if let Some(flight) = warp.flights.in_flight().next() {
                    let message = format!("ends before wgmma.wait_group covers the product of line {}", flight.line);
                    return Err(Fault::new(Rule::AsyncRegister, mask.trailing_zeros() as usize, message));
                }
                warp.exit(mask);
            }
            Op::Fence => {}
            Op::ActiveMask { d } => self.set(warp, *d, mask, &[u64::from(mask); WARP]),
            Op::LoadParam { .. } | Op::Load { .. } | Op::Store { .. } | Op::Atomic { .. } => {
                self.memory(warp, op, mask)?;
            }
            Op::Product(_)
            | Op::ProductFence
            | Op::ProductCommit
            | Op::ProductWait { .. }
            | Op::SetRegisters
            | Op::ProxyFence => {
                self.warpgroup(warp, op, mask)?;
            }
            Op::CopyAsync { .. } | Op::CommitGroup | Op::WaitGroup { .. } | Op::WaitAll => self.copy(warp, op, mask)?,
            Op::MBarrierInit { .. }
            | Op::MBarrierInvalidate { .. }
            | Op::MBarrierArrive { .. }
            | Op::MBarrierWait { .. }
            | Op::MBarrierFence
            | Op::CopyBulk { .. } => self.mbarrier(warp, op, mask)?,
            Op::Barrier { .. } | Op::WarpBarrier { .. } => self.barrier(warp, op, mask)?,
            Op::Shuffle { .. }
            | Op::Vote { .. }
            | Op::MatchAny { .. }
            | Op::MatchAll { .. }
            | Op::Redux { .. }
            | Op::Elect { .. } => self.vote(warp, op, mask)?,
            Op::LdMatrix { .. } | Op::StMatrix { .. } | Op::MovMatrix { .. } | Op::Mma { .. } => {
                self.matrix(warp, op, mask)?;
            }
        }
        Ok(())
    }
}

fn lop3(a: u32, b: u32, c: u32, table: u8) -> u32 {
    (0..8).filter(|i| table >> i & 1 == 1).fold(0, |all, i| {
        let pick = |x: u32, bit: u32| if i & bit == bit { x } else { !x };
        all | pick(a, 4) & pick(b, 2) & pick(c, 1)
    })
}

/// Lanes in the order of the schedule.
fn ordered(mask: u32, schedule: Schedule) -> Vec<usize> {
    match schedule {
        Schedule::Ascending => lanes_of(mask).collect(),
        Schedule::Descending => lanes_of(mask).rev().collect(),
    }
}

static EMPTY: std::sync::LazyLock<Kernel> = std::sync::LazyLock::new(Kernel::empty);
