use std::collections::BTreeSet;

use super::super::encode::{IdVocabulary, is_start_piece};
use super::super::record::Record;
use super::super::special::{CLS, SEP};
use super::super::special::{EOD, is_functional};
use super::super::tfrecord::RecordReader;
use super::*;

const VOCABULARY: IdVocabulary = IdVocabulary { vocab_size: 1_000_000 };

/// Text files of ids that count up from `1000 * (file + 1)`, `tokens` of them in sentences of 1 to 9 tokens, with a
/// blank line after every 20 sentences.
fn write_ids(directory: &Path, files: usize, tokens: usize) -> Vec<PathBuf> {
    let write = |file: usize| {
        let path = directory.join(format!("{file}.txt"));
        let (mut text, mut written, mut sentence) = (String::new(), 0, 0);
        while written < tokens {
            for _ in 0..sentence * 7 % 9 + 1 {
                text += &format!("{} ", 100_000 * (file + 1) + written);
                written += 1;
            }
            sentence += 1;
            text += if sentence % 20 == 0 { "\n\n" } else { "\n" };
        }
        std::fs::write(&path, text).unwrap();
        path
    };
    (0..files).map(write).collect()
}

fn options(directory: &Path, files: usize, tokens: usize) -> CorpusOptions {
    CorpusOptions {
        inputs: write_ids(directory, files, tokens),
        save_dir: directory.join("out"),
        bsz_per_host: 4,
        seq_len: 64,
        reuse_len: 32,
        uncased: false,
        num_predict: Some(10),
        from_raw_text: false,
        ..CorpusOptions::default()
    }
}

fn build(options: &CorpusOptions) -> Result<CorpusReport> {
    build_corpus(options, &VOCABULARY, &mut |_| ())
}

/// Builds in small groups, and ends in a panic, as good as a kill, when progress is told for the `stop`th time.
fn build_until(options: &CorpusOptions, stop: usize) -> Option<CorpusReport> {
    let mut told = 0;
    let build = || {
        super::build(
            options,
            &VOCABULARY,
            &mut |_| {
                told += 1;
                assert!(told < stop, "stopped by the test");
            },
            &Pace { text: 1, tokens: 1 << 14, keep: 1 },
        )
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(build)).ok().map(Result::unwrap)
}

fn read(path: &Path, seq_len: usize) -> Vec<Record> {
    let mut reader = RecordReader::open(path).unwrap();
    let mut records = Vec::new();
    while let Some(payload) = reader.next_record().unwrap() {
        records.push(Record::decode(payload, seq_len, path, records.len() as u64).unwrap());
    }
    records
}

/// The stream that a corpus of one file is, read independently of the builder.
fn stream_of(path: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(path).unwrap();
    let line = |l: &str| match l.trim() {
        "" => vec![EOD],
        l => l.split(' ').map(|w| w.parse().unwrap()).collect(),
    };
    text.lines().flat_map(line).collect()
}

#[test]
fn names_and_index_are_the_originals() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 2, 3000);
    let mut steps = Vec::new();
    let report = build_corpus(&options, &VOCABULARY, &mut |p| steps.push(p)).unwrap();
    let name = "train-0-0.bsz-4.seqlen-64.reuse-32.bi.alpha-6.beta-1.fnp-10.tfrecords";
    assert_eq!(report.records, dir.path().join("out/tfrecords").join(name));
    let text = std::fs::read_to_string(&report.record_info).unwrap();
    let info: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(info["num_batch"], report.steps);
    assert!(Path::new(info["filenames"][0].as_str().unwrap()).is_absolute());
    assert!(info["filenames"][0].as_str().unwrap().ends_with(name));
    assert_eq!(info["xlnet"]["num_predict"], 10);
    assert_eq!(info["xlnet"]["inputs"], serde_json::json!(["0.txt", "1.txt"]));
    let read_back: RecordInfo = serde_json::from_str(&text).unwrap();
    assert_eq!(read_back.xlnet.unwrap().settings, options.record_settings());
    assert_eq!(read(&report.records, 64).len() as u64, 4 * report.steps);
    let corpus_info = std::fs::read_to_string(dir.path().join("out/corpus_info.json")).unwrap();
    let corpus_info: serde_json::Value = serde_json::from_str(&corpus_info).unwrap();
    assert_eq!(corpus_info.as_object().unwrap().len(), 13);
    assert!(matches!(steps.last(), Some(CorpusProgress::Writing { steps, .. }) if *steps == report.steps));
    // Nothing but the two files: no temporary ones are left.
    assert_eq!(std::fs::read_dir(dir.path().join("out/tfrecords")).unwrap().count(), 2);
}

/// Every token is unique but the marks, so each record tells where its parts lie in the row.
#[test]
fn records_are_slices_of_their_rows() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        CorpusOptions { num_core_per_host: 2, bsz_per_host: 8, use_eod: false, ..options(dir.path(), 1, 9000) };
    let report = build(&options).unwrap();
    let stream: Vec<i32> = stream_of(&options.inputs[0]).into_iter().filter(|&id| id != EOD).collect();
    let length = stream.len() / 4;
    let row = |r: usize| -> Vec<i32> {
        let stream_index = [0, 1, 0, 1, 2, 3, 2, 3][r];
        let slice = &stream[stream_index * length..(stream_index + 1) * length];
        if r % 4 >= 2 { slice.iter().rev().copied().collect() } else { slice.to_vec() }
    };
    let records = read(&report.records, 64);
    assert!(report.steps > 50);
    for (index, record) in records.iter().enumerate() {
        let (begin, row) = (index / 8 * 32, row(index % 8));
        assert_eq!(record.input[..32], row[begin..begin + 32]);
        assert_eq!(record.target[..32], row[begin + 1..begin + 33]);
        let separators: Vec<usize> = (0..64).filter(|&i| record.input[i] == SEP).collect();
        let [first, second] = separators[..] else { panic!("{separators:?}") };
        assert_eq!((second, record.input[63]), (62, CLS));
        let (a, b) = (&record.input[32..first], &record.input[first + 1..second]);
        assert_eq!(a.len() + b.len(), 64 - 32 - 3);
        assert_eq!(a, &row[begin + 32..begin + 32 + a.len()]);
        let b_at = row.iter().position(|id| Some(id) == b.first()).expect("B lies in the same row");
        assert_eq!(b, &row[b_at..b_at + b.len()]);
        assert!(!record.is_next || b_at >= begin + 32 + a.len());
        assert_eq!(record.target[32..first], row[begin + 33..begin + 33 + a.len()]);
        assert_eq!(record.target[first..second], row[b_at..b_at + b.len() + 1]);
        assert_eq!(record.target[62..], [CLS, CLS]);
        let segment = |i: usize| if i <= first { 0 } else { 1 + u8::from(i == 63) };
        assert!((0..64).all(|i| record.segment_ids[i] == segment(i)));
        assert_eq!(record.is_masked[..32].iter().filter(|m| **m).count(), 5);
        assert_eq!(record.is_masked[32..].iter().filter(|m| **m).count(), 5);
    }
    let next = records.iter().filter(|r| r.is_next).count() as f64 / records.len() as f64;
    assert!((next - 0.5).abs() < 0.08, "{next} of {}", records.len());
    // Predicted tokens are drawn without regard to where functional ones lie; some of those are chosen, too.
    assert!(records.iter().any(|r| (0..64).any(|i| r.is_masked[i] && is_functional(r.input[i]))));
}

#[test]
fn same_seed_same_bytes_on_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 5, 2000);
    let bytes = |threads: usize, options: &CorpusOptions| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let report = pool.install(|| build(options)).unwrap();
        std::fs::read(report.records).unwrap()
    };
    let first = bytes(1, &options);
    assert_eq!(first, bytes(4, &options));
    assert_ne!(first, bytes(2, &CorpusOptions { seed: 1, ..options.clone() }));
    assert_ne!(first, bytes(2, &CorpusOptions { pass_id: 1, ..options.clone() }));
    // The files may be given in any order.
    let inputs = options.inputs.iter().rev().cloned().collect();
    assert_eq!(first, bytes(2, &CorpusOptions { inputs, ..options }));
}

#[test]
fn passes_shuffle_files_and_tasks_divide_them() {
    let dir = tempfile::tempdir().unwrap();
    let options = CorpusOptions { bi_data: false, bsz_per_host: 1, ..options(dir.path(), 6, 400) };
    let first_files: BTreeSet<i32> = (0..12)
        .map(|pass_id| {
            let report = build(&CorpusOptions { pass_id, ..options.clone() }).unwrap();
            assert!(report.records.to_string_lossy().contains(&format!("train-0-{pass_id}.")));
            read(&report.records, 64)[0].input[0] / 100_000
        })
        .collect();
    assert!(first_files.len() > 2, "{first_files:?}");
    let of_task = |task| {
        let report = build(&CorpusOptions { task, num_task: 4, split: Split::Dev, ..options.clone() }).unwrap();
        assert!(report.records.to_string_lossy().contains(&format!("dev-{task}-0.")));
        report.files.iter().map(|f| f.file_stem().unwrap().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    assert_eq!([of_task(0), of_task(1), of_task(3)], [vec!["0", "4"], vec!["1", "5"], vec!["3"]]);
}

#[test]
fn unknown_tokens_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 1, 0);
    std::fs::write(&options.inputs[0], "0 10 11\n0 0 12 13\n".repeat(200)).unwrap();
    let report = build(&options).unwrap();
    assert_eq!((report.tokens, report.unknown_tokens), (1400, 600));
}

#[test]
fn without_goal_about_a_seventh_is_predicted() {
    let dir = tempfile::tempdir().unwrap();
    let options = CorpusOptions { num_predict: None, seq_len: 256, reuse_len: 128, ..options(dir.path(), 1, 40_000) };
    let report = build(&options).unwrap();
    assert!(!report.records.to_string_lossy().contains("fnp"));
    let records = read(&report.records, 256);
    let masked = records.iter().flat_map(|r| &r.is_masked).filter(|m| **m).count();
    let share = masked as f64 / (256 * records.len()) as f64;
    assert!((0.12..0.145).contains(&share), "{share}"); // 1/7, less what is lost at the ends of both halves
}

/// Words of letters; each letter is a piece, the first one of a word starts it.
struct Letters;
impl Encode for Letters {
    fn encode_line(&self, line: &str, cleaning: &TextOptions, ids: &mut Vec<i32>) -> Result<()> {
        for word in line.split(' ') {
            for (i, letter) in word.bytes().enumerate() {
                if !letter.is_ascii_alphabetic() {
                    return Err(Error::config("expected letters"));
                }
                let letter = if cleaning.lower { letter.to_ascii_lowercase() } else { letter };
                ids.push(i32::from(letter) + if i == 0 { 128 } else { 0 });
            }
        }
        Ok(())
    }
    fn vocab_size(&self) -> usize {
        256
    }
    fn start_pieces(&self) -> Vec<bool> {
        (0..256).map(|i| is_start_piece(["<x>", "a", "▁a"][if i < 9 { 0 } else { 1 + i / 128 }])).collect()
    }
    fn vocabulary_hash(&self) -> Option<String> {
        Some("0123".into())
    }
}

#[test]
fn raw_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    let empty = dir.path().join("empty.txt");
    std::fs::write(&path, "Some words\n of Text\n\n".repeat(100)).unwrap();
    std::fs::write(&empty, "").unwrap();
    let raw = CorpusOptions {
        inputs: vec![path.clone(), empty.clone()],
        from_raw_text: true,
        uncased: true,
        ngram_unit: NgramUnit::Words,
        ..options(dir.path(), 0, 0)
    };
    let report = build_corpus(&raw, &Letters, &mut |_| ()).unwrap();
    assert_eq!((report.lines, report.tokens, report.empty_files), (300, 1600, vec![empty]));
    let records = read(&report.records, 64);
    assert!(records.iter().flat_map(|r| &r.input).all(|&id| id < 9 || (id % 128) as u8 >= b'a'));
    assert!(std::fs::read_to_string(report.record_info).unwrap().contains("\"vocabulary_hash\": \"0123\""));
    std::fs::write(&path, "fine\nnot 7\n").unwrap();
    let sentence = build_corpus(&raw, &Letters, &mut |_| ()).unwrap_err().to_string();
    assert!(sentence.contains("a.txt: line 2: expected letters"), "{sentence}");
    let sentence = build_corpus(&raw, &VOCABULARY, &mut |_| ()).unwrap_err().to_string();
    assert!(sentence.contains("needs a vocabulary"), "{sentence}");
}

#[test]
fn options_are_checked_first() {
    let refused = |change: fn(&mut CorpusOptions), says: &str| {
        let dir = tempfile::tempdir().unwrap();
        let mut options = CorpusOptions { inputs: vec!["absent.txt".into()], ..options(dir.path(), 0, 0) };
        change(&mut options);
        let sentence = build(&options).unwrap_err().to_string();
        assert!(sentence.contains(says), "{sentence}");
        assert!(!options.save_dir.exists());
    };
    refused(|o| o.inputs.clear(), "no input file");
    refused(|o| o.num_predict = Some(65), "num_predict must be from 1 to seq_len 64, got 65");
    refused(|o| o.num_predict = Some(0), "num_predict");
    refused(|o| o.reuse_len = 31, "reuse_len must be half of seq_len 64, got 31");
    refused(|o| (o.seq_len, o.reuse_len) = (6, 3), "seq_len must be 8 at least");
    refused(|o| o.reuse_len = usize::MAX, "reuse_len must be half");
    refused(|o| o.bsz_per_host = 3, "multiple of 2");
    refused(|o| o.num_core_per_host = 4, "multiple of 8");
    refused(|o| o.num_core_per_host = 0, "bsz_per_host");
    refused(|o| o.num_core_per_host = usize::MAX, "bsz_per_host");
    refused(|o| o.mask_beta = 0, "mask_alpha");
    refused(|o| o.mask_beta = 7, "mask_alpha must be at least mask_beta");
    refused(|o| o.task = 1, "task must be below num_task 1, got 1");
    refused(|o| (o.task, o.num_task) = (1, 2), "task 1 has no file");
    refused(|_| (), "absent.txt");
    refused(|o| o.inputs = vec![std::env::temp_dir()], "got a directory");
}

#[test]
fn a_failure_leaves_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 2, 3000);
    let report = build(&options).unwrap();
    let before = std::fs::read(&report.records).unwrap();
    std::fs::write(&options.inputs[1], "7 8\nx\n").unwrap();
    assert!(build(&options).unwrap_err().to_string().contains("1.txt: line 2"));
    std::fs::write(&options.inputs[1], "7 8\n").unwrap();
    std::fs::write(&options.inputs[0], "9\n").unwrap();
    let sentence = build(&options).unwrap_err().to_string();
    assert!(sentence.contains("has 3 tokens") && sentence.contains("needs 128"), "{sentence}");
    assert_eq!(std::fs::read(&report.records).unwrap(), before);
    assert_eq!(std::fs::read_dir(dir.path().join("out/tfrecords")).unwrap().count(), 2);
}

/// The smallest corpora: enough tokens by count, but perhaps no place for a pair.
#[test]
fn tiny_corpora_build_or_say_why() {
    let dir = tempfile::tempdir().unwrap();
    for tokens in 120..180 {
        let options = CorpusOptions { seed: tokens as u64, ..options(dir.path(), 1, tokens) };
        match build(&options) {
            Ok(report) => assert!(report.steps >= 1),
            Err(e) => assert!(e.to_string().contains("tokens; a step of 2 streams"), "{e}"),
        }
    }
    // All positions predicted: the original would search for ever where halves cannot hold the goal.
    let options = CorpusOptions { num_predict: Some(64), ..options(dir.path(), 1, 1000) };
    let records = read(&build(&options).unwrap().records, 64);
    assert!(records.iter().all(|r| r.is_masked.iter().all(|m| *m)));
}

/// Stopped at every place where progress is told, a build goes on and ends in the same bytes.
#[test]
fn a_stopped_build_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 4, 30_000);
    let expected = build(&options).unwrap();
    assert_eq!(expected.resumed, (0, 0));
    let bytes = |report: &CorpusReport| [&report.records, &report.record_info].map(|path| std::fs::read(path).unwrap());
    let expected = bytes(&expected);
    let directory = dir.path().join("out/tfrecords");
    let (mut stops, mut with_text, mut with_steps) = (0, 0, 0);
    for stop in 1..1000 {
        if let Some(report) = build_until(&options, stop) {
            assert_eq!(bytes(&report), expected);
            break;
        }
        stops += 1;
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 3, "a work directory is there");
        let report = build(&options).unwrap();
        let (text, steps) = report.resumed;
        with_text += u32::from(text > 0);
        with_steps += u32::from(steps > 0);
        assert_eq!(bytes(&report), expected, "stopped at {stop}");
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 2);
    }
    assert!(stops > 20 && with_text > 15 && with_steps > 10, "{stops} {with_text} {with_steps}");
}

/// What was made of other options, or of a file that changed since, does not count.
#[test]
fn a_stopped_build_is_not_mixed_with_another() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 4, 30_000);
    let many = 8;
    assert!(build_until(&options, many).is_none());
    let seeded = CorpusOptions { seed: 3, ..options.clone() };
    assert_eq!(build(&seeded).unwrap().resumed, (0, 0));
    let first = std::fs::read(build(&seeded).unwrap().records).unwrap();
    assert!(build_until(&options, many).is_none());
    let order = [0, 1, 2, 3].map(|i| options.inputs[i].clone());
    let time = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    for path in &order {
        std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }
    assert_eq!(build(&options).unwrap().resumed, (0, 0));
    assert_eq!(std::fs::read(build(&seeded).unwrap().records).unwrap(), first);
    // Tokens or records that the disk lost are made again.
    let expected = std::fs::read(build(&options).unwrap().records).unwrap();
    for lost in ["tokens", "records"] {
        assert!(build_until(&options, 28).is_none());
        let work =
            dir.path().join("out/tfrecords/.building-train-0-0.bsz-4.seqlen-64.reuse-32.bi.alpha-6.beta-1.fnp-10");
        std::fs::write(work.join(lost), b"short").unwrap();
        assert_eq!(std::fs::read(build(&options).unwrap().records).unwrap(), expected, "{lost}");
    }
}
