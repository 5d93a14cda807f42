//! `setp`, `set`, `selp`.

use half::{bf16, f16};

use super::{Decoder, Modifiers};
use crate::error::Result;
use crate::kernel::{NONE, Op};
use crate::lanes::{Compare, Half, compare};
use crate::syntax::{Operand, Type};

fn integer(relation: &str, kind: Type) -> Option<Compare> {
    macro_rules! relations {
        ($t:ty) => {
            Some(match relation {
                "eq" => compare!($t, |a, b| a == b),
                "ne" => compare!($t, |a, b| a != b),
                "lt" | "lo" => compare!($t, |a, b| a < b),
                "le" | "ls" => compare!($t, |a, b| a <= b),
                "gt" | "hi" => compare!($t, |a, b| a > b),
                "ge" | "hs" => compare!($t, |a, b| a >= b),
                _ => return None,
            })
        };
    }
    match kind {
        Type::U16 | Type::B16 => relations!(u16),
        Type::S16 => relations!(i16),
        Type::U32 | Type::B32 => relations!(u32),
        Type::S32 => relations!(i32),
        Type::U64 | Type::B64 => relations!(u64),
        Type::S64 => relations!(i64),
        _ => None,
    }
}

/// Relations of numbers; those that end in `u` also hold for NaN.
fn float(relation: &str, kind: Type) -> Option<Compare> {
    macro_rules! relations {
        ($t:ty, $wide:expr) => {{
            macro_rules! on {
                (|$a:ident, $b:ident| $e:expr) => {
                    compare!($t, |$a, $b| {
                        let wide: fn($t) -> f64 = $wide;
                        let ($a, $b) = (wide($a), wide($b));
                        $e
                    })
                };
            }
            Some(match relation {
                "eq" => on!(|a, b| a == b),
                "ne" => on!(|a, b| a != b && !a.is_nan() && !b.is_nan()),
                "lt" => on!(|a, b| a < b),
                "le" => on!(|a, b| a <= b),
                "gt" => on!(|a, b| a > b),
                "ge" => on!(|a, b| a >= b),
                "equ" => on!(|a, b| a == b || a.is_nan() || b.is_nan()),
                "neu" => on!(|a, b| a != b),
                "ltu" => on!(|a, b| a.partial_cmp(&b).is_none_or(|o| o.is_lt())),
                "leu" => on!(|a, b| a.partial_cmp(&b).is_none_or(|o| o.is_le())),
                "gtu" => on!(|a, b| a.partial_cmp(&b).is_none_or(|o| o.is_gt())),
                "geu" => on!(|a, b| a.partial_cmp(&b).is_none_or(|o| o.is_ge())),
                "num" => on!(|a, b| !a.is_nan() && !b.is_nan()),
                "nan" => on!(|a, b| a.is_nan() || b.is_nan()),
                _ => return None,
            })
        }};
    }
    match kind {
        Type::F32 => relations!(f32, f64::from),
        Type::F64 => relations!(f64, |x| x),
        Type::F16 => relations!(f16, Half::wide),
        Type::Bf16 => relations!(bf16, Half::wide),
        _ => None,
    }
}

impl Decoder {
    pub(super) fn comparison(&mut self, name: &str, m: &mut Modifiers, operands: &[Operand]) -> Result<Op> {
        let kind = m.last_type()?;
        if name == "selp" {
            let [d, a, b, p] = self.count(operands)?;
            let (p, negated) = self.condition(p)?;
            let (a, b) = (self.source(a, kind)?, self.source(b, kind)?);
            return Ok(Op::SelP { d: self.target(d, kind)?, a, b, p, negated });
        }
        let relation = m.first();
        let f = integer(relation, kind).or_else(|| float(relation, kind)).ok_or_else(|| m.unknown())?;
        if name == "set" {
            let to = m.last_type()?;
            let [d, a, b] = self.count(operands)?;
            let yes = if to == Type::F32 { u64::from(1.0_f32.to_bits()) } else { 0xffff_ffff };
            let (a, b) = (self.source(a, kind)?, self.source(b, kind)?);
            return Ok(Op::Set { f, d: self.target(d, to)?, a, b, yes });
        }
        let join: Option<fn(u32, u32) -> u32> = match m.take_any(&["and", "or", "xor"]) {
            Some("and") => Some(|a, b| a & b),
            Some("or") => Some(|a, b| a | b),
            Some(_) => Some(|a, b| a ^ b),
            None => None,
        };
        let expected = 3 + usize::from(join.is_some());
        if operands.len() != expected {
            return self.wrong(format!("expected {expected} operands, got {}", operands.len()));
        }
        let (p, q) = match &operands[0] {
            Operand::Pair(p, q) => {
                (self.predicate(&Operand::Name(p.clone()))?, self.predicate(&Operand::Name(q.clone()))?)
            }
            one => (self.predicate(one)?, NONE),
        };
        let (a, b) = (self.source(&operands[1], kind)?, self.source(&operands[2], kind)?);
        let join = match join {
            Some(f) => {
                let (c, negated) = self.condition(&operands[3])?;
                Some((f, c, negated))
            }
            None => None,
        };
        Ok(Op::SetP { f, p, q, a, b, join })
    }
}
