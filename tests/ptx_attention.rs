//! The tensor-core kernels of relative attention on the PTX interpreter: against `cpu:reference` in f64 on inputs that
//! halves hold exactly.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use half::{bf16, f16};
use ptx_interpreter::{Argument, Buffer, Machine, Module, Report, Schedule};
use xlnet::backend::Device;
use xlnet::backend::cuda::{KernelText, caps};
use xlnet::backend::lower::{Context, Launch, Slice, lower, workspace_bytes};
use xlnet::kernel::{Header, Language, Value, Variant};
use xlnet::op::Op;
use xlnet::program::Program;
use xlnet::tensor::{DType, TensorId};
use xlnet_testkit::Setup;
use xlnet_testkit::attention::{Attention, MaskKind};
use xlnet_testkit::case::difference;
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
    /// Largest relative error of a rounding.
    fn unit(self) -> f64 {
        match self {
            Half::F16 => 2_f64.powi(-11),
            Half::Bf16 => 2_f64.powi(-8),
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
    /// Place of the scratch in both lists.
    scratch: usize,
    report: Report,
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
        let workspace =
            program.steps.iter().map(|step| workspace_bytes(Language::Ptx, &step.op, program)).max().unwrap_or(0);
        wide.push(machine.alloc("scratch", workspace));
        narrow.push(wide[wide.len() - 1]);
        let scratch = wide.len() - 1;
        Bench { program, half, machine, wide, narrow, scratch, report: Report::default() }
    }
    /// The launches of op `index` as they are for f32.
    fn launches(&self, index: usize) -> Result<Vec<Launch>> {
        let slice =
            |id: TensorId| Slice { buffer: id.index(), offset: 0, bytes: self.wide[id.index()].bytes(), element: 4 };
        let (buffer, op) = (self.scratch, &self.program.steps[index].op);
        let workspace = Slice { buffer, offset: 0, bytes: self.wide[buffer].bytes(), element: 4 };
        let context = Context {
            tensors: &self.program.tensors,
            slice: &slice,
            workspace: Some(workspace),
            caps: &caps((8, 0)),
            place: "test".into(),
        };
        Ok(lower(op, &context)?)
    }
    /// Another buffer of halves; what a slice calls it.
    fn alloc(&mut self, name: &str, elements: usize) -> Slice {
        let buffer = self.machine.alloc(name, 2 * elements);
        self.wide.push(buffer);
        self.narrow.push(buffer);
        Slice { buffer: self.wide.len() - 1, offset: 0, bytes: 2 * elements, element: 2 }
    }
    /// Runs a launch; the buffers in `narrow` (places in the kernel's list) are those of halves.
    fn run(&mut self, launch: &Launch, narrow: &[usize], shared: usize) -> Result<()> {
        let kernel = KernelText::new(&launch.variant)?;
        let module = Module::parse(&kernel.rendered.text).with_context(|| kernel.rendered.label.clone())?;
        let mut arguments = vec![Argument::Bytes(launch.params.clone())];
        for (place, slice) in launch.buffers.iter().enumerate() {
            let all = if narrow.contains(&place) { &self.narrow } else { &self.wide };
            arguments.push(Argument::Buffer(all[slice.buffer], slice.offset as u64));
        }
        let report = self.machine.launch(&module, kernel.entry, launch.grid, kernel.block, shared, &arguments);
        let report = report.with_context(|| kernel.rendered.label.clone())?;
        if launch.variant.template.contains("mma") {
            self.report.add(&report);
        }
        Ok(())
    }
    /// A launch of a tensor-core kernel in place of `like`, on some of its buffers, over `blocks`.
    fn fast(&mut self, like: &Launch, name: &'static str, buffers: &[Slice], blocks: usize) -> Result<()> {
        let mut variant = Variant::new(name).name("dtype", self.half.name());
        let relative = match like.variant.get("relative").context("a kind of position term")? {
            Value::Name(relative) => relative,
            other => bail!("{other} is no kind of position term"),
        };
        if name != "rel_attention_mma_deltas" {
            variant = variant.name("relative", relative);
        }
        let variant = variant.int("d", 64).int("wg", 128);
        let launch =
            Launch { variant, buffers: buffers.to_vec(), params: like.params.clone(), grid: [blocks as u32, 1, 1] };
        let header = Header::of(Language::Ptx, name)?;
        let wide = ["key", "work", "lse"];
        let narrow: Vec<usize> = (0..buffers.len()).filter(|&i| !wide.contains(&header.buffers[i])).collect();
        let shared = match (name, relative) {
            ("rel_attention_mma_grad_keys", "none") => 49152,
            ("rel_attention_mma_grad_keys", "band") => 65536,
            ("rel_attention_mma_grad_keys", _) => 81920,
            _ => 0,
        };
        self.run(&launch, &narrow, shared)
    }
    fn narrow_result(&self, id: TensorId) -> Result<Vec<f64>> {
        Ok(self.half.values(&self.machine.download(self.narrow[id.index()])?))
    }
    fn wide_result(&self, id: TensorId) -> Result<Vec<f64>> {
        let bytes = self.machine.download(self.wide[id.index()])?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect())
    }
}

/// Forward and backward of both streams on tensor cores; the sums for biases as in f32.
fn run(program: &Program, values: &[(TensorId, Values)], half: Half, schedule: Schedule) -> Result<Run> {
    let mut bench = Bench::new(program, values, half, schedule);
    let Op::RelAttention(op) = &program.steps[0].op else { bail!("the first op is another") };
    let (heads, keys) = (op.batch * op.heads, op.keys());
    let tiles = |n: usize| n.div_ceil(64);
    // Rows of the stream that owns a tensor [B, rows, H, D].
    let rows_of = |slice: &Slice| program.tensors[slice.buffer].shape.dims()[1];
    for launch in bench.launches(0)? {
        match launch.variant.template {
            "rel_attention" => {
                let blocks = heads * tiles(rows_of(&launch.buffers[8]));
                bench.fast(&launch, "rel_attention_mma", &launch.buffers, blocks)?;
            }
            _ => bench.run(&launch, &[], 0)?,
        }
    }
    let backward = if program.steps.len() > 1 { bench.launches(1)? } else { vec![] };
    let mut pairs = bench.alloc("no pairs", 0);
    let mut by_keys = backward.iter().filter(|launch| launch.variant.template == "rel_attention_grad_keys");
    for launch in &backward {
        let at = |places: &[usize]| places.iter().map(|&i| launch.buffers[i]).collect::<Vec<_>>();
        match launch.variant.template {
            "rel_attention_grad" => {
                let rows = rows_of(&launch.buffers[12]);
                pairs = bench.alloc("pairs", heads * rows * 64 * tiles(keys));
                bench.fast(launch, "rel_attention_mma_deltas", &at(&[8, 9, 11]), (heads * rows).div_ceil(4))?;
                let keyed = by_keys.next().context("a launch for the keys")?;
                let buffers = [&keyed.buffers[..10], &[pairs], &keyed.buffers[10..]].concat();
                bench.fast(keyed, "rel_attention_mma_grad_keys", &buffers, heads * tiles(keys))?;
                let buffers = [&at(&[1, 3, 6, 11])[..], &[pairs, launch.buffers[12]]].concat();
                bench.fast(launch, "rel_attention_mma_grad", &buffers, heads * tiles(rows))?;
            }
            "rel_attention_grad_keys" => {} // has run
            "rel_attention_grad_positions" => {
                let buffers = [&at(&[0, 4, 5, 9])[..], &[pairs, launch.buffers[10]]].concat();
                let blocks = op.groups * op.heads * tiles(op.positions());
                bench.fast(launch, "rel_attention_mma_grad_positions", &buffers, blocks)?;
            }
            _ => bench.run(launch, &[], 0)?,
        }
    }
    let mut results = HashMap::new();
    for target in program.steps.iter().flat_map(|step| step.op.writes()) {
        let name = &program.tensor(target.id).name;
        let wide = name.ends_with("lse") || name.ends_with("bias") || name == "dseg_embed";
        results.insert(target.id, if wide { bench.wide_result(target.id)? } else { bench.narrow_result(target.id)? });
    }
    Ok(Run { results, report: bench.report })
}

/// What `cpu:reference` finds in f64.
fn reference(config: &Attention, wanted: &HashMap<TensorId, Vec<f64>>) -> Result<HashMap<TensorId, Vec<f64>>> {
    let (program, values) = program(config, DType::F64)?;
    let mut executor = Device::CpuReference.open(Arc::new(program))?;
    for (id, values) in &values {
        values.upload(&mut *executor, *id)?;
    }
    let steps = executor.program().steps.len();
    executor.run(0..steps)?;
    wanted.keys().map(|id| Ok((*id, executor.download_f64(*id)?))).collect()
}

fn program(config: &Attention, float: DType) -> Result<(Program, Vec<(TensorId, Values)>)> {
    let mut setup = Setup::new(7, float);
    config.push_both(&mut setup)?;
    let (program, mut values) = setup.finish()?;
    coarse(&mut values);
    Ok((program, values))
}

#[test]
fn tensor_cores_agree_with_the_reference() -> Result<()> {
    use MaskKind::{AllPadding, None, Padding, Ranks};
    let base = Attention::new(1, 2, 64, 70, 33);
    let pretraining = Attention { batch: 2, groups: 2, padded: true, ..base.mask(Ranks).targets(11).rate(0.1) };
    let configs = [
        pretraining,
        Attention { content: false, targets: 70, ..base.mask(Ranks) },
        Attention { batch: 3, groups: 2, heads: 1, ..base.mask(Padding) },
        Attention { memory: 0, segments: false, length: 64, ..base.mask(None) },
        Attention { relative: false, padded: true, ..base.mask(AllPadding).rate(0.5).targets(3) },
        Attention { causal: true, length: 20, memory: 3, ..base },
    ];
    for config in &configs {
        for half in [Half::Bf16, Half::F16] {
            let (program, values) = program(config, DType::F32)?;
            let [first, second] = Schedule::ALL.map(|schedule| run(&program, &values, half, schedule));
            let (first, second) = (first?, second?);
            let want = reference(config, &first.results)?;
            let label = config.label();
            let mut worst = (0.0, "");
            for (id, got) in &first.results {
                let name = &program.tensor(*id).name;
                ensure!(*got == second.results[id], "{label}: the schedules disagree about {name}");
                // Units of rounding: probabilities, results and ds are halves; sums for biases cancel.
                let units = match name.as_str() {
                    "out" | "query out" => 1.25,
                    "lse" | "query lse" => 1e-5 / half.unit(),
                    "dw_bias" | "dr_bias" | "ds_bias" | "dseg_embed" => 10.0,
                    _ => 4.0,
                };
                let error = difference(got, &want[id]).map_err(|what| anyhow!("{label} {half:?}: {name}: {what}"))?;
                let share = error / (units * half.unit());
                ensure!(share <= 1.0, "{label} {half:?}: {name} is off by {error:.1e}, {share:.1} times the bound");
                if share > worst.0 {
                    worst = (share, name);
                }
            }
            println!("{label} {half:?}: {:.0} % of the bound ({}); {}", 100.0 * worst.0, worst.1, first.report);
        }
    }
    Ok(())
}
