//! Damaged files, a thousand of each kind: one clear sentence or a correct read, never a panic or other batches.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use xlnet::data::batch::Batch;
use xlnet::data::tokenizer::Tokenizer;

use super::*;

/// A thousand copies of `bytes`, each with a flipped bit, cut off, or with a part overwritten.
fn damaged(bytes: &[u8], seed: u64) -> impl Iterator<Item = Vec<u8>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..1000).map(move |case| {
        let mut copy = bytes.to_vec();
        let at = rng.random_range(0..bytes.len());
        match case % 3 {
            0 => copy[at] ^= 1 << rng.random_range(0..8),
            1 => copy.truncate(at),
            _ => copy[at..bytes.len().min(at + 8)].fill(rng.random()),
        }
        copy
    })
}

fn batches(directory: &Path) -> xlnet::Result<Vec<Batch>> {
    let mut loader = load(&find(directory, RecordQuery::default())?)?;
    let steps = loader.steps_per_epoch() as usize;
    loader.by_ref().take(steps).collect()
}

#[track_caller]
fn is_a_sentence(error: &xlnet::Error, names: &str) {
    let sentence = error.to_string();
    assert!(sentence.contains(names) && !sentence.contains('\n') && sentence.len() < 1200, "{sentence}");
}

#[test]
fn record_files() {
    let dir = tempfile::tempdir().unwrap();
    let report = build(&options(dir.path(), 700)).unwrap();
    let directory = report.records.parent().unwrap();
    let expected = batches(directory).unwrap();
    let mut errors = 0;
    for bytes in damaged(&std::fs::read(&report.records).unwrap(), 1) {
        std::fs::write(&report.records, bytes).unwrap();
        match batches(directory) {
            Ok(read) => assert!(read == expected, "other batches"),
            Err(e) => {
                is_a_sentence(&e, "train-0-0.bsz-4");
                errors += 1;
            }
        }
    }
    assert!(errors > 980, "{errors}"); // bytes overwritten with what they were
}

#[test]
fn index_files() {
    let dir = tempfile::tempdir().unwrap();
    let report = build(&options(dir.path(), 700)).unwrap();
    let directory = report.records.parent().unwrap();
    let expected = batches(directory).unwrap();
    let (mut errors, mut equal) = (0, 0);
    for bytes in damaged(&std::fs::read(&report.record_info).unwrap(), 2) {
        std::fs::write(&report.record_info, bytes).unwrap();
        match batches(directory) {
            // Fewer steps than there are is a thing that an index file may say.
            Ok(read) => {
                assert!(read == expected[..read.len()], "other batches");
                equal += usize::from(read.len() == expected.len());
            }
            Err(e) => {
                is_a_sentence(&e, "record_info-train-0-0.bsz-4");
                errors += 1;
            }
        }
    }
    assert!(errors > 500 && equal > 50, "{errors} errors, {equal} equal");
}

#[test]
fn vocabularies() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..400).map(|i| format!("the {} cats saw {} small dogs, then some\n", i % 7, i % 13)).collect();
    std::fs::write(dir.path().join("a.txt"), text).unwrap();
    succeeds(dir.path(), "vocab train --input a.txt --vocab-size 60 --soft-limit --output spiece.model");
    let path = dir.path().join("spiece.model");
    // The first half of the file is pieces, the rest tables of the normaliser.
    let mut errors = 0;
    for bytes in damaged(&std::fs::read(&path).unwrap(), 3) {
        std::fs::write(&path, bytes).unwrap();
        match Tokenizer::open(&path) {
            Ok(tokenizer) => {
                if let Ok(ids) = tokenizer.encode_ids("the 3 cats saw Ünïcödé dogs, 2,000,") {
                    assert!(!ids.is_empty());
                }
            }
            Err(e) => {
                is_a_sentence(&e, "spiece.model");
                errors += 1;
            }
        }
    }
    assert!(errors > 300, "{errors}");
}

/// Whatever a work directory holds, a build ends in the same bytes or says what is wrong.
#[test]
fn work_directories() {
    let dir = tempfile::tempdir().unwrap();
    let report = build(&options(dir.path(), 700)).unwrap();
    let expected = std::fs::read(&report.records).unwrap();
    let work = report.records.with_file_name(format!(".building-{}", report.records.file_stem().unwrap().display()));
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for _ in 0..100 {
        std::fs::create_dir_all(&work).unwrap();
        for file in ["journal.jsonl", "tokens", "records"] {
            let noise: Vec<u8> = (0..rng.random_range(0..300)).map(|_| rng.random()).collect();
            std::fs::write(work.join(file), noise).unwrap();
        }
        let report = build(&options(dir.path(), 700)).unwrap();
        assert!(std::fs::read(&report.records).unwrap() == expected);
    }
}
