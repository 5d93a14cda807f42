//! One launch for neighbours: updates and square norms of tensors that lie side by side. The plan puts parameters that
//! are updated alike next to each other, so a step has a few such launches instead of two for every parameter.
//!
//! A launch runs over the padding between tensors too. Padding is zero, an update of it changes nothing that anybody
//! reads, and its square is zero.

use std::ops::Range;

use super::{Context, Launch, Slice, elementwise, loss};
use crate::Result;
use crate::op::{Adam, Op, SquareNorm, Target};
use crate::program::{ALIGNMENT, Program};
use crate::tensor::TensorId;

/// Ops that are done by fewer launches together than one by one.
#[derive(Debug)]
pub struct Fused {
    /// The ops.
    pub ops: Range<usize>,
    /// What to launch where all of them run.
    pub launches: Vec<Launch>,
}

/// Bytes from the first of some tensors to the end of the last, in each of `N` arenas.
struct Span<const N: usize>([Slice; N]);

impl<const N: usize> Span<N> {
    fn elements(&self) -> usize {
        self.0[0].bytes / self.0[0].element
    }
    /// The span with the next tensors, if these lie behind it at the same distance in every arena, and it stays small
    /// enough to be bound.
    fn with(&self, next: [Slice; N], c: &Context) -> Option<Span<N>> {
        let mut all = self.0;
        for (all, next) in all.iter_mut().zip(next) {
            let end = (all.offset + all.bytes).next_multiple_of(ALIGNMENT);
            if next.buffer != all.buffer || next.offset != end {
                return None;
            }
            all.bytes = next.offset + next.bytes - all.offset;
        }
        let span = Span(all);
        let same = all.iter().all(|slice| slice.bytes / slice.element == span.elements());
        let fits = all.iter().all(|slice| slice.bytes + ALIGNMENT <= c.caps.binding_bytes);
        (same && fits && u32::try_from(span.elements()).is_ok()).then_some(span)
    }
}

/// All runs of neighbours in `program`; `context` is that of an op.
///
/// # Errors
/// Those of lowering.
pub fn fuse<'a>(program: &'a Program, context: impl Fn(usize) -> Context<'a>) -> Result<Vec<Fused>> {
    let (mut all, mut first) = (vec![], 0);
    while first < program.steps.len() {
        let c = context(first);
        let ops = || program.steps[first + 1..].iter().map(|step| &step.op);
        let (count, launches) = match &program.steps[first].op {
            Op::Adam(op) => {
                let like = |next: &Op| match next {
                    Op::Adam(next) if alike(op, next) => Some([next.param, next.grad, next.m, next.v]),
                    _ => None,
                };
                let (count, span) = run([op.param, op.grad, op.m, op.v], ops().map_while(like), &c);
                (count, elementwise::adam_over(op, span.0, span.elements(), &c))
            }
            Op::SquareNorm(op) => {
                let like = |next: &Op| match next {
                    Op::SquareNorm(SquareNorm { x, out }) if *out == Target::add(op.out.id) => Some([*x]),
                    _ => None,
                };
                let (count, span) = run([op.x], ops().map_while(like), &c);
                (count, loss::square_norm_over(op, span.0[0], span.elements(), &c))
            }
            _ => (0, Ok(vec![])),
        };
        if count > 0 {
            all.push(Fused { ops: first..first + 1 + count, launches: launches? });
        }
        first += 1 + count;
    }
    Ok(all)
}

/// True when two updates differ in their tensors alone.
fn alike(a: &Adam, b: &Adam) -> bool {
    let Adam { param, grad, m, v, .. } = *a;
    Adam { param, grad, m, v, ..b.clone() } == *a
}

/// How many of `next` lie behind `first`, and the bytes of all.
fn run<const N: usize>(
    first: [TensorId; N],
    next: impl Iterator<Item = [TensorId; N]>,
    c: &Context,
) -> (usize, Span<N>) {
    let mut span = Span(first.map(|id| (c.slice)(id)));
    let mut count = 0;
    for ids in next {
        match span.with(ids.map(|id| (c.slice)(id)), c) {
            Some(longer) => (span, count) = (longer, count + 1),
            None => break,
        }
    }
    (count, span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::lower::{Caps, lower, workspace_bytes};
    use crate::kernel::Language;
    use crate::program::{Builder, Plan};
    use crate::tensor::{DType, Role};

    /// Parameters of odd sizes, every third without decay.
    fn program(count: usize) -> Program {
        let mut b = Builder::new(DType::F32);
        let (square_norm, hyper) = (b.output("square_norm", [1]), b.input("hyper", [Adam::HYPER_LEN]));
        let mut updates = vec![];
        for i in 0..count {
            let shape = [3 + 1000 * (i % 7)];
            let roles = [Role::Param, Role::Grad, Role::OptState, Role::OptState];
            let [param, grad, m, v] = roles.map(|role| b.tensor(format!("{role}{i}"), shape, DType::F32, role));
            b.push(crate::op::Fill { out: grad, value: 1.0 }).expect("a fill");
            let (decays, grad_scale, lr_scale) = (i % 3 > 0, 1.0, 1.0);
            updates.push(Adam { param, grad, m, v, square_norm, hyper, decays, grad_scale, lr_scale });
        }
        updates.sort_by_key(|op| op.decays);
        for (i, op) in updates.iter().enumerate() {
            let out = if i == 0 { Target::set(square_norm) } else { Target::add(square_norm) };
            b.push(SquareNorm { x: op.grad, out }).expect("a norm");
        }
        updates.into_iter().for_each(|op| b.push(op).expect("an update"));
        b.finish().expect("a program")
    }

    fn fused(program: &Program, caps: &Caps) -> (Vec<Fused>, usize) {
        let plan = Plan::new(program, &|op| workspace_bytes(Language::Wgsl, op, program));
        let slice = |id| {
            let placement = plan.placement(id);
            Slice { buffer: placement.role as usize, offset: placement.offset, bytes: placement.bytes, element: 4 }
        };
        let context = |index| Context {
            tensors: &program.tensors,
            slice: &slice,
            workspace: plan.workspace(index).map(|p| Slice { buffer: 6, offset: p.offset, bytes: p.bytes, element: 4 }),
            caps,
            place: program.place(index),
        };
        let one_by_one = |i: usize| lower(&program.steps[i].op, &context(i)).expect("launches").len();
        let single = (0..program.steps.len()).map(one_by_one).sum();
        // The contexts borrow what lives here alone.
        let all = fuse(program, context).expect("launches");
        (all, single)
    }

    #[test]
    fn neighbours_share_a_launch() {
        let program = program(40);
        let (all, single) = fused(&program, &Caps::default());
        // Norms, then updates without and with decay.
        let ops: Vec<_> = all.iter().map(|fused| fused.ops.clone()).collect();
        assert_eq!(ops, [40..80, 80..94, 94..120]);
        assert_eq!(all.iter().map(|fused| fused.launches.len()).collect::<Vec<_>>(), [2, 1, 1]);
        assert!(single >= 120, "{single}");
        let elements: usize = program.iter().filter(|(_, d)| d.role == Role::Grad).map(|(_, d)| d.shape.len()).sum();
        let covered: u32 =
            all[1..].iter().map(|f| u32::from_ne_bytes(f.launches[0].params[..4].try_into().expect("4"))).sum();
        assert!(covered as usize >= elements && (covered as usize) < elements + 40 * 64, "{covered} of {elements}");
    }

    #[test]
    fn what_cannot_be_bound_is_not_fused() {
        let caps = Caps { binding_bytes: 40_000, ..Caps::default() };
        let (all, _) = fused(&program(40), &caps);
        assert!(all.len() > 6);
        assert!(all.iter().flat_map(|f| &f.launches).flat_map(|l| &l.buffers).all(|s| s.bytes <= 40_000));
    }
}
