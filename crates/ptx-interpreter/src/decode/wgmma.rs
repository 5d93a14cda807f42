//! Instructions of warpgroups.

use super::{Decoder, Modifiers};
use crate::error::Result;
use crate::kernel::{Left, NONE, Op, Product};
use crate::mma::Input;
use crate::syntax::{Operand, Type};

impl Decoder {
    pub(super) fn wgmma(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Result<Op> {
        self.kernel.products = true;
        let word = m.take_any(&["fence", "commit_group", "wait_group", "mma_async"]).ok_or_else(|| m.unknown())?;
        self.aligned(m)?;
        Ok(match word {
            "fence" => {
                let [] = self.count(operands)?;
                Op::ProductFence
            }
            "commit_group" => {
                let [] = self.count(operands)?;
                Op::ProductCommit
            }
            "wait_group" => {
                let [pending] = self.count(operands)?;
                let pending = self.immediate(pending)?;
                if !(0..8).contains(&pending) {
                    return self.wrong(format!("wgmma.wait_group waits for at most 0 to 7 groups, not {pending}"));
                }
                Op::ProductWait { pending: pending as usize }
            }
            _ => self.product(m, operands)?,
        })
    }

    /// `setmaxnreg.inc.sync.aligned.u32 240`
    pub(super) fn set_registers(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Result<Op> {
        m.take_any(&["inc", "dec"]).ok_or_else(|| m.unknown())?;
        self.aligned(m)?;
        let ([count], Type::U32) = (self.count(operands)?, m.last_type()?) else { return Err(m.unknown()) };
        let count = self.immediate(count)?;
        if !(24..=256).contains(&count) || count % 8 != 0 {
            return self.wrong(format!("setmaxnreg takes a multiple of 8 from 24 to 256, not {count}"));
        }
        Ok(Op::SetRegisters)
    }

    /// `m64n64k16.f32.bf16.bf16 {d}, {a} or a-desc, b-desc, scale-d, imm-scale-a, imm-scale-b[, imm-trans-a], imm-trans-b`
    fn product(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Result<Op> {
        let n = m.first().strip_prefix("m64n").and_then(|rest| rest.strip_suffix("k16")).and_then(|n| n.parse().ok());
        let n: usize = n.filter(|n| (8..=256).contains(n) && n % 8 == 0).ok_or_else(|| m.unknown())?;
        let input = match (m.first(), m.first(), m.first()) {
            ("f32", "bf16", "bf16") => Input::Bf16,
            ("f32", "f16", "f16") => Input::F16,
            _ => return Err(m.unknown()),
        };
        let [d, a, b, accumulates, scale_a, scale_b, transposed @ ..] = operands else {
            return self.wrong(format!("wgmma.mma_async needs 7 or 8 operands, got {}", operands.len()));
        };
        let in_registers = matches!(a, Operand::Vector(_));
        let ([trans_a, trans_b], true) = (
            match transposed {
                [a, b] => [self.flag(a)?, self.flag(b)?],
                [b] => [false, self.flag(b)?],
                _ => {
                    return self
                        .wrong("wgmma.mma_async ends with imm-trans-a (A in shared memory only) and imm-trans-b");
                }
            },
            in_registers == (transposed.len() == 1),
        ) else {
            return self.wrong("imm-trans-a stands where A is a descriptor, and not where A is in registers");
        };
        let d = self.registers(d, Type::F32, n / 2, true)?;
        if d.contains(&NONE) {
            return self.wrong("each accumulator of wgmma.mma_async needs a register");
        }
        let a = if in_registers {
            let registers = self.registers(a, Type::B32, 4, false)?;
            Left::Registers([registers[0], registers[1], registers[2], registers[3]])
        } else {
            Left::Shared { descriptor: self.source(a, Type::B64)?, transposed: trans_a }
        };
        let negative = self.sign(scale_a)? != self.sign(scale_b)?;
        let (b, accumulates) = (self.source(b, Type::B64)?, self.predicate(accumulates)?);
        Ok(Op::Product(Box::new(Product { n, input, d, a, b, b_transposed: trans_b, accumulates, negative })))
    }
    fn flag(&self, operand: &Operand) -> Result<bool> {
        match self.immediate(operand)? {
            0 => Ok(false),
            1 => Ok(true),
            other => self.wrong(format!("imm-trans is 0 or 1, not {other}")),
        }
    }
    /// True for -1.
    fn sign(&self, operand: &Operand) -> Result<bool> {
        match self.immediate(operand)? {
            1 => Ok(false),
            -1 => Ok(true),
            other => self.wrong(format!("imm-scale is 1 or -1, not {other}")),
        }
    }
}
