//! The tensor-core kernels of relative attention on the PTX interpreter: against `cpu:reference` in f64 on inputs that
//! halves hold exactly.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use half::{bf16, f16};
use ptx_interpreter::{Argument, Buffer, Machine, Module, Report, Schedule};
use xlnet::backend::Device;
use xlnet::backend::cuda::{KernelText, caps};
use xlnet::backend::lower::{Context, Launch, Slice, lower, workspace_bytes};
use xlnet::kernel::Variant;
use xlnet::program::Program;
use xlnet::tensor::{DType, TensorId};
use xlnet_testkit::Setup;
use xlnet_testkit::attention::{Attention, MaskKind};
use xlnet_testkit::setup::Values;

/// A half-precision type.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Half {
    F16,
    Bf16,
}

impl Half {
    fn name(self) -> &'static str {
        match self {
            Half::F16 => "f16",
            Half::Bf16 => "bf16",
        }
    }
    /// Half a unit in the last place, relative.
    fn unit(self) -> f64 {
        match self {
            Half::F16 => 2_f64.powi(-11),
            Half::Bf16 => 2_f64.powi(-8) / 2.0,
        }
    }
    fn bytes(self, values: &[f64]) -> Vec<u8> {
        let bits = |x: f64| match self {
            Half::F16 => f16::from_f64(x).to_bits(),
            Half::Bf16 => bf16::from_f64(x).to_bits(),
        };
        values.iter().flat_map(|x| bits(*x).to_le_bytes()).collect()
    }
    fn values(self, bytes: &[u8]) -> Vec<f64> {
        let value = |bits| match self {
            Half::F16 => f16::from_bits(bits).to_f64(),
            Half::Bf16 => bf16::from_bits(bits).to_f64(),
        };
        bytes.as_chunks::<2>().0.iter().map(|b| value(u16::from_le_bytes(*b))).collect()
    }
}

/// Sixteenths of magnitude below 8: sums of two are exact in 8 bits, so that q + bias is not rounded.
fn coarse(values: &mut [(TensorId, Values)]) {
    for (_, values) in values {
        if let Values::Floats(values) = values {
            values.iter_mut().for_each(|x| *x = (x.clamp(-3.9, 3.9) * 16.0).round() / 16.0);
        }
    }
}

/// What the kernels wrote, and what they did.
struct Run {
    results: HashMap<TensorId, Vec<f64>>,
    report: Report,
}

/// A machine with the program's tensors: in f32, and those that the fast kernels touch in halves too.
struct Bench<'a> {
    program: &'a Program,
    half: Half,
    machine: Machine,
    wide: Vec<Buffer>,
    narrow: Vec<Buffer>,
}

impl<'a> Bench<'a> {
    fn new(program: &'a Program, values: &[(TensorId, Values)], half: Half, schedule: Schedule) -> Self {
        let mut machine = Machine::new();
        machine.schedule(schedule);
        let (mut wide, mut narrow) = (vec![], vec![]);
        for (id, desc) in program.iter() {
            let value = values.iter().find(|(other, _)| *other == id).map(|(_, value)| value);
            let name = &desc.name;
            let (wide_bytes, narrow_bytes) = match value {
                Some(Values::Floats(x)) => (x.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect(), half.bytes(x)),
                Some(Values::Ints(x)) => (x.iter().flat_map(|x| x.to_le_bytes()).collect(), vec![]),
                Some(Values::Words(x)) => (x.iter().flat_map(|x| x.to_le_bytes()).collect(), vec![]),
                None => (vec![0; desc.shape.len() * 4], vec![]),
            };
            wide.push(machine.upload(name, &wide_bytes));
            narrow.push(machine.upload(&format!("{name} in {}", half.name()), &narrow_bytes));
        }
        let workspace = program.steps.iter().map(|step| workspace_bytes(&step.op, program)).max().unwrap_or(0);
        wide.push(machine.alloc("scratch", workspace));
        narrow.push(wide[wide.len() - 1]);
        Bench { program, half, machine, wide, narrow }
    }
    /// The launches of op `index` as they are for f32.
    fn launches(&self, index: usize) -> Result<Vec<Launch>> {
        let slice =
            |id: TensorId| Slice { buffer: id.index(), offset: 0, bytes: self.wide[id.index()].bytes(), element: 4 };
        let (buffer, op) = (self.wide.len() - 1, &self.program.steps[index].op);
        let workspace = Slice { buffer, offset: 0, bytes: self.wide[buffer].bytes(), element: 4 };
        let context = Context {
            tensors: &self.program.tensors,
            slice: &slice,
            workspace: Some(workspace),
            caps: &caps(),
            place: "test".into(),
        };
        Ok(lower(op, &context)?)
    }
    /// Runs a launch; the buffers in `narrow` (places in the kernel's list) are those of halves.
    fn run(&mut self, launch: &Launch, narrow: &[usize]) -> Result<Report> {
        let kernel = KernelText::new(&launch.variant)?;
        let module = Module::parse(&kernel.rendered.text).with_context(|| kernel.rendered.label.clone())?;
        let mut arguments = vec![Argument::Bytes(launch.params.clone())];
        for (place, slice) in launch.buffers.iter().enumerate() {
            let all = if narrow.contains(&place) { &self.narrow } else { &self.wide };
            arguments.push(Argument::Buffer(all[slice.buffer], slice.offset as u64));
        }
        let report = self.machine.launch(&module, kernel.entry, launch.grid, kernel.block, 0, &arguments);
        report.with_context(|| kernel.rendered.label.clone())
    }
    fn narrow_result(&self, id: TensorId) -> Result<Vec<f64>> {
        Ok(self.half.values(&self.machine.download(self.narrow[id.index()])?))
    }
    fn wide_result(&self, id: TensorId) -> Result<Vec<f64>> {
        let bytes = self.machine.download(self.wide[id.index()])?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect())
    }
}

/// Forward on tensor cores.
fn forward(program: &Program, values: &[(TensorId, Values)], half: Half, schedule: Schedule) -> Result<Run> {
    let mut bench = Bench::new(program, values, half, schedule);
    let mut sum = Report::default();
    let mut results = HashMap::new();
    for launch in bench.launches(0)? {
        if launch.variant.template != "rel_attention" {
            bench.run(&launch, &[])?;
            continue;
        }
        let relative = launch.variant.get("relative").context("a kind of position term")?.to_string();
        let relative = if relative == "band" { "band" } else { "none" };
        let variant = Variant::new("rel_attention_mma")
            .name("dtype", half.name())
            .name("relative", relative)
            .int("d", 64)
            .int("wg", 128);
        let (out, lse) = (launch.buffers[8].buffer, launch.buffers[9].buffer);
        let id = |index| program.iter().nth(index).map(|(id, _)| id).context("no such tensor");
        let (out, lse) = (id(out)?, id(lse)?);
        let shape = program.tensor(out).shape;
        let grid = [(shape.dims()[0] * shape.dims()[2] * shape.dims()[1].div_ceil(64)) as u32, 1, 1];
        let report = bench.run(&Launch { variant, grid, ..launch }, &[0, 1, 2, 3, 4, 5, 8])?;
        sum.add(&report);
        results.insert(out, bench.narrow_result(out)?);
        results.insert(lse, bench.wide_result(lse)?);
    }
    Ok(Run { results, report: sum })
}

/// What `cpu:reference` finds in f64.
fn reference(config: &Attention, wanted: &HashMap<TensorId, Vec<f64>>) -> Result<HashMap<TensorId, Vec<f64>>> {
    let (program, values) = program(config, DType::F64)?;
    let mut executor = Device::CpuReference.open(Arc::new(program))?;
    for (id, values) in &values {
        values.upload(&mut *executor, *id)?;
    }
    executor.run(0..1)?;
    wanted.keys().map(|id| Ok((*id, executor.download_f64(*id)?))).collect()
}

fn program(config: &Attention, float: DType) -> Result<(Program, Vec<(TensorId, Values)>)> {
    let mut setup = Setup::new(7, float);
    let op = config.forward(&mut setup);
    setup.push(op)?;
    let (program, mut values) = setup.finish()?;
    coarse(&mut values);
    Ok((program, values))
}

#[test]
fn forward_is_that_of_the_reference() -> Result<()> {
    use MaskKind::{AllPadding, None, Padding, Ranks};
    let base = Attention::new(1, 2, 64, 70, 33);
    let configs = [
        base.mask(Ranks),
        base.mask(Ranks).rate(0.1),
        Attention { batch: 3, groups: 2, heads: 1, ..base.mask(Padding) },
        Attention { memory: 0, segments: false, length: 64, ..base.mask(None) },
        Attention { relative: false, ..base.mask(AllPadding).rate(0.5) },
        Attention { causal: true, length: 20, memory: 3, ..base },
    ];
    for config in &configs {
        for half in [Half::Bf16, Half::F16] {
            let (program, values) = program(config, DType::F32)?;
            let run = forward(&program, &values, half, Schedule::Ascending)?;
            let other = forward(&program, &values, half, Schedule::Descending)?;
            let want = reference(config, &run.results)?;
            let label = config.label();
            let mut worst = [0.0_f64; 2];
            for (id, got) in &run.results {
                ensure!(*got == other.results[id], "{label}: the schedules disagree");
                let name = &program.tensor(*id).name;
                for (got, want) in got.iter().zip(&want[id]) {
                    // Probabilities are rounded, then the result: v is below 4, and dropout doubles at most.
                    let bound = match name.contains("lse") {
                        true => 1e-5 * want.abs().max(1.0),
                        false => 2.2 * half.unit() * 4.0 / (1.0 - f64::from(config.rate)),
                    };
                    let error = (got - want).abs();
                    ensure!(error <= bound, "{label} {half:?}: {name} is {got}, expected {want}");
                    let slot = &mut worst[usize::from(name.contains("lse"))];
                    *slot = slot.max(error / bound);
                }
            }
            println!(
                "{label} {half:?}: {:.0} % of the bound, lse {:.0} %; {}",
                100.0 * worst[0],
                100.0 * worst[1],
                run.report
            );
        }
    }
    Ok(())
}
