//! Integer, logic and single- and double-precision arithmetic.

use super::{Decoder, Modifiers};
use crate::error::Result;
use crate::float::{flush, max, max_nan, min, min_nan, through};
use crate::kernel::{NONE, Op};
use crate::lanes::{Map, map};
use crate::syntax::{Operand, Type};

/// A map for each integer type of a list; `T` is the type in the expression.
macro_rules! for_types {
    ($kind:expr; $($name:ident => $t:ty),*; $args:tt $T:ident: $e:expr) => {
        match $kind {
            $(Type::$name => {
                type $T = $t;
                Some(map!($T, $args $e))
            })*
            _ => None,
        }
    };
}
macro_rules! integers {
    ($kind:expr; $args:tt $T:ident: $e:expr) => {
        for_types!($kind; U16 => u16, S16 => i16, U32 => u32, S32 => i32, U64 => u64, S64 => i64; $args $T: $e)
    };
}
/// With and without `.ftz`.
macro_rules! single {
    ($ftz:expr, |$a:ident $(, $rest:ident)*| $e:expr) => {
        if $ftz {
            map!(f32, |$a $(, $rest)*| {
                let $a = flush($a);
                $(let $rest = flush($rest);)*
                flush($e)
            })
        } else {
            map!(f32, |$a $(, $rest)*| $e)
        }
    };
}

impl Decoder {
    pub(super) fn arithmetic(&mut self, name: &str, m: &mut Modifiers, operands: &[Operand]) -> Result<Option<Op>> {
        if m.parts.last().is_none_or(|p| Type::parse(p).is_none()) {
            return Err(m.unknown());
        }
        let kind = m.last_type()?;
        match name {
            "mov" => return self.mov(kind, operands).map(Some),
            "lop3" => {
                let [d, a, b, c, table] = self.count(operands)?;
                let s = [self.source(a, kind)?, self.source(b, kind)?, self.source(c, kind)?];
                let table = self.immediate(table)? as u8;
                return Ok(Some(Op::Lop3 { d: self.target(d, kind)?, s, table }));
            }
            "bfi" if kind == Type::B32 => {
                let [d, a, b, c, e] = self.count(operands)?;
                let s =
                    [self.source(a, kind)?, self.source(b, kind)?, self.source(c, kind)?, self.source(e, Type::U32)?];
                return Ok(Some(Op::Bfi { d: self.target(d, kind)?, s }));
            }
            "and" | "or" | "xor" | "not" if kind == Type::Pred => return self.logic(name, operands).map(Some),
            _ => {}
        }
        // Result type, types of the sources.
        let mut types = (kind, vec![kind; operands.len().saturating_sub(1)]);
        let f = match (name, kind) {
            ("mul" | "mad", _) if !kind.is_float() => {
                let part = m.take_any(&["lo", "hi", "wide"]);
                if part == Some("wide") {
                    types.0 = widened(kind);
                    if let Some(last) = types.1.get_mut(2) {
                        *last = widened(kind);
                    }
                }
                multiply(kind, part)
            }
            ("shl" | "shr", _) => {
                if let Some(amount) = types.1.get_mut(1) {
                    *amount = Type::U32;
                }
                shift(name, kind)
            }
            ("bfe", _) => {
                types.1.iter_mut().skip(1).for_each(|t| *t = Type::U32);
                match kind {
                    Type::U32 => Some(map!(u32, |a, b, c| extract(i64::from(a), b, c, false))),
                    Type::S32 => Some(map!(u32, |a, b, c| extract(i64::from(a as i32), b, c, true))),
                    _ => None,
                }
            }
            ("shf", Type::B32) => funnel(m),
            ("popc" | "clz", Type::B64) => {
                types.0 = Type::U32;
                Some(if name == "popc" { map!(u64, |a| a.count_ones()) } else { map!(u64, |a| a.leading_zeros()) })
            }
            _ => match integer(name, kind) {
                Some(f) => Some(f),
                None => match kind {
                    Type::F32 => single(name, m),
                    Type::F64 => double(name, m),
                    _ => super::half::arithmetic(name, kind, m),
                },
            },
        };
        let Some(f) = f else { return Ok(None) };
        self.mapped(f, types.0, &types.1, operands).map(Some)
    }

    /// `d` and up to three sources.
    pub(super) fn mapped(&mut self, f: Map, to: Type, from: &[Type], operands: &[Operand]) -> Result<Op> {
        if operands.len() != from.len() + 1 || !(1..=3).contains(&from.len()) {
            return self.wrong(format!("expected {} operands, got {}", from.len() + 1, operands.len()));
        }
        let zero = self.constant(0)?;
        let mut s = [zero; 3];
        for ((slot, operand), kind) in s.iter_mut().zip(&operands[1..]).zip(from) {
            *slot = self.source(operand, *kind)?;
        }
        Ok(Op::Map { f, d: self.target(&operands[0], to)?, s })
    }

    fn mov(&mut self, kind: Type, operands: &[Operand]) -> Result<Op> {
        let [d, a] = self.count(operands)?;
        if kind == Type::Pred {
            let a = self.predicate(a)?;
            return Ok(Op::Logic { f: |a, _| a, d: self.predicate(d)?, a, b: a });
        }
        let part = |n: usize| match (kind.size(), n) {
            (8, 2) => Ok(Type::B32),
            (8, 4) | (4, 2) => Ok(Type::B16),
            (4, 4) | (2, 2) => Ok(Type::B8),
            _ => self.wrong(format!("{n} parts do not make up {} bytes", kind.size())),
        };
        match (d, a) {
            (_, Operand::Vector(parts)) => {
                let part = part(parts.len())?;
                let s = parts.iter().map(|p| self.source(p, part)).collect::<Result<_>>()?;
                Ok(Op::Pack { d: self.target(d, kind)?, s, bits: 8 * part.size() as u32 })
            }
            (Operand::Vector(parts), _) => {
                let part = part(parts.len())?;
                let d = parts.iter().map(|p| self.target(p, part)).collect::<Result<_>>()?;
                Ok(Op::Unpack { d, s: self.source(a, kind)?, bits: 8 * part.size() as u32 })
            }
            _ => self.mapped(map!(u64, |a| a), kind, &[kind], operands),
        }
    }

    fn logic(&mut self, name: &str, operands: &[Operand]) -> Result<Op> {
        let d = self.predicate(operands.first().unwrap_or(&Operand::Int(0)))?;
        if name == "not" {
            let [_, a] = self.count(operands)?;
            let a = self.predicate(a)?;
            return Ok(Op::Logic { f: |a, _| !a, d, a, b: a });
        }
        let [_, a, b] = self.count(operands)?;
        let f = match name {
            "and" => |a, b| a & b,
            "or" => |a, b| a | b,
            _ => |a, b| a ^ b,
        };
        let (a, b) = (self.predicate(a)?, self.predicate(b)?);
        if d == NONE || a == NONE || b == NONE {
            return self.wrong("predicate logic needs three predicates");
        }
        Ok(Op::Logic { f, d, a, b })
    }
}

fn widened(kind: Type) -> Type {
    match kind {
        Type::U16 => Type::U32,
        Type::S16 => Type::S32,
        Type::U32 => Type::U64,
        _ => Type::S64,
    }
}

fn multiply(kind: Type, part: Option<&str>) -> Option<Map> {
    // `mul` has a third source of zero.
    match part? {
        "lo" => integers!(kind; (a, b, c) T: { let p: T = a.wrapping_mul(b); p.wrapping_add(c) }),
        "wide" => match kind {
            Type::U16 => Some(map!(u32, |a, b, c| (a as u16 as u32 * (b as u16 as u32)).wrapping_add(c))),
            Type::S16 => Some(map!(i32, |a, b, c| (a as i16 as i32 * (b as i16 as i32)).wrapping_add(c))),
            Type::U32 => Some(map!(u64, |a, b, c| (a as u32 as u64 * (b as u32 as u64)).wrapping_add(c))),
            Type::S32 => Some(map!(i64, |a, b, c| (a as i32 as i64 * (b as i32 as i64)).wrapping_add(c))),
            _ => None,
        },
        _ => match kind {
            Type::U16 => Some(map!(u16, |a, b, c| (((u32::from(a) * u32::from(b)) >> 16) as u16).wrapping_add(c))),
            Type::S16 => Some(map!(i16, |a, b, c| (((i32::from(a) * i32::from(b)) >> 16) as i16).wrapping_add(c))),
            Type::U32 => Some(map!(u32, |a, b, c| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c))),
            Type::S32 => Some(map!(i32, |a, b, c| (((i64::from(a) * i64::from(b)) >> 32) as i32).wrapping_add(c))),
            Type::U64 => Some(map!(u64, |a, b, c| (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c))),
            Type::S64 => Some(map!(i64, |a, b, c| (((i128::from(a) * i128::from(b)) >> 64) as i64).wrapping_add(c))),
            _ => None,
        },
    }
}

fn shift(name: &str, kind: Type) -> Option<Map> {
    match (name, kind) {
        ("shl", Type::B16) => Some(map!(u64, |a, b| if b > 15 { 0 } else { a << b & 0xffff })),
        ("shl", Type::B32) => Some(map!(u64, |a, b| if b > 31 { 0 } else { a << b & 0xffff_ffff })),
        ("shl", Type::B64) => Some(map!(u64, |a, b| if b > 63 { 0 } else { a << b })),
        ("shr", Type::B16 | Type::U16 | Type::B32 | Type::U32 | Type::B64 | Type::U64) => {
            Some(map!(u64, |a, b| if b > 63 { 0 } else { a >> b }))
        }
        ("shr", Type::S16) => Some(map!(u64, |a, b| a as i16 >> b.min(15))),
        ("shr", Type::S32) => Some(map!(u64, |a, b| a as i32 >> b.min(31))),
        ("shr", Type::S64) => Some(map!(u64, |a, b| a as i64 >> b.min(63))),
        _ => None,
    }
}

/// `shf`: the middle of `b:a`, shifted by `c`.
fn funnel(m: &mut Modifiers) -> Option<Map> {
    fn pair(a: u32, b: u32) -> u64 {
        u64::from(b) << 32 | u64::from(a)
    }
    match (m.take_any(&["l", "r"])?, m.take_any(&["wrap", "clamp"])?) {
        ("l", "wrap") => Some(map!(u32, |a, b, c| (pair(a, b) << (c & 31) >> 32) as u32)),
        ("l", _) => Some(map!(u32, |a, b, c| (pair(a, b) << c.min(32) >> 32) as u32)),
        (_, "wrap") => Some(map!(u32, |a, b, c| (pair(a, b) >> (c & 31)) as u32)),
        _ => Some(map!(u32, |a, b, c| (pair(a, b) >> c.min(32)) as u32)),
    }
}

/// `bfe`: `length` bits from `start`; bits past the end are those of the sign.
fn extract(a: i64, start: u32, length: u32, signed: bool) -> u32 {
    let (start, length) = (start & 0xff, length & 0xff);
    if length == 0 {
        return 0;
    }
    let shifted = a >> start.min(63);
    if length >= 32 {
        return shifted as u32;
    }
    if signed {
        // The sign is the highest bit taken, or bit 31 where the field reaches over it.
        let top = (start + length - 1).min(31);
        let sign = a >> top & 1 == 1;
        let low = shifted as u32 & ((1 << length) - 1);
        return if sign { low | !((1 << length) - 1) } else { low };
    }
    shifted as u32 & ((1 << length) - 1)
}

/// `prmt` in its default mode: picks bytes of `b:a`, or copies of their signs.
fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let pick = |i: u32| {
        let control = selector >> (4 * i) & 0xf;
        let byte = bytes[(control & 7) as usize];
        let byte = if control & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 };
        u32::from(byte) << (8 * i)
    };
    (0..4).map(pick).fold(0, |all, one| all | one)
}

fn integer(name: &str, kind: Type) -> Option<Map> {
    match name {
        "add" => integers!(kind; (a, b) T: a.wrapping_add(b) as T),
        "sub" => integers!(kind; (a, b) T: a.wrapping_sub(b) as T),
        // Division by zero gives an unspecified value on a card; here all ones.
        "div" => integers!(kind; (a, b) T: if b == 0 { !0 } else { a.wrapping_div(b) as T }),
        "rem" => integers!(kind; (a, b) T: if b == 0 { !0 } else { a.wrapping_rem(b) as T }),
        "min" => integers!(kind; (a, b) T: a.min(b) as T),
        "max" => integers!(kind; (a, b) T: a.max(b) as T),
        "neg" => for_types!(kind; S16 => i16, S32 => i32, S64 => i64; (a) T: a.wrapping_neg() as T),
        "abs" => for_types!(kind; S16 => i16, S32 => i32, S64 => i64; (a) T: a.wrapping_abs() as T),
        "and" => for_types!(kind; B16 => u16, B32 => u32, B64 => u64; (a, b) T: (a & b) as T),
        "or" => for_types!(kind; B16 => u16, B32 => u32, B64 => u64; (a, b) T: (a | b) as T),
        "xor" => for_types!(kind; B16 => u16, B32 => u32, B64 => u64; (a, b) T: (a ^ b) as T),
        "not" => for_types!(kind; B16 => u16, B32 => u32, B64 => u64; (a) T: !a as T),
        "popc" if kind == Type::B32 => Some(map!(u32, |a| a.count_ones())),
        "clz" if kind == Type::B32 => Some(map!(u32, |a| a.leading_zeros())),
        "brev" => for_types!(kind; B32 => u32, B64 => u64; (a) T: a.reverse_bits() as T),
        "prmt" if kind == Type::B32 => Some(map!(u32, |a, b, c| permute(a, b, c))),
        _ => None,
    }
}

fn single(name: &str, m: &mut Modifiers) -> Option<Map> {
    let ftz = m.take("ftz");
    match name {
        "add" | "sub" | "mul" => {
            m.take("rn");
            Some(match name {
                "add" => single!(ftz, |a, b| a + b),
                "sub" => single!(ftz, |a, b| a - b),
                _ => single!(ftz, |a, b| a * b),
            })
        }
        "fma" | "mad" => m.take("rn").then(|| single!(ftz, |a, b, c| a.mul_add(b, c))),
        "div" => m.take_any(&["rn", "approx", "full"]).map(|_| single!(ftz, |a, b| a / b)),
        "neg" => Some(single!(ftz, |a| -a)),
        "abs" => Some(single!(ftz, |a| a.abs())),
        "min" if m.take("NaN") => Some(single!(ftz, |a, b| min_nan(a, b))),
        "max" if m.take("NaN") => Some(single!(ftz, |a, b| max_nan(a, b))),
        "min" => Some(single!(ftz, |a, b| min(a, b))),
        "max" => Some(single!(ftz, |a, b| max(a, b))),
        "rcp" => m.take_any(&["rn", "approx"]).map(|_| single!(ftz, |a| 1.0 / a)),
        "sqrt" => m.take_any(&["rn", "approx"]).map(|_| single!(ftz, |a| a.sqrt())),
        "rsqrt" => m.take("approx").then(|| single!(ftz, |a| through(a, |x| 1.0 / x.sqrt()))),
        "ex2" => m.take("approx").then(|| single!(ftz, |a| through(a, f64::exp2))),
        "lg2" => m.take("approx").then(|| single!(ftz, |a| through(a, f64::log2))),
        "sin" => m.take("approx").then(|| single!(ftz, |a| through(a, f64::sin))),
        "cos" => m.take("approx").then(|| single!(ftz, |a| through(a, f64::cos))),
        "tanh" => m.take("approx").then(|| map!(f32, |a| through(a, f64::tanh))),
        "copysign" => Some(map!(f32, |a, b| b.copysign(a))),
        _ => None,
    }
}

fn double(name: &str, m: &mut Modifiers) -> Option<Map> {
    match name {
        "add" | "sub" | "mul" => {
            m.take("rn");
            Some(match name {
                "add" => map!(f64, |a, b| a + b),
                "sub" => map!(f64, |a, b| a - b),
                _ => map!(f64, |a, b| a * b),
            })
        }
        "fma" | "mad" => m.take("rn").then(|| map!(f64, |a, b, c| a.mul_add(b, c))),
        "div" => m.take("rn").then(|| map!(f64, |a, b| a / b)),
        "sqrt" => m.take("rn").then(|| map!(f64, |a| a.sqrt())),
        "neg" => Some(map!(f64, |a| -a)),
        "abs" => Some(map!(f64, |a| a.abs())),
        "min" => Some(map!(f64, |a, b| a.min(b))),
        "max" => Some(map!(f64, |a, b| a.max(b))),
        _ => None,
    }
}
