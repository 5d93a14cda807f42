//! Index tensors on devices that cannot refuse a value: the host keeps a copy of what it wrote and checks that.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::op::IndexRange;
use crate::program::Program;
use crate::tensor::TensorId;
use crate::{Error, Result};

/// An index tensor of an op, and what it may hold.
struct Checked {
    op: usize,
    range: IndexRange,
}

/// Copies of all index tensors that the host writes.
pub struct Indices {
    checked: Vec<Checked>,
    /// By the tensor that owns the bytes.
    values: HashMap<TensorId, Vec<i32>>,
}

impl Indices {
    /// The index tensors of `program`; nothing written yet.
    ///
    /// # Errors
    /// When an op writes one: values are checked where they enter, on the host.
    pub fn new(program: &Program) -> Result<Self> {
        let mut checked = vec![];
        for (op, step) in program.steps.iter().enumerate() {
            checked.extend(step.op.index_ranges(&program.tensors).into_iter().map(|range| Checked { op, range }));
        }
        let written = program.steps.iter().flat_map(|step| step.op.writes()).map(|target| program.base(target.id).0);
        let written: HashSet<TensorId> = written.collect();
        match checked.iter().find(|checked| written.contains(&program.base(checked.range.id).0)) {
            None => Ok(Indices { checked, values: HashMap::new() }),
            Some(Checked { op, range }) => Err(Error::device(format!(
                "{}: {} is written by an op, but on a GPU index tensors must be inputs, so that they can be checked",
                program.place(*op),
                program.tensor(range.id).name
            ))),
        }
    }
    /// Keeps a copy of what is written to `id`, where it is an index tensor.
    pub fn remember(&mut self, program: &Program, id: TensorId, bytes: &[u8]) {
        let (base, offset) = program.base(id);
        if !self.checked.iter().any(|checked| program.base(checked.range.id).0 == base) {
            return;
        }
        let len = program.tensor(base).shape.len();
        let values = self.values.entry(base).or_insert_with(|| vec![0; len]);
        let (words, _) = bytes.as_chunks::<4>();
        for (value, word) in values[offset..].iter_mut().zip(words) {
            *value = i32::from_ne_bytes(*word);
        }
    }
    /// Requires that the index tensors of `ops` hold values in range.
    ///
    /// # Errors
    /// Names op, layer, tensor, value and limits.
    pub fn check(&self, program: &Program, ops: &Range<usize>) -> Result<()> {
        for Checked { op, range } in self.checked.iter().filter(|checked| ops.contains(&checked.op)) {
            let (base, offset) = program.base(range.id);
            // What the host never wrote is zero, which is in range everywhere.
            let Some(values) = self.values.get(&base) else { continue };
            let desc = program.tensor(range.id);
            range.check(&values[offset..offset + desc.shape.len()], || program.place(*op), &desc.name)?;
        }
        Ok(())
    }
}
