//! The table of a bench, for people and for programs.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use super::limits::Limits;
use crate::atomic::AtomicFile;
use crate::backend::Device;
use crate::cli::args::Task;
use crate::op::Cost;
use crate::size::bytes;
use crate::tensor::DType;
use crate::{Error, Result};

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// What it is.
    pub name: String,
    /// Precision.
    pub dtype: String,
    /// Who computes matrix products.
    pub products: String,
    /// What it can do at most.
    pub limits: Limits,
    /// Whole training steps.
    pub steps: Vec<StepRow>,
}

/// A whole training step.
#[derive(Debug, Default, Serialize)]
pub struct StepRow {
    /// Model.
    pub model: String,
    /// What is learnt.
    pub task: &'static str,
    /// Tokens of a sequence.
    pub length: usize,
    /// Sequences of a step.
    pub batch: usize,
    /// Median time, arithmetic and traffic.
    pub work: Yield,
    /// Time of the fastest step.
    pub least_seconds: f64,
    /// Time of the slowest step.
    pub most_seconds: f64,
    /// Tokens a second.
    pub tokens_per_s: f64,
    /// Bytes of tensors on the device.
    pub held_bytes: usize,
    /// Why there are no numbers.
    pub skipped: Option<String>,
    /// Ops, those that take longest first.
    pub ops: Vec<OpRow>,
}

/// All runs of one kind of op in a step.
#[derive(Debug, Default, Serialize)]
pub struct OpRow {
    /// Its name.
    pub op: String,
    /// How many there are.
    pub count: usize,
    /// What they did.
    pub work: Yield,
}

/// Work and its time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Yield {
    /// Time.
    pub seconds: f64,
    /// Operations, a multiply-add being two.
    pub flops: u64,
    /// Bytes that must be moved at least.
    pub bytes: u64,
    /// Time of a device that reaches its limits in every op: of arithmetic or of memory, whichever takes longer.
    pub ideal_seconds: f64,
}

impl Yield {
    /// Adds an op.
    pub fn add(&mut self, cost: Cost, seconds: f64, limits: &Limits) {
        self.seconds += seconds;
        self.flops += cost.flops;
        self.bytes += cost.bytes;
        self.ideal_seconds += (cost.flops as f64 / limits.flops).max(cost.bytes as f64 / limits.bytes);
    }
    /// `ms`, `TFLOP/s`, `GB/s`, share of the limits.
    fn columns(&self) -> String {
        let rate = |work: u64, unit: f64| work as f64 / self.seconds / unit;
        let (ms, teraflops, gigabytes) = (1e3 * self.seconds, rate(self.flops, 1e12), rate(self.bytes, 1e9));
        let share = 100.0 * self.ideal_seconds / self.seconds;
        format!("{ms:>10.3} {teraflops:>9.3} {gigabytes:>9.1} {share:>6.1} %")
    }
}

/// A task in the table.
pub fn word(task: Task) -> &'static str {
    match task {
        Task::Pretrain => "pretrain",
        Task::Classify => "classify",
        Task::Squad => "squad",
        Task::Race => "race",
    }
}

impl Report {
    /// An empty table.
    pub fn new(device: Device, half: Option<DType>, limits: Limits) -> Self {
        let dtype = half.map_or("f32".to_owned(), |half| format!("products of {half}"));
        let (version, name) = (env!("CARGO_PKG_VERSION"), name(device));
        let products = products(device);
        Report { version, device: device.to_string(), name, dtype, products, limits, steps: vec![] }
    }
    /// The lines above the steps.
    pub fn head(&self) -> String {
        let Limits { flops, bytes, source } = &self.limits;
        format!(
            "xlnet {} on {} ({}), {}; matrix products by {}\nlimits: {:.3} TFLOP/s, {:.1} GB/s: {source}\n\n{:<36} {:>10} {:>9} {:>9} {:>8} {:>11} {:>11}",
            self.version,
            self.device,
            self.name,
            self.dtype,
            self.products,
            flops / 1e12,
            bytes / 1e9,
            "training step",
            "ms",
            "TFLOP/s",
            "GB/s",
            "limit",
            "tokens/s",
            "memory"
        )
    }
    /// Ops of every step.
    pub fn ops(&self) -> String {
        let mut text = String::new();
        for step in self.steps.iter().filter(|step| step.skipped.is_none()) {
            let total: f64 = step.ops.iter().map(|op| op.work.seconds).sum();
            let _ = writeln!(
                text,
                "\n{:<28} {:>5} {:>7} {:>10} {:>9} {:>9} {:>8}",
                step.label(),
                "runs",
                "share",
                "ms",
                "TFLOP/s",
                "GB/s",
                "limit"
            );
            for op in &step.ops {
                let share = 100.0 * op.work.seconds / total;
                let _ = writeln!(text, "  {:<26} {:>5} {share:>5.1} % {}", op.op, op.count, op.work.columns());
            }
        }
        text.trim_end().to_owned()
    }
    /// Writes `stem`.json.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, stem: &Path) -> Result<()> {
        let path = stem.with_extension("json");
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::data(&path, e.to_string()))?;
        let mut file = AtomicFile::create(&path)?;
        file.append(text.as_bytes())?;
        file.append(b"\n")?;
        file.commit()
    }
}

impl StepRow {
    /// `base classify 8 x 128`.
    pub fn label(&self) -> String {
        format!("{} {} {} x {}", self.model, self.task, self.batch, self.length)
    }
    /// The line of the table.
    pub fn line(&self) -> String {
        match &self.skipped {
            Some(why) => format!("{} {} at {} tokens: {why}", self.model, self.task, self.length),
            None => {
                let (columns, tokens, memory) = (self.work.columns(), self.tokens_per_s, bytes(self.held_bytes));
                format!("{:<36} {columns} {tokens:>11.1} {memory:>11}", self.label())
            }
        }
    }
}

/// What a device is.
fn name(device: Device) -> String {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(number) => crate::backend::cuda::find(number).map_or_else(|_| "?".into(), |info| info.name),
        #[cfg(feature = "wgpu")]
        Device::Wgpu(number) => crate::backend::wgpu::Gpu::find(number).map_or_else(|_| "?".into(), |info| info.name),
        _ => {
            let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
            let model = model.map_or("processor", |(_, name)| name.trim());
            format!("{model}, {} threads", rayon::current_num_threads())
        }
    }
}

/// Who computes matrix products on a device.
fn products(device: Device) -> String {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => crate::backend::cuda::products().unwrap_or_else(|error| error.to_string()),
        _ => "our kernels".into(),
    }
}
