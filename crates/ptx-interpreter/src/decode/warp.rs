//! Barriers, shuffles, votes, matrix instructions.

use super::memory::reduction;
use super::{Decoder, Modifiers};
use crate::error::Result;
use crate::kernel::{NONE, Op, Reg, ShuffleMode, Vote};
use crate::mma::{Input, Shape};
use crate::syntax::{Operand, Type};

impl Decoder {
    pub(super) fn warp(&mut self, name: &str, m: &mut Modifiers, operands: &[Operand]) -> Result<Option<Op>> {
        Ok(Some(match name {
            "bar" | "barrier" => self.barrier(m, operands)?,
            "shfl" => {
                self.sync(m)?;
                let mode = match m.take_any(&["up", "down", "bfly", "idx"]) {
                    Some("up") => ShuffleMode::Up,
                    Some("down") => ShuffleMode::Down,
                    Some("bfly") => ShuffleMode::Bfly,
                    Some(_) => ShuffleMode::Idx,
                    None => return Err(m.unknown()),
                };
                m.take("b32");
                let [d, a, b, c, mask] = self.count(operands)?;
                let (d, p) = self.with_predicate(d)?;
                let [a, b, c, mask] = self.sources([a, b, c, mask])?;
                Op::Shuffle { mode, d, p, a, b, c, mask }
            }
            "vote" => {
                self.sync(m)?;
                let vote = match m.take_any(&["all", "any", "uni", "ballot"]) {
                    Some("all") => Vote::All,
                    Some("any") => Vote::Any,
                    Some("uni") => Vote::Uni,
                    Some(_) => Vote::Ballot,
                    None => return Err(m.unknown()),
                };
                let [d, a, mask] = self.count(operands)?;
                m.take_any(&["pred", "b32"]);
                let d = if vote == Vote::Ballot { self.target(d, Type::B32)? } else { self.predicate(d)? };
                let (a, negated) = self.condition(a)?;
                Op::Vote { vote, d, a, negated, mask: self.source(mask, Type::B32)? }
            }
            "match" => {
                let all = m.take("all");
                if !all && !m.take("any") {
                    return Err(m.unknown());
                }
                self.sync(m)?;
                let kind = m.last_type()?;
                let [d, a, mask] = self.count(operands)?;
                let (d, p) = self.with_predicate(d)?;
                let (a, mask) = (self.source(a, kind)?, self.source(mask, Type::B32)?);
                if all { Op::MatchAll { d, p, a, mask } } else { Op::MatchAny { d, a, mask } }
            }
            "redux" => {
                self.sync(m)?;
                let kind = m.last_type()?;
                let f = reduction(m.first(), kind).ok_or_else(|| m.unknown())?;
                let [d, a, mask] = self.count(operands)?;
                let (a, mask) = (self.source(a, kind)?, self.source(mask, Type::B32)?);
                Op::Redux { f, d: self.target(d, kind)?, a, mask }
            }
            "elect" => {
                self.sync(m)?;
                let [d, mask] = self.count(operands)?;
                let (d, p) = self.with_predicate(d)?;
                Op::Elect { d, p, mask: self.source(mask, Type::B32)? }
            }
            "activemask" => {
                m.take("b32");
                let [d] = self.count(operands)?;
                Op::ActiveMask { d: self.target(d, Type::B32)? }
            }
            "ldmatrix" | "stmatrix" => self.matrix(name == "ldmatrix", m, operands)?,
            "movmatrix" => {
                self.aligned(m)?;
                if !(m.take("m8n8") && m.take("trans") && m.take("b16")) {
                    return Err(m.unknown());
                }
                let [d, a] = self.count(operands)?;
                Op::MovMatrix { a: self.source(a, Type::B32)?, d: self.target(d, Type::B32)? }
            }
            "mma" => self.mma(m, operands)?,
            _ => return Ok(None),
        }))
    }

    fn sync(&self, m: &mut Modifiers) -> Result<()> {
        if m.take("sync") { Ok(()) } else { Err(m.unknown()) }
    }
    pub(super) fn aligned(&self, m: &mut Modifiers) -> Result<()> {
        if m.take("sync") && m.take("aligned") { Ok(()) } else { Err(m.unknown()) }
    }
    /// `d` or `d|p`.
    fn with_predicate(&mut self, operand: &Operand) -> Result<(Reg, u16)> {
        match operand {
            Operand::Pair(d, p) => {
                let p = self.predicate(&Operand::Name(p.clone()))?;
                Ok((self.target(&Operand::Name(d.clone()), Type::B32)?, p))
            }
            one => Ok((self.target(one, Type::B32)?, NONE)),
        }
    }
    fn sources<const N: usize>(&mut self, operands: [&Operand; N]) -> Result<[Reg; N]> {
        let mut all = [NONE; N];
        for (slot, operand) in all.iter_mut().zip(operands) {
            *slot = self.source(operand, Type::B32)?;
        }
        Ok(all)
    }

    fn barrier(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Result<Op> {
        m.take("cta");
        if m.take("warp") {
            self.sync(m)?;
            let [mask] = self.count(operands)?;
            return Ok(Op::WarpBarrier { mask: self.source(mask, Type::B32)? });
        }
        let waits = match m.take_any(&["sync", "arrive"]) {
            Some(word) => word == "sync",
            None => return Err(m.unknown()),
        };
        m.take("aligned");
        let (id, count) = match operands {
            [id] if waits => (id, NONE),
            [id, count] => (id, self.source(count, Type::U32)?),
            _ => return self.wrong("a barrier needs a number, and a count of threads where it is .arrive"),
        };
        Ok(Op::Barrier { id: self.source(id, Type::U32)?, count, waits })
    }

    pub(super) fn registers(
        &mut self,
        operand: &Operand,
        kinds: Type,
        count: usize,
        written: bool,
    ) -> Result<Box<[Reg]>> {
        let elements = self.elements(operand);
        if elements.len() != count {
            return self.wrong(format!("expected {count} registers, got {}", elements.len()));
        }
        elements.iter().map(|e| if written { self.target(e, kinds) } else { self.source(e, kinds) }).collect()
    }

    fn matrix(&mut self, load: bool, m: &mut Modifiers, operands: &[Operand]) -> Result<Op> {
        self.aligned(m)?;
        if !m.take("m8n8") {
            return Err(m.unknown());
        }
        let count = match m.take_any(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            Some(_) => 4,
            None => return Err(m.unknown()),
        };
        let transposed = m.take("trans");
        if !(m.take("shared") || m.take("shared::cta")) || !m.take("b16") {
            return Err(m.unknown());
        }
        if load {
            let [d, address] = self.count(operands)?;
            let d = self.registers(d, Type::B32, count, true)?;
            return Ok(Op::LdMatrix { d, address: self.address(address)?, transposed });
        }
        self.access(4);
        let [address, s] = self.count(operands)?;
        let s = self.registers(s, Type::B32, count, false)?;
        Ok(Op::StMatrix { s, address: self.address(address)?, transposed })
    }

    fn mma(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Result<Op> {
        self.aligned(m)?;
        let size = match m.take_any(&["m8n8k4", "m16n8k4", "m16n8k8", "m16n8k16"]) {
            Some("m8n8k4") => (8, 4),
            Some("m16n8k4") => (16, 4),
            Some("m16n8k8") => (16, 8),
            Some(_) => (16, 16),
            None => return Err(m.unknown()),
        };
        let (a_layout, b_layout) = (m.first(), m.first());
        let mut kinds = [Type::F32; 4];
        for slot in kinds.iter_mut().rev() {
            *slot = m.last_type()?;
        }
        let [d_kind, a_kind, b_kind, c_kind] = kinds;
        let input = match a_kind {
            Type::F16 => Input::F16,
            Type::Bf16 => Input::Bf16,
            Type::Tf32 => Input::Tf32,
            _ => return Err(m.unknown()),
        };
        let layout = |word: &str| match word {
            "row" => Some(true),
            "col" => Some(false),
            _ => None,
        };
        let (Some(a_rows), Some(b_rows)) = (layout(a_layout), layout(b_layout)) else { return Err(m.unknown()) };
        let known = match (size, input) {
            ((8, 4), Input::F16) => true,
            ((16, 8 | 16), Input::F16 | Input::Bf16) | ((16, 4 | 8), Input::Tf32) => a_rows && !b_rows,
            _ => false,
        };
        let wide = |kind| match kind {
            Type::F32 => Some(true),
            Type::F16 if input == Input::F16 => Some(false),
            _ => None,
        };
        let (true, true, Some(d_wide), Some(c_wide)) = (known, a_kind == b_kind, wide(d_kind), wide(c_kind)) else {
            return Err(m.unknown());
        };
        let shape = Shape { m: size.0, k: size.1, input, d_wide, c_wide, a_rows, b_rows };
        let [d, a, b, c] = self.count(operands)?;
        let accumulator = |wide| if wide { Type::F32 } else { Type::B32 };
        Ok(Op::Mma {
            shape,
            a: self.registers(a, Type::B32, shape.a_registers(), false)?,
            b: self.registers(b, Type::B32, shape.b_registers(), false)?,
            c: self.registers(c, accumulator(c_wide), shape.c_registers(c_wide), false)?,
            d: self.registers(d, accumulator(d_wide), shape.c_registers(d_wide), true)?,
        })
    }
}
