//! f16 and bf16 arithmetic, single and packed, and the functions on them.

use half::{bf16, f16};

use super::Modifiers;
use crate::lanes::{Half, Map, map};
use crate::syntax::Type;

/// The four types that share a formula: `a`, `b`, `c` are f64, the result is rounded once.
macro_rules! halves {
    ($kind:expr, |$a:ident $(, $rest:ident)*| $e:expr) => {
        match $kind {
            Type::F16 => Some(map!(f16, |$a $(, $rest)*| {
                let $a = $a.wide();
                $(let $rest = $rest.wide();)*
                f16::round($e)
            })),
            Type::Bf16 => Some(map!(bf16, |$a $(, $rest)*| {
                let $a = $a.wide();
                $(let $rest = $rest.wide();)*
                bf16::round($e)
            })),
            Type::F16x2 => Some(map!([f16; 2], |$a $(, $rest)*| [0, 1].map(|i| {
                let $a = $a[i].wide();
                $(let $rest = $rest[i].wide();)*
                f16::round($e)
            }))),
            Type::Bf16x2 => Some(map!([bf16; 2], |$a $(, $rest)*| [0, 1].map(|i| {
                let $a = $a[i].wide();
                $(let $rest = $rest[i].wide();)*
                bf16::round($e)
            }))),
            _ => None,
        }
    };
}

fn min(a: f64, b: f64) -> f64 {
    if a == b { if a.is_sign_negative() { a } else { b } } else { a.min(b) }
}
fn max(a: f64, b: f64) -> f64 {
    -min(-a, -b)
}
fn nan_or(a: f64, b: f64, x: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { x }
}
fn relu(x: f64) -> f64 {
    if x.is_nan() { x } else { max(x, 0.0) }
}

pub(super) fn arithmetic(name: &str, kind: Type, m: &mut Modifiers) -> Option<Map> {
    if !matches!(kind, Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2) {
        return None;
    }
    match name {
        "add" | "sub" | "mul" => {
            m.take("rn");
            match name {
                "add" => halves!(kind, |a, b| a + b),
                "sub" => halves!(kind, |a, b| a - b),
                _ => halves!(kind, |a, b| a * b),
            }
        }
        "fma" => match (m.take("rn"), m.take("relu")) {
            (true, false) => halves!(kind, |a, b, c| a.mul_add(b, c)),
            (true, true) => halves!(kind, |a, b, c| relu(a.mul_add(b, c))),
            _ => None,
        },
        "neg" => halves!(kind, |a| -a),
        "abs" => halves!(kind, |a| a.abs()),
        "min" if m.take("NaN") => halves!(kind, |a, b| nan_or(a, b, min(a, b))),
        "max" if m.take("NaN") => halves!(kind, |a, b| nan_or(a, b, max(a, b))),
        "min" => halves!(kind, |a, b| min(a, b)),
        "max" => halves!(kind, |a, b| max(a, b)),
        "ex2" if m.take("approx") => {
            m.take("ftz"); // results of bf16 are flushed; f16 has none to flush
            halves!(kind, |a| a.exp2())
        }
        "tanh" if m.take("approx") => halves!(kind, |a| a.tanh()),
        _ => None,
    }
}
