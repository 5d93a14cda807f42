//! The program as text, one op a line.

use std::fmt::Write as _;

use super::Program;
use crate::op::{Target, Write};

impl Program {
    /// Phases, layers and ops: outputs, `=` or `+=`, op name, inputs; FLOPs and least traffic at the end of the line.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for phase in &self.phases {
            let _ = writeln!(text, "phase {}", phase.name);
            let mut scope = None;
            for i in phase.ops.clone() {
                let step = &self.steps[i];
                if scope != Some(step.scope) {
                    scope = Some(step.scope);
                    let _ = writeln!(text, "  [{}]", self.scope(i));
                }
                let cost = step.op.cost(&self.tensors);
                let writes: Vec<String> = step.op.writes().iter().map(|w| self.written(w)).collect();
                let reads: Vec<&str> = step.op.reads().iter().map(|&id| self.tensor(id).name.as_str()).collect();
                let (name, flops, bytes) = (step.op.name(), cost.flops, cost.bytes);
                let _ = writeln!(
                    text,
                    "  {i:>5}  {} {name}({})  {flops} flop, {bytes} B",
                    writes.join(", "),
                    reads.join(", ")
                );
            }
        }
        text
    }
    fn written(&self, target: &Target) -> String {
        let desc = self.tensor(target.id);
        let sign = if target.write == Write::Set { "=" } else { "+=" };
        format!("{} {} {sign}", desc.name, desc.shape)
    }
}
