//! Barriers in shared memory, and the bulk copies that arrive at them.

use super::memory::{SCOPES, space};
use super::{Decoder, Modifiers};
use crate::error::Result;
use crate::kernel::{NONE, Op, Reg, Space};
use crate::syntax::{Operand, Type};

impl Decoder {
    pub(super) fn mbarrier(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Result<Op> {
        const WORDS: [&str; 6] = ["init", "inval", "arrive", "expect_tx", "try_wait", "test_wait"];
        let word = m.take_any(&WORDS).ok_or_else(|| m.unknown())?;
        // `mbarrier.arrive.expect_tx` has both words.
        let expects = m.take("expect_tx") || word == "expect_tx";
        let parity = m.take("parity");
        if word != "init" && word != "inval" {
            m.take_any(&["acquire", "release"]);
            m.take_any(&SCOPES);
            m.take("relaxed");
        }
        let space = space(m);
        if space == Space::Global || word != "expect_tx" && !m.take("b64") {
            return Err(m.unknown());
        }
        m.take("b64");
        Ok(match (word, operands) {
            ("init", [address, count]) => {
                Op::MBarrierInit { space, count: self.source(count, Type::U32)?, address: self.address(address)? }
            }
            ("inval", [address]) => Op::MBarrierInvalidate { space, address: self.address(address)? },
            ("arrive", [state, address, rest @ ..]) if rest.len() <= 1 && (!expects || rest.len() == 1) => {
                let operand = rest.first().map_or(Ok(NONE), |one| self.source(one, Type::U32))?;
                let (count, bytes) = if expects { (NONE, operand) } else { (operand, NONE) };
                let (state, address) = (self.target(state, Type::B64)?, self.address(address)?);
                Op::MBarrierArrive { space, state, address, arrives: true, count, bytes }
            }
            ("expect_tx", [address, bytes]) => {
                let (bytes, address) = (self.source(bytes, Type::U32)?, self.address(address)?);
                Op::MBarrierArrive { space, state: NONE, address, arrives: false, count: NONE, bytes }
            }
            // The last operand of `try_wait` is a time after which it gives up.
            ("try_wait", [p, address, phase] | [p, address, phase, _]) | ("test_wait", [p, address, phase]) => {
                let phase = self.source(phase, if parity { Type::U32 } else { Type::B64 })?;
                Op::MBarrierWait { space, p: self.predicate(p)?, address: self.address(address)?, phase, parity }
            }
            _ => return self.wrong(format!("mbarrier.{word} does not have {} operands", operands.len())),
        })
    }

    /// `cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [to], [from], bytes, [mbarrier]`
    pub(super) fn copy_bulk(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Result<Op> {
        if m.take_any(&["shared::cluster", "shared::cta"]).is_none()
            || !m.take("global")
            || !m.take("mbarrier::complete_tx::bytes")
        {
            return Err(m.unknown());
        }
        let hint = usize::from(m.take("L2::cache_hint"));
        let [to, from, bytes, barrier, rest @ ..] = operands else {
            return self.wrong(format!("cp.async.bulk has 4 operands, got {}", operands.len()));
        };
        if rest.len() != hint {
            return self.wrong("cp.async.bulk has 4 operands, and a fifth with .L2::cache_hint");
        }
        let bytes: Reg = self.source(bytes, Type::U32)?;
        let (to, from, barrier) = (self.address(to)?, self.address(from)?, self.address(barrier)?);
        Ok(Op::CopyBulk { to, from, bytes, barrier })
    }
}
