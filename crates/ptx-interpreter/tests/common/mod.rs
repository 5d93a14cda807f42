//! Small kernels, run under both schedules.
#![allow(dead_code, reason = "each test binary uses its part")]

use ptx_interpreter::{Argument, Buffer, Error, Machine, Module, Report, Schedule};

/// A module of one kernel `k` around `body`, for `target`.
pub fn module(target: &str, head: &str, params: &str, body: &str) -> String {
    let version = if target == "sm_70" { "6.4" } else { "8.0" };
    format!(
        ".version {version}\n.target {target}\n.address_size 64\n{head}\n.visible .entry k({params})\n{{\n{body}\n}}\n"
    )
}

/// What a run gives.
#[derive(Debug)]
pub struct Run {
    pub report: Report,
    pub buffers: Vec<Vec<u8>>,
}

/// Runs entry `k` of `text` under both schedules, which must agree; `inputs` are its pointer parameters.
pub fn run(text: &str, grid: u32, threads: u32, shared: usize, inputs: &[Vec<u8>]) -> Result<Run, Error> {
    let module = Module::parse(text)?;
    let mut runs = vec![];
    for schedule in Schedule::ALL {
        let mut machine = Machine::new();
        machine.schedule(schedule);
        machine.budget(1 << 22);
        let buffers: Vec<Buffer> =
            inputs.iter().enumerate().map(|(i, b)| machine.upload(&format!("buffer {i}"), b)).collect();
        let arguments: Vec<Argument> = buffers.iter().map(|b| (*b).into()).collect();
        let report = machine.launch(&module, "k", [grid, 1, 1], [threads, 1, 1], shared, &arguments)?;
        let buffers = buffers.iter().map(|b| machine.download(*b)).collect::<Result<_, _>>()?;
        runs.push(Run { report, buffers });
    }
    assert_eq!(runs[0].buffers, runs[1].buffers, "the schedules disagree");
    Ok(runs.remove(0))
}

pub fn bytes_of_u32(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}
pub fn bytes_of_f32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}
pub fn u32s(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
}
pub fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Numbers that look random and are the same everywhere.
pub fn noise(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..count).map(|_| next() as f32 / u32::MAX as f32 * 2.0 - 1.0).collect()
}
