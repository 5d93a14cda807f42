//! How fast questions become features: `cargo bench --bench features -- --spiece_model_file spiece.model --data
//! train-v2.0.json`. Reads the file once, then converts it again and again for a few seconds. The original's Python
//! was seen to convert 22 questions a second.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail};
use xlnet::data::record_info::Split;
use xlnet::data::tokenizer::Tokenizer;
use xlnet::task::convert::Conversion;
use xlnet::task::encoder::Encoder;
use xlnet::task::{Custom, Place, Task};

/// Questions a second of the original, on one core.
const ORIGINAL: f64 = 22.0;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let (Some(data), Some(model)) = (value("--data"), value("--spiece_model_file")) else {
        if args.is_empty() {
            println!("features: skipped; it needs --data FILE and --spiece_model_file FILE (see its first lines)");
            return Ok(());
        }
        bail!("--data FILE (SQuAD's JSON) and --spiece_model_file FILE are needed");
    };
    let seconds: f64 = value("--seconds").map_or(Ok(5.0), |text| text.parse()).context("--seconds is no number")?;
    let place = Place { dir: PathBuf::new(), split: Split::Train, file: Some(data.into()) };
    let task = Task::named("squad", &Custom::default(), &place)?;
    let (examples, _) = task.read(&place, true)?;
    let conversion = Conversion { max_seq_length: 512, ..Conversion::default() };
    let tokenizer = Tokenizer::open(model)?;
    let encoder = Encoder { tokenizer: &tokenizer, text: conversion.text() };
    let mut features = 0;
    let mut once = || -> anyhow::Result<()> {
        features = 0;
        conversion.stream(&task, &examples, &encoder, true, data.as_ref(), &mut |_| {
            features += 1;
            Ok(())
        })?;
        Ok(())
    };
    once()?; // warm
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed().as_secs_f64() < seconds {
        once()?;
        rounds += 1;
    }
    let rate = (rounds * examples.len()) as f64 / begun.elapsed().as_secs_f64();
    let threads = rayon::current_num_threads();
    println!(
        "{} questions, {features} features, {threads} threads: {rate:.0} questions/s, {:.0} times the original's {ORIGINAL}",
        examples.len(),
        rate / ORIGINAL
    );
    Ok(())
}
