//! Corpora as a user meets them: files of the original, what goes wrong, kills, damage.

mod damage;
mod interruption;
mod original;
#[path = "../common/program.rs"]
mod program;
mod traps;

use std::path::Path;

use program::{fails, files, succeeds, xlnet};
use xlnet::data::corpus::{CorpusOptions, CorpusReport, build_corpus};
use xlnet::data::encode::IdVocabulary;
use xlnet::data::loader::{Loader, LoaderOptions};
use xlnet::data::record::Record;
use xlnet::data::record_info::{RecordQuery, RecordSet};
use xlnet::data::tfrecord::RecordReader;

/// The command fails with one sentence that contains every one of `parts`.
#[track_caller]
fn refuses(dir: &Path, line: &str, parts: &[&str]) {
    fails(dir, line, 1, parts);
}

/// A file of ids, each of them once: sentences of 1 to 9 ids, a blank line after every 20.
fn write_ids(path: &Path, first: usize, tokens: usize) {
    let (mut text, mut written, mut sentence) = (String::new(), 0, 0);
    while written < tokens {
        for _ in 0..sentence * 7 % 9 + 1 {
            text += &format!("{} ", first + written);
            written += 1;
        }
        sentence += 1;
        text += if sentence % 20 == 0 { "\n\n" } else { "\n" };
    }
    std::fs::write(path, text).unwrap();
}

const VOCAB: usize = 100_000;

/// Options for a corpus of ids in `dir/a.txt`, 4 rows of 32 tokens.
fn options(dir: &Path, tokens: usize) -> CorpusOptions {
    let input = dir.join("a.txt");
    write_ids(&input, 100, tokens);
    CorpusOptions {
        inputs: vec![input],
        save_dir: dir.join("corpus"),
        bsz_per_host: 4,
        seq_len: 32,
        reuse_len: 16,
        num_predict: Some(5),
        from_raw_text: false,
        ..CorpusOptions::default()
    }
}

fn build(options: &CorpusOptions) -> xlnet::Result<CorpusReport> {
    build_corpus(options, &IdVocabulary { vocab_size: VOCAB }, &mut |_| ())
}

fn records(path: &Path, seq_len: usize) -> Vec<Record> {
    let mut reader = RecordReader::open(path).unwrap();
    let mut records = Vec::new();
    while let Some(payload) = reader.next_record().unwrap() {
        records.push(Record::decode(payload, seq_len, path, records.len() as u64).unwrap());
    }
    records
}

fn find(directory: &Path, query: RecordQuery) -> xlnet::Result<RecordSet> {
    RecordSet::find(&[directory.to_owned()], &query)
}

fn load(set: &RecordSet) -> xlnet::Result<Loader> {
    Loader::open(set, &LoaderOptions { prefetch: 0, ..LoaderOptions::default() })
}

/// A copy of `from`, folders and all.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}
