//! Products of warpgroups. Each warp computes its 16 rows when it issues the instruction; what it may touch until the wait
//! that covers it is checked. Registers on their way count as not written.

use super::Block;
use super::access::Place;
use super::matrix::whole;
use crate::error::{Checked, Error, Fault, Result, Rule};
use crate::kernel::{Kernel, Left, Op, Product, Reg, Space};
use crate::lanes::Lanes;
use crate::mma::element;
use crate::shadow::{Me, WHOLE};
use crate::warp::{Flight, State, Usage, Warp};
use crate::wgmma::{Descriptor, K, PIECE, ROWS, TILE, WARPS, multiply};

/// A `wgmma` instruction as all warps of a warpgroup must execute it: position, descriptors, whether it accumulates.
type Issue = (usize, [u64; 2], bool);

/// What the warps of a warpgroup executed, in order, as the first of them did.
pub(super) type Warpgroup = Vec<Issue>;

/// A matrix in shared memory as one warp reads it: 8 halves by line and piece of [`Descriptor::piece`].
struct Matrix {
    halves: Vec<((usize, usize), [u16; 8])>,
    transposed: bool,
    /// Offsets of the pieces.
    places: Vec<usize>,
}

impl Matrix {
    /// Calls `f` with row (along M or N), k and half of each element.
    fn each(&self, mut f: impl FnMut(usize, usize, u16)) {
        for ((line, piece), halves) in &self.halves {
            for (i, half) in halves.iter().enumerate() {
                let (row, k) = if self.transposed { (8 * piece + i, *line) } else { (*line, 8 * piece + i) };
                f(row, k, *half);
            }
        }
    }
}

impl Block<'_, '_> {
    pub(super) fn warpgroup(&mut self, warp: &mut Warp, op: &Op, mask: u32) -> Checked {
        if let Op::ProxyFence = op {
            for lane in crate::lanes::lanes_of(mask) {
                self.shadow.proxy_fence(&self.me(warp, lane, false));
            }
            self.mbarriers.fence(warp.index, mask);
            return Ok(());
        }
        whole(mask)?;
        let first = warp.index / WARPS * WARPS;
        if first + WARPS > self.warps.len() {
            let message = format!(
                "a warpgroup is four whole warps, the first a multiple of 4; the block ends with {} of warp {first}'s",
                self.warps.len() - first
            );
            return Err(Fault::new(Rule::Warpgroup, 0, message));
        }
        match op {
            Op::Product(product) => self.product(warp, product)?,
            Op::SetRegisters => self.issue(warp, [0; 2], false)?,
            Op::ProductFence => {
                self.issue(warp, [0; 2], false)?;
                warp.flights.fenced = true;
                for usage in &mut warp.flights.usage {
                    *usage = Usage { n: 0, written: false, ..*usage };
                }
            }
            Op::ProductCommit => {
                self.issue(warp, [0; 2], false)?;
                let open = std::mem::take(&mut warp.flights.open);
                warp.flights.groups.push_back(open);
            }
            Op::ProductWait { pending } => {
                self.issue(warp, [0; 2], false)?;
                while warp.flights.groups.len() > *pending {
                    for flight in warp.flights.groups.pop_front().unwrap_or_default() {
                        self.land(warp, flight)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Compares with what the other warps of the warpgroup executed at this point.
    fn issue(&mut self, warp: &mut Warp, descriptors: [u64; 2], accumulates: bool) -> Checked {
        let group = warp.index / WARPS;
        if self.warpgroups.len() <= group {
            self.warpgroups.resize_with(group + 1, Vec::new);
        }
        let issues = &mut self.warpgroups[group];
        let (at, issue) = (warp.flights.executed, (self.pc, descriptors, accumulates));
        warp.flights.executed += 1;
        match issues.get(at) {
            None => issues.push(issue),
            Some(other) if *other == issue => {}
            Some((pc, others, _)) => {
                let message = if *pc != self.pc {
                    let line = self.launch.kernel.code[*pc].line;
                    format!("the warps of the warpgroup part: where this one is here, another executed line {line}")
                } else if *others != descriptors {
                    format!("the warps of the warpgroup give different descriptors: {descriptors:#x?} and {others:#x?}")
                } else {
                    "the warps of the warpgroup differ in scale-d".to_owned()
                };
                return Err(Fault::new(Rule::Warpgroup, 0, message));
            }
        }
        Ok(())
    }
    /// At the end of the block: all warps of a warpgroup executed the same instructions.
    pub(super) fn warpgroups_agree(&mut self) -> Result<(), Error> {
        for (group, issues) in self.warpgroups.iter().enumerate() {
            let warps = self.warps[group * WARPS..].iter().take(WARPS);
            if let Some(warp) = warps.into_iter().find(|w| w.state == State::Done && w.flights.executed < issues.len())
            {
                let (executed, index, all) = (warp.flights.executed, warp.index, issues.len());
                self.line = self.launch.kernel.code[issues[executed].0].line;
                let message = format!(
                    "warp {index} of the warpgroup never executes this: it ended after {executed} wgmma instructions, \
                     another after {all}"
                );
                return Err(self.finding(index, *Fault::new(Rule::Warpgroup, 0, message)));
            }
        }
        Ok(())
    }

    /// The value of a register that must be the same in all lanes.
    fn descriptor(&self, warp: &Warp, register: Reg) -> Checked<u64> {
        let values = self.read(warp, register, u32::MAX)?;
        match values.iter().position(|v| *v != values[0]) {
            None => Ok(values[0]),
            Some(lane) => {
                let message =
                    format!("the lanes of a warp give different descriptors: {:#x} and {:#x}", values[0], values[lane]);
                Err(Fault::new(Rule::Warpgroup, lane, message))
            }
        }
    }

    fn product(&mut self, warp: &mut Warp, product: &Product) -> Checked {
        let Product { n, input, d, a, b, b_transposed, accumulates, negative } = product;
        let accumulates = match self.predicate(warp, *accumulates, u32::MAX)? {
            0 => false,
            u32::MAX => true,
            mixed => {
                let message = format!("scale-d differs among the lanes of a warp: {mixed:#010x}");
                return Err(Fault::new(Rule::Warpgroup, 0, message));
            }
        };
        let b = self.descriptor(warp, *b)?;
        let a_bits = match a {
            Left::Registers(_) => 0,
            Left::Shared { descriptor, .. } => self.descriptor(warp, *descriptor)?,
        };
        self.issue(warp, [a_bits, b], accumulates)?;
        self.accumulators(warp, d, *n, accumulates)?;

        let mut left = [[0.0; K]; ROWS];
        let mut pieces = vec![];
        match a {
            Left::Registers(registers) => {
                let values = self.left(warp, registers)?;
                for lane in 0..values[0].len() {
                    for i in 0..8 {
                        let (row, k) = TILE.a(lane, i);
                        left[row][k] = element(*input, &values, lane, i);
                    }
                }
            }
            Left::Shared { transposed, .. } => {
                let first = warp.index % WARPS * ROWS;
                let matrix = self.matrix_in_shared(warp, "A", a_bits, WARPS * ROWS, first, ROWS, *transposed)?;
                matrix.each(|row, k, half| left[row - first][k] = input.half(half));
                self.launch.report.shared_read_bytes += (matrix.places.len() * PIECE) as u64;
                pieces = matrix.places;
            }
        }
        let matrix = self.matrix_in_shared(warp, "B", b, *n, 0, *n, *b_transposed)?;
        let mut right = vec![0.0; K * n];
        matrix.each(|column, k, half| right[k * n + column] = input.half(half));
        // B is read once for the four warps.
        self.launch.report.shared_read_bytes += (matrix.places.len() * PIECE / WARPS) as u64;
        // Pieces of 8 neighbouring rows lie in different banks, whatever the swizzle.
        self.launch.report.shared_passes += ((pieces.len() + matrix.places.len() / WARPS) * PIECE / 128) as u64;
        pieces.extend(matrix.places);

        let before: Vec<Lanes> = d.iter().map(|r| warp.registers[usize::from(*r)]).collect();
        let after = multiply(*n, *negative, &left, &right, accumulates.then_some(&before[..]));
        for (register, values) in d.iter().zip(after) {
            let at = usize::from(*register);
            (warp.registers[at], warp.written[at]) = (values, 0);
            let usage = &mut warp.flights.usage[at];
            (usage.accumulating, usage.n) = (usage.accumulating + 1, *n as u16);
        }
        if let Left::Registers(registers) = a {
            for register in registers {
                warp.written[usize::from(*register)] = 0;
                warp.flights.usage[usize::from(*register)].reading += 1;
            }
        }
        pieces.iter().for_each(|at| self.shadow.begin_read(*at, self.line));
        warp.flights.open.push(Flight { pc: self.pc, line: self.line, pieces });
        Ok(())
    }

    /// The accumulators may be used.
    fn accumulators(&self, warp: &Warp, d: &[Reg], n: usize, accumulates: bool) -> Checked {
        if !warp.flights.fenced {
            let message = "wgmma.fence is missing: it must come before the first wgmma.mma_async";
            return Err(Fault::new(Rule::RegisterFence, 0, message));
        }
        for register in d {
            let name = self.register_name(*register);
            let usage = self.fenced(warp, *register)?;
            if usage.reading > 0 {
                return Err(self.in_use(warp, *register, "accumulates into"));
            }
            if usage.n != 0 && usize::from(usage.n) != n {
                let message = format!(
                    "wgmma.fence is missing: {name} was accumulated by a product of another shape (n = {}) since the last",
                    usage.n
                );
                return Err(Fault::new(Rule::RegisterFence, 0, message));
            }
            if accumulates && usage.accumulating == 0 {
                self.read(warp, *register, u32::MAX)?;
            }
        }
        Ok(())
    }
    /// A in registers.
    fn left(&self, warp: &Warp, registers: &[Reg; 4]) -> Checked<Vec<Lanes>> {
        let read = |register: &Reg| {
            let usage = self.fenced(warp, *register)?;
            if usage.n != 0 && usage.accumulating == 0 {
                let name = self.register_name(*register);
                let message = format!("wgmma.fence is missing: {name} was accumulated by a product since the last");
                return Err(Fault::new(Rule::RegisterFence, 0, message));
            }
            // Several products may read the same registers at a time.
            if usage.reading == 0 {
                self.read(warp, *register, u32::MAX).copied()
            } else {
                Ok(warp.registers[usize::from(*register)])
            }
        };
        registers.iter().map(read).collect()
    }
    /// No other instruction wrote the register since the last `wgmma.fence`.
    fn fenced(&self, warp: &Warp, register: Reg) -> Checked<Usage> {
        let usage = warp.flights.usage[usize::from(register)];
        if !usage.written {
            return Ok(usage);
        }
        let name = self.register_name(register);
        let message = format!("wgmma.fence is missing: another instruction wrote {name} since the last");
        Err(Fault::new(Rule::RegisterFence, 0, message))
    }
    fn register_name(&self, register: Reg) -> &str {
        &self.launch.kernel.registers[usize::from(register)]
    }
    /// The finding for a register that a product is using.
    #[cold]
    pub(super) fn in_use(&self, warp: &Warp, register: Reg, does: &str) -> Box<Fault> {
        let uses = |flight: &&Flight| registers(self.launch.kernel, flight.pc).any(|(r, _)| r == register);
        let line = warp.flights.in_flight().find(uses).map_or(0, |flight| flight.line);
        let message = format!(
            "{does} {}, which the wgmma.mma_async of line {line} is using: wgmma.wait_group is missing",
            self.register_name(register)
        );
        Fault::new(Rule::AsyncRegister, 0, message)
    }

    /// Reads `rows` rows from `first` of a matrix of `all` rows.
    fn matrix_in_shared(
        &mut self,
        warp: &Warp,
        name: &str,
        bits: u64,
        all: usize,
        first: usize,
        rows: usize,
        transposed: bool,
    ) -> Checked<Matrix> {
        let checked = |result: Result<_, String>| {
            result.map_err(|message| Fault::new(Rule::Descriptor, 0, format!("{name}: {message}")))
        };
        let descriptor = checked(Descriptor::decode(bits))?;
        checked(descriptor.check(all, transposed).map(|()| descriptor))?;
        let mut matrix = Matrix { halves: vec![], transposed, places: vec![] };
        for (line, piece) in Descriptor::pieces(first, rows, transposed) {
            let address = descriptor.piece(line, piece, transposed);
            let Place::Shared(at) = self.locate(Space::Shared, 0, address, PIECE)? else { continue };
            self.check_piece(warp, name, at)?;
            let halves = std::array::from_fn(|i| self.shared.get(at + 2 * i, 2) as u16);
            matrix.halves.push(((line, piece), halves));
            matrix.places.push(at);
        }
        Ok(matrix)
    }
    fn whole_warp<'w>(&self, warp: &'w Warp, line: u32) -> Me<'w> {
        Me { lane: WHOLE, line, ..self.me(warp, 0, false) }
    }
    fn check_piece(&mut self, warp: &Warp, name: &str, at: usize) -> Checked {
        let me = self.whole_warp(warp, self.line);
        if let Some((byte, in_flight)) = self.shared.unwritten(at, PIECE) {
            let why = if in_flight {
                "which an asynchronous copy has not delivered: a wait is missing"
            } else {
                "which was never written"
            };
            let message = format!("{name}: reads byte {byte} of shared memory, {why}");
            return Err(Fault::new(Rule::UnwrittenMemory, 0, message));
        }
        Self::race(self.shadow.read(at, PIECE, &me), 0, false)?;
        match self.shadow.unfenced(at, PIECE, &me) {
            None => Ok(()),
            Some((thread, line, fence)) => {
                let what = if fence {
                    "executed fence.proxy.async only after the barrier"
                } else {
                    "executed no fence.proxy.async since"
                };
                let message = format!(
                    "{name}: reads bytes {at} and on of shared memory, which thread {thread} wrote in line {line}; it {what}"
                );
                Err(Fault::new(Rule::ProxyFence, 0, message))
            }
        }
    }

    /// A product is complete: until now it may have read.
    fn land(&mut self, warp: &mut Warp, flight: Flight) -> Checked {
        for at in flight.pieces {
            self.shadow.end_read(at);
            let me = self.whole_warp(warp, flight.line);
            Self::race(self.shadow.read(at, PIECE, &me), 0, false)?;
        }
        for (register, accumulator) in registers(self.launch.kernel, flight.pc) {
            let usage = &mut warp.flights.usage[usize::from(register)];
            let count = if accumulator { &mut usage.accumulating } else { &mut usage.reading };
            *count -= 1;
            if usage.accumulating + usage.reading == 0 {
                warp.written[usize::from(register)] = u32::MAX;
            }
        }
        Ok(())
    }
}

/// Registers of the product at `pc`, and whether they are accumulators.
fn registers(kernel: &Kernel, pc: usize) -> impl Iterator<Item = (Reg, bool)> {
    let Op::Product(product) = &kernel.code[pc].op else { unreachable!("a flight is a product") };
    let left: &[Reg] = match &product.a {
        Left::Registers(registers) => registers,
        Left::Shared { .. } => &[],
    };
    product.d.iter().map(|r| (*r, true)).chain(left.iter().map(|r| (*r, false)))
}
