//! Gives every tensor an address: persistent tensors one after the other in the arena of their role, activations and
//! workspaces by liveness, biggest first, at the lowest offset that is free for their whole life.

use std::fmt::Write as _;

use super::Program;
use crate::op::Op;
use crate::tensor::{Role, TensorId};

/// Every address is a multiple of this many bytes: a cache line and more, and the alignment GPUs ask of bindings.
pub const ALIGNMENT: usize = 256;

/// Where bytes live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Arena.
    pub role: Role,
    /// First byte in the arena.
    pub offset: usize, // bytes
    /// Length without padding.
    pub bytes: usize,
}

/// Addresses of a whole program.
#[derive(Clone, Debug)]
pub struct Plan {
    placements: Vec<Placement>,
    workspaces: Vec<Option<Placement>>,
    lives: Vec<Option<(usize, usize)>>,
    arenas: [usize; Role::ALL.len()],
    lower_bound: usize,
}

/// Bytes with a life, waiting for an address.
struct Request {
    bytes: usize,
    first: usize, // op
    last: usize,  // op
    owner: Owner,
}
#[derive(Clone, Copy)]
enum Owner {
    Tensor(usize),
    Workspace(usize),
}

fn align(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}
/// The first address from `offset` on where `bytes` cross no border of chunks.
fn whole(offset: usize, bytes: usize, chunk: usize) -> usize {
    let fits = offset / chunk == (offset + bytes.max(1) - 1) / chunk;
    if fits { offset } else { offset.next_multiple_of(chunk) }
}

impl Plan {
    /// Plans `program`; `workspace` says how many bytes of scratch a backend needs for one op.
    pub fn new(program: &Program, workspace: &dyn Fn(&Op) -> usize) -> Plan {
        Plan::in_chunks(program, workspace, usize::MAX)
    }

    /// As [`Plan::new`] for a device that allocates each arena in pieces of `chunk` bytes (a multiple of [`ALIGNMENT`]):
    /// nothing lies across the border of two pieces. What is bigger than a piece begins at a border; a backend refuses
    /// it.
    pub fn in_chunks(program: &Program, workspace: &dyn Fn(&Op) -> usize, chunk: usize) -> Plan {
        let lives = lives(program);
        let nowhere = Placement { role: Role::Activation, offset: 0, bytes: 0 };
        let mut plan = Plan {
            placements: vec![nowhere; program.tensors.len()],
            workspaces: vec![None; program.steps.len()],
            lives,
            arenas: [0; Role::ALL.len()],
            lower_bound: 0,
        };
        let mut requests = vec![];
        let classes = update_classes(program);
        let mut ordered: Vec<_> = program.iter().filter(|(_, desc)| desc.view.is_none()).collect();
        ordered.sort_by_key(|(id, _)| classes[id.index()]);
        for (id, desc) in ordered {
            let bytes = desc.bytes();
            if desc.role.is_persistent() {
                let arena = &mut plan.arenas[desc.role as usize];
                let offset = whole(*arena, bytes, chunk);
                plan.placements[id.index()] = Placement { role: desc.role, offset, bytes };
                *arena = offset + align(bytes);
            } else if let Some((first, last)) = plan.lives[id.index()] {
                requests.push(Request { bytes, first, last, owner: Owner::Tensor(id.index()) });
            }
        }
        for (i, step) in program.steps.iter().enumerate() {
            let bytes = workspace(&step.op);
            if bytes > 0 {
                requests.push(Request { bytes, first: i, last: i, owner: Owner::Workspace(i) });
            }
        }
        plan.lower_bound = peak(&requests, program.steps.len());
        plan.place(requests, chunk);
        for (id, desc) in program.iter() {
            if let Some(view) = desc.view {
                let base = plan.placements[view.base.index()];
                let offset = base.offset + view.offset * desc.dtype.size();
                plan.placements[id.index()] = Placement { role: base.role, offset, bytes: desc.bytes() };
            }
        }
        plan
    }

    fn place(&mut self, mut requests: Vec<Request>, chunk: usize) {
        requests.sort_by_key(|r| (std::cmp::Reverse(r.bytes), r.first));
        // Placed requests, sorted by offset: (offset, end, first, last).
        let mut placed: Vec<(usize, usize, usize, usize)> = vec![];
        for r in requests {
            let mut offset = 0;
            for &(start, end, first, last) in &placed {
                if last < r.first || r.last < first {
                    continue;
                }
                if offset + r.bytes <= start {
                    break;
                }
                offset = whole(offset.max(end), r.bytes, chunk);
            }
            let end = offset + align(r.bytes);
            let at = placed.partition_point(|p| p.0 < offset);
            placed.insert(at, (offset, end, r.first, r.last));
            let placement = Placement { role: Role::Activation, offset, bytes: r.bytes };
            match r.owner {
                Owner::Tensor(i) => self.placements[i] = placement,
                Owner::Workspace(i) => self.workspaces[i] = Some(placement),
            }
            let arena = &mut self.arenas[Role::Activation as usize];
            *arena = (*arena).max(end);
        }
    }

    /// Address of a tensor.
    pub fn placement(&self, id: TensorId) -> Placement {
        self.placements[id.index()]
    }
    /// Address of an op's scratch.
    pub fn workspace(&self, op: usize) -> Option<Placement> {
        self.workspaces[op]
    }
    /// First and last op that touch an activation.
    pub fn life(&self, id: TensorId) -> Option<(usize, usize)> {
        self.lives[id.index()]
    }
    /// Size of an arena.
    pub fn arena_bytes(&self, role: Role) -> usize {
        self.arenas[role as usize]
    }
    /// All arenas together: what a backend holds.
    pub fn total_bytes(&self) -> usize {
        self.arenas.iter().sum()
    }
    /// Most bytes alive at once; no placement of activations can need less.
    pub fn activation_lower_bound(&self) -> usize {
        self.lower_bound
    }

    /// The plan as a table: arenas, then tensors by address.
    pub fn table(&self, program: &Program) -> String {
        let mut text = String::from("arena            bytes\n");
        for role in Role::ALL {
            let _ = writeln!(text, "{:<12} {:>12}", role.to_string(), self.arena_bytes(role));
        }
        let _ = writeln!(text, "{:<12} {:>12}", "total", self.total_bytes());
        let _ = writeln!(text, "activations alive at once, at most {}\n", self.lower_bound);
        text.push_str("arena             offset        bytes  first   last  tensor\n");
        let mut rows: Vec<_> = program.iter().filter(|(_, desc)| desc.view.is_none()).collect();
        rows.sort_by_key(|(id, desc)| (desc.role, self.placement(*id).offset, self.life(*id)));
        for (id, desc) in rows {
            let p = self.placement(id);
            let (first, last) = match self.life(id) {
                Some((first, last)) => (first.to_string(), last.to_string()),
                None => ("-".into(), "-".into()),
            };
            let (role, shape) = (desc.role.to_string(), desc.shape);
            let (offset, bytes, name, dtype) = (p.offset, p.bytes, &desc.name, desc.dtype);
            let _ = writeln!(text, "{role:<12} {offset:>12} {bytes:>12} {first:>6} {last:>6}  {name} {shape} {dtype}");
        }
        text
    }
}

/// First and last op of every tensor that owns bytes; `None` when no op touches it. What a phase takes over from an
/// earlier one lives to the end of that phase, so that the phase can be run again.
fn lives(program: &Program) -> Vec<Option<(usize, usize)>> {
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; program.tensors.len()];
    for (i, step) in program.steps.iter().enumerate() {
        let touched = step.op.reads().into_iter().chain(step.op.writes().into_iter().map(|w| w.id));
        for id in touched {
            let life = &mut lives[program.base(id).0.index()];
            *life = Some(life.map_or((i, i), |(first, _)| (first, i)));
        }
    }
    for (first, last) in lives.iter_mut().flatten() {
        if let Some(phase) = program.phases.iter().find(|phase| phase.ops.contains(last))
            && *first < phase.ops.start
        {
            *last = phase.ops.end - 1;
        }
    }
    lives
}

/// Order of persistent tensors within their arena. Parameters that the optimiser treats alike lie side by side, and so do
/// their gradients, their first and their second moments, so that a backend can update all of them at once.
fn update_classes(program: &Program) -> Vec<usize> {
    let (mut settings, mut classes) = (vec![], vec![0; program.tensors.len()]);
    let updates = || program.steps.iter().filter_map(|step| if let Op::Adam(op) = &step.op { Some(op) } else { None });
    let of = |op: &crate::op::Adam| (op.decays, op.grad_scale.to_bits(), op.lr_scale.to_bits());
    updates().map(of).for_each(|setting| {
        if !settings.contains(&setting) {
            settings.push(setting);
        }
    });
    for op in updates() {
        let class = settings.iter().position(|setting| *setting == of(op)).unwrap_or_default() + 1;
        for id in [op.param, op.grad, op.m] {
            classes[id.index()] = class;
        }
        classes[op.v.index()] = settings.len() + class;
    }
    classes
}

/// Most bytes requested by one op's neighbourhood.
fn peak(requests: &[Request], ops: usize) -> usize {
    let mut change = vec![0isize; ops + 1];
    for r in requests {
        let bytes = align(r.bytes) as isize;
        change[r.first] += bytes;
        change[r.last + 1] -= bytes;
    }
    let (mut now, mut most) = (0, 0);
    for c in change {
        now += c;
        most = most.max(now);
    }
    most as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{CopyBlocks, Fill, Target};
    use crate::program::Builder;
    use crate::tensor::DType;

    fn copy(b: &mut Builder, src: TensorId, dst: TensorId) {
        let (dst, length) = (Target::set(dst), b.shape(src).len());
        let op = CopyBlocks { src, src_offset: 0, src_stride: 0, dst, dst_offset: 0, dst_stride: 0, blocks: 1, length };
        b.push(op).expect("a copy");
    }

    /// Tensors of many sizes and lives, in two phases.
    fn program() -> Program {
        let mut b = Builder::new(DType::F32);
        let out = b.output("out", [4]);
        let first = b.activation("first", [4]);
        b.phase("one");
        b.push(Fill { out: first, value: 1.0 }).expect("a fill");
        let mut last = first;
        for i in 0..40 {
            let size = 4 + (i * 37) % 400;
            let long = b.activation(&format!("long{i}"), [size]);
            b.push(Fill { out: long, value: 0.0 }).expect("a fill");
            let next = b.activation(&format!("next{i}"), [4]);
            copy(&mut b, last, next);
            let part = b.view(long, 0, [4]).expect("a view");
            copy(&mut b, part, next);
            last = next;
        }
        b.phase("two");
        copy(&mut b, first, out);
        for i in 0..10 {
            let next = b.activation(&format!("later{i}"), [64]);
            b.push(Fill { out: next, value: 0.0 }).expect("a fill");
        }
        b.finish().expect("a program")
    }

    #[test]
    fn lives_that_overlap_have_bytes_that_do_not() {
        let program = program();
        let plan = Plan::new(&program, &|op| if matches!(op, Op::Fill(_)) { 1000 } else { 0 });
        let mut all: Vec<(Placement, (usize, usize))> = program
            .iter()
            .filter(|(id, desc)| desc.view.is_none() && !desc.role.is_persistent() && plan.life(*id).is_some())
            .map(|(id, _)| (plan.placement(id), plan.life(id).expect("a life")))
            .collect();
        all.extend((0..program.steps.len()).filter_map(|i| Some((plan.workspace(i)?, (i, i)))));
        let mut overlaps = 0;
        for (i, (a, (a_first, a_last))) in all.iter().enumerate() {
            assert!(a.offset.is_multiple_of(ALIGNMENT) && a.offset + a.bytes <= plan.arena_bytes(Role::Activation));
            for (b, (b_first, b_last)) in &all[..i] {
                if a_first <= b_last && b_first <= a_last {
                    overlaps += 1;
                    assert!(a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset, "{a:?} and {b:?}");
                }
            }
        }
        assert!(overlaps > 100);
        assert!(plan.arena_bytes(Role::Activation) >= plan.activation_lower_bound());
        assert!(plan.arena_bytes(Role::Activation) <= 2 * plan.activation_lower_bound());
    }

    #[test]
    fn nothing_lies_across_chunks() {
        let program = program();
        let (one, chunk) = (Plan::new(&program, &|_| 1000), 8 * ALIGNMENT);
        let plan = Plan::in_chunks(&program, &|_| 1000, chunk);
        let tensors = program.iter().filter(|(id, _)| plan.life(*id).is_some()).map(|(id, _)| plan.placement(id));
        let all: Vec<_> = tensors.chain((0..program.steps.len()).filter_map(|i| plan.workspace(i))).collect();
        assert!(all.len() > 100 && plan.total_bytes() > chunk);
        for p in all {
            assert_eq!(p.offset / chunk, (p.offset + p.bytes - 1) / chunk, "{p:?}");
        }
        assert!(plan.total_bytes() < 2 * one.total_bytes());
    }

    #[test]
    fn what_a_later_phase_reads_lives_to_its_end() {
        let program = program();
        let plan = Plan::new(&program, &|_| 0);
        let first = program.find("first").expect("a tensor");
        assert_eq!(plan.life(first), Some((0, program.steps.len() - 1)));
    }
}
