//! One warp: registers, predicates, and where its lanes are.

use std::collections::VecDeque;

use crate::kernel::Kernel;
use crate::lanes::{Lanes, WARP};
use crate::shadow::{CLOCKS, Clock};

/// One asynchronous copy on its way.
pub(crate) struct Copy {
    /// Offset in shared memory.
    pub to: usize,
    pub data: Vec<u8>,
    pub line: u32,
}

/// Asynchronous copies of one lane.
#[derive(Default)]
pub(crate) struct Copies {
    pub open: Vec<Copy>,
    pub groups: VecDeque<Vec<Copy>>,
}

/// One `wgmma.mma_async` on its way.
pub(crate) struct Flight {
    /// Position in the code.
    pub pc: usize,
    pub line: u32,
    /// Offsets in shared memory of the pieces that it reads.
    pub pieces: Vec<usize>,
}

/// What `wgmma` makes of a register.
#[derive(Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Products on their way that accumulate here.
    pub accumulating: u16,
    /// Products on their way that read it as A.
    pub reading: u16,
    /// Since the last `wgmma.fence`: n of the product that accumulated here, 0 for none.
    pub n: u16,
    /// Since the last `wgmma.fence`: written by another instruction.
    pub written: bool,
}

/// Products of one warp.
#[derive(Default)]
pub(crate) struct Flights {
    pub open: Vec<Flight>,
    pub groups: VecDeque<Vec<Flight>>,
    /// By register; empty where the kernel has no products.
    pub usage: Vec<Usage>,
    /// A `wgmma.fence` was executed.
    pub fenced: bool,
    /// `wgmma` instructions so far.
    pub executed: usize,
    /// A register that the last instruction wrote while a product was using it.
    pub clobbered: Option<u16>,
}

impl Flights {
    fn new(kernel: &Kernel) -> Self {
        let registers = if kernel.products { kernel.registers.len() } else { 0 };
        Flights { usage: vec![Usage::default(); registers], ..Flights::default() }
    }
    pub fn in_flight(&self) -> impl Iterator<Item = &Flight> {
        self.groups.iter().flatten().chain(&self.open)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    /// At a barrier of the block.
    Waiting,
    /// Asked an `mbarrier` in vain: others go on first.
    Polling,
    Done,
}

pub(crate) struct Warp {
    pub index: usize,
    pub registers: Vec<Lanes>,
    /// A bit for each lane that wrote the register.
    pub written: Vec<u32>,
    pub predicates: Vec<u32>,
    pub predicates_written: Vec<u32>,
    /// Next instruction of the lanes in `mask`.
    pub pc: u32,
    pub mask: u32,
    /// Lanes that are elsewhere, lowest position last.
    pub others: Vec<(u32, u32)>,
    /// Position at which the lanes meet the nearest others.
    pub meet: u32,
    /// Lanes that have not exited.
    pub live: u32,
    pub state: State,
    pub clock: Clock,
    /// Its own clock when its lanes last met.
    pub synced: u32,
    pub full_barriers: u32,
    pub copies: Vec<Copies>,
    pub flights: Flights,
}

impl Warp {
    pub fn new(kernel: &Kernel, index: usize, live: u32) -> Self {
        let mut clock = [0; CLOCKS];
        clock[index] = 1;
        let mut warp = Warp {
            index,
            registers: vec![[0; WARP]; kernel.registers.len()],
            written: vec![0; kernel.registers.len()],
            predicates: vec![0; kernel.predicates.len()],
            predicates_written: vec![0; kernel.predicates.len()],
            pc: 0,
            mask: live,
            others: vec![],
            meet: u32::MAX,
            live,
            state: State::Running,
            clock,
            synced: 1,
            full_barriers: 0,
            copies: vec![],
            flights: Flights::new(kernel),
        };
        for &(register, value) in &kernel.constants {
            warp.registers[usize::from(register)] = [value; WARP];
            warp.written[usize::from(register)] = u32::MAX;
        }
        warp
    }

    /// A warp of another block in the memory of one that is done: as new, for all that can be seen.
    pub fn again(mut self, kernel: &Kernel, index: usize, live: u32) -> Self {
        self.written.fill(0);
        self.predicates_written.fill(0);
        for &(register, _) in &kernel.constants {
            self.written[usize::from(register)] = u32::MAX; // nothing writes to constants
        }
        let mut clock = [0; CLOCKS];
        clock[index] = 1;
        Warp {
            index,
            pc: 0,
            mask: live,
            others: vec![],
            meet: u32::MAX,
            live,
            state: State::Running,
            clock,
            synced: 1,
            full_barriers: 0,
            copies: vec![],
            flights: Flights::new(kernel),
            ..self
        }
    }

    /// Goes on with the lanes at the lowest position, and merges those that are at the same.
    pub fn regroup(&mut self) {
        if self.mask != 0 {
            self.others.push((self.pc, self.mask));
        }
        self.others.sort_unstable_by_key(|&(pc, _)| std::cmp::Reverse(pc));
        self.mask = 0;
        while let Some(&(pc, mask)) = self.others.last() {
            if self.mask != 0 && pc != self.pc {
                break;
            }
            self.pc = pc;
            self.mask |= mask;
            self.others.pop();
        }
        self.meet = self.others.last().map_or(u32::MAX, |&(pc, _)| pc);
    }
    pub fn branch(&mut self, taken: u32, target: u32) {
        let stay = self.mask & !taken;
        if stay == 0 {
            self.pc = target;
        } else {
            self.mask = stay;
            self.others.push((target, taken));
            self.regroup();
        }
    }
    pub fn exit(&mut self, lanes: u32) {
        self.live &= !lanes;
        self.mask &= !lanes;
        if self.mask == 0 {
            self.regroup();
        }
        if self.live == 0 {
            self.state = State::Done;
        }
    }
    /// Writes the lanes of `mask`.
    pub fn set(&mut self, register: u16, mask: u32, values: &Lanes) {
        let at = usize::from(register);
        self.written[at] |= mask;
        if let Some(usage) = self.flights.usage.get_mut(at) {
            usage.written = true;
            if usage.accumulating + usage.reading > 0 {
                self.flights.clobbered = Some(register);
            }
        }
        let target = &mut self.registers[at];
        if mask == u32::MAX {
            *target = *values;
        } else {
            for (lane, (target, value)) in target.iter_mut().zip(values).enumerate() {
                if mask >> lane & 1 == 1 {
                    *target = *value;
                }
            }
        }
    }
    pub fn set_predicate(&mut self, predicate: u16, mask: u32, value: u32) {
        let at = usize::from(predicate);
        self.predicates_written[at] |= mask;
        self.predicates[at] = self.predicates[at] & !mask | value & mask;
    }
    /// Later accesses are told from earlier ones.
    pub fn tick(&mut self) {
        self.clock[self.index] += 1;
    }
    /// A barrier: the lanes know of each other's accesses.
    pub fn sync(&mut self) {
        self.tick();
        self.synced = self.clock[self.index];
    }
}
