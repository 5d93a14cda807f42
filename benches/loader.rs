//! How fast records become batches, and that memory does not grow with them: `cargo bench --bench loader -- DIR...`, each
//! a folder of records (`xlnet corpus build`'s `tfrecords`). Every folder is read once in a process of its own, checks
//! and permutations as in training.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};
use xlnet::data::loader::{Loader, LoaderOptions};
use xlnet::data::record_info::{RecordQuery, RecordSet};

fn main() -> anyhow::Result<()> {
    let directories: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match &directories[..] {
        [] => println!("loader: skipped; it needs folders of records (see its first lines)"),
        [one] => read(one)?,
        several => {
            for directory in several {
                let status = Command::new(std::env::current_exe()?).arg(directory).status()?;
                ensure!(status.success(), "{directory} could not be read");
            }
        }
    }
    Ok(())
}

fn read(directory: &str) -> anyhow::Result<()> {
    let set = RecordSet::find(&[directory.into()], &RecordQuery::default())?;
    let bytes: u64 =
        set.files.iter().flat_map(|files| &files.paths).map(|path| path.metadata().map_or(0, |m| m.len())).sum();
    let begun = Instant::now();
    let mut loader = Loader::open(&set, &LoaderOptions::default())?;
    let checked = begun.elapsed();
    let begun = Instant::now();
    let steps = loader.steps_per_epoch();
    for _ in 0..steps {
        loader.next_batch()?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let tokens = steps as usize * set.settings.bsz * set.settings.seq_len;
    println!(
        "{directory}: {steps} batches, {:.1} MB of records, checked in {:.2} s, {:.0} tokens/s, peak memory {}",
        bytes as f64 / 1e6,
        checked.as_secs_f64(),
        tokens as f64 / seconds,
        peak().context("the system does not tell a process its memory")?,
    );
    Ok(())
}

/// The most memory that this process has had.
fn peak() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(format!("{:.1} MiB", kib / 1024.0))
}
