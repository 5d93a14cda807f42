//! The traps of the original's data, each with a test of its name.
//!
//! Those of the model and of training have theirs elsewhere: signs of distance, wrapped entries of `rel_shift`, the
//! re-opened diagonal, padded targets (`tests/ops.rs`, `tests/gradients.rs`); memories that stay on the device and are
//! zeros at first, `AdamWeightDecay` without bias correction, layer decay, the rate of the first update, tied biases
//! (`tests/train.rs`, `tests/model.rs`); no default for `save_steps`, one overwritten checkpoint, resuming without
//! memories and place in the data (`tests/cli.rs`, `tests/checkpoint`); digits before a comma, NFKD, quotes
//! (`src/data/text.rs`, `src/data/tokenizer_tests.rs`).

use xlnet::data::corpus::CorpusOptions;
use xlnet::data::encode::is_start_piece;
use xlnet::data::loader::{Loader, LoaderOptions};
use xlnet::data::ngram_mask::{NgramMask, NgramUnit};
use xlnet::data::record_info::{RecordInfo, RecordQuery};
use xlnet::data::special::is_functional;
use xlnet::data::text::{TextOptions, preprocess_text};

use super::*;

/// `pretrain --dry-run` on `dir/corpus` with `flags`.
fn train(flags: &str) -> String {
    format!("pretrain --record_info_dir corpus/tfrecords --model_dir m --dry-run {flags}")
}

/// A directory with a corpus of `change`d options.
fn corpus(tokens: usize, change: impl FnOnce(&mut CorpusOptions)) -> (tempfile::TempDir, CorpusReport) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), tokens);
    change(&mut options);
    let report = build(&options).unwrap();
    (dir, report)
}

/// data_utils lower-cases unless told otherwise, training expects text that is not: the two commands of the README never
/// met.
#[test]
fn uncased_has_two_defaults() {
    let (dir, report) = corpus(2000, |_| ());
    assert!(report.records.to_string_lossy().contains(".uncased."));
    assert!(succeeds(dir.path(), &train("")).contains("uncased = true"));
    refuses(dir.path(), &train("--nouncased"), &["uncased is true, not false", "record_info-train-0-0"]);
}

/// The batch is part of the file names; training with another one found no file and failed far away.
#[test]
fn batch_size_is_baked_into_names() {
    let (dir, _) = corpus(2000, |_| ());
    assert!(succeeds(dir.path(), &train("")).contains("train_batch_size = 4"));
    refuses(dir.path(), &train("--train_batch_size 8"), &["bsz is 4, not 8"]);
}

/// So are all lengths.
#[test]
fn lengths_are_baked_into_names() {
    let (dir, _) = corpus(2000, |_| ());
    let wrong = "--seq_len 64 --reuse_len 32 --num_predict 10 --mask_alpha 5";
    let says =
        ["seq_len is 32, not 64", "reuse_len is 16, not 32", "num_predict is 5, not 10", "mask_alpha is 6, not 5"];
    refuses(dir.path(), &train(wrong), &says);
    let told = succeeds(dir.path(), &train(""));
    assert!(told.contains("seq_len = 32") && told.contains("reuse_len = 16") && told.contains("num_predict = 5"));
}

/// The directory above the records, or one without any, gave an error about filenames that must be tf.string.
#[test]
fn records_are_not_found() {
    let (dir, _) = corpus(2000, |_| ());
    refuses(dir.path(), &train("").replace("corpus/tfrecords", "corpus"), &["use its directory tfrecords"]);
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    refuses(
        dir.path(),
        &train("").replace("corpus/tfrecords", "empty"),
        &["no record_info-*.json here", "build a corpus"],
    );
    refuses(dir.path(), &train("").replace("corpus/tfrecords", "corpus/tfrecords,empty"), &["empty: no record_info"]);
}

/// Index files hold absolute paths; a corpus that was moved is still one.
#[test]
fn index_files_name_absolute_paths() {
    let (dir, _) = corpus(2000, |_| ());
    std::fs::rename(dir.path().join("corpus"), dir.path().join("moved")).unwrap();
    let set = find(&dir.path().join("moved/tfrecords"), RecordQuery::default()).unwrap();
    assert!(load(&set).is_ok());
}

/// `num_passes` asked for five fields of a name that has four, and never left a pass out.
#[test]
fn num_passes_never_filtered() {
    let (dir, _) = corpus(2000, |_| ());
    let other = CorpusOptions { pass_id: 3, ..options(dir.path(), 2000) };
    build(&other).unwrap();
    let directory = dir.path().join("corpus/tfrecords");
    assert_eq!(find(&directory, RecordQuery::default()).unwrap().files.len(), 2);
    let first = find(&directory, RecordQuery { num_passes: Some(1), ..RecordQuery::default() }).unwrap();
    assert_eq!(first.files.len(), 1);
}

/// More predictions than a half has tokens were looked for for ever ("hangs at Processing batch 0").
#[test]
fn too_many_predictions_hang() {
    let dir = tempfile::tempdir().unwrap();
    let base = CorpusOptions { seq_len: 64, reuse_len: 32, ..options(dir.path(), 2000) };
    let sentence = build(&CorpusOptions { num_predict: Some(85), ..base.clone() }).unwrap_err().to_string();
    assert!(sentence.contains("num_predict must be from 1 to seq_len 64, got 85"), "{sentence}");
    let report = build(&CorpusOptions { num_predict: Some(64), ..base }).unwrap();
    assert!(records(&report.records, 64).iter().all(|r| r.is_masked.iter().all(|m| *m)));
    // Where the number is not given it is a sixth of the sequence, not 85.
    succeeds(dir.path(), &format!("corpus build --input a.txt --nofrom_raw_text --vocab_size {VOCAB} --seq_len 64"));
    assert!(!files(&dir.path().join("proc_data/tfrecords"), "fnp-10.tfrecords").is_empty());
}

/// "Could be half of seq_len", says the flag; it must be.
#[test]
fn reuse_len_must_be_half() {
    let dir = tempfile::tempdir().unwrap();
    let sentence = build(&CorpusOptions { reuse_len: 12, ..options(dir.path(), 2000) }).unwrap_err().to_string();
    assert!(sentence.contains("reuse_len must be half of seq_len 32, got 12"), "{sentence}");
}

/// Spans count pieces, because the wrong token is looked at; models were released like that, so it is the default.
#[test]
fn spans_count_pieces_not_words() {
    // Words of four pieces each.
    let pieces: Vec<bool> = (0..40).map(|id| is_start_piece(if id % 4 == 0 { "▁w" } else { "x" })).collect();
    let segment: Vec<i32> = (0..40).collect();
    let longest = |unit| {
        use rand::SeedableRng;
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut longest = 0;
        for _ in 0..200 {
            let mut mask = vec![false; 40];
            NgramMask { start_pieces: &pieces, unit, alpha: 6, beta: 1 }
                .sample(&segment, &mut mask, None, false, &mut rng);
            longest = mask.split(|m| !m).map(<[bool]>::len).max().unwrap_or(0).max(longest);
        }
        longest
    };
    assert_eq!(longest(NgramUnit::default()), 5);
    assert!(longest(NgramUnit::Words) > 5);
}

/// Data laid out for one number of cores and read for another trained half of the rows in the wrong direction, and
/// nothing said so. Files without any word about it are covered in `original.rs`.
#[test]
fn rows_are_laid_out_by_core() {
    let (dir, report) = corpus(4000, |o| (o.bsz_per_host, o.num_core_per_host) = (8, 2));
    let directory = dir.path().join("corpus/tfrecords");
    let batch = load(&find(&directory, RecordQuery::default()).unwrap()).unwrap().next_batch().unwrap();
    assert_eq!(batch.direction, [0, 0, 1, 1, 0, 0, 1, 1]);
    refuses(dir.path(), &train("--num_core_per_host 1"), &["laid out for 2 cores, not 1"]);
    // An index file that is wrong about it is found out by the text.
    let text = std::fs::read_to_string(&report.record_info).unwrap();
    std::fs::write(&report.record_info, text.replace("\"num_core_per_host\": 2", "\"num_core_per_host\": 4")).unwrap();
    let sentence = load(&find(&directory, RecordQuery::default()).unwrap()).err().unwrap().to_string();
    assert!(sentence.contains("num_core_per_host = 2, not 4"), "{sentence}");
}

/// An odd batch cannot hold both directions; the original failed in the middle of the model.
#[test]
fn odd_batches_with_both_directions() {
    let dir = tempfile::tempdir().unwrap();
    let sentence = build(&CorpusOptions { bsz_per_host: 3, ..options(dir.path(), 2000) }).unwrap_err().to_string();
    assert!(sentence.contains("bsz_per_host must be a positive multiple of 2"), "{sentence}");
    build(&CorpusOptions { bsz_per_host: 3, bi_data: false, ..options(dir.path(), 2000) }).unwrap();
}

/// corpus_info.json is one file for all corpora of a save_dir; the last build's word is not about the others.
#[test]
fn corpus_info_is_overwritten() {
    let (dir, report) = corpus(4000, |o| (o.bsz_per_host, o.num_core_per_host) = (8, 4));
    build(&CorpusOptions { bsz_per_host: 2, ..options(dir.path(), 4000) }).unwrap();
    // As the original leaves it: an index without our addition.
    let mut info: RecordInfo = serde_json::from_slice(&std::fs::read(&report.record_info).unwrap()).unwrap();
    info.xlnet = None;
    std::fs::write(&report.record_info, serde_json::to_string(&info).unwrap()).unwrap();
    let directory = dir.path().join("corpus/tfrecords");
    let set = find(&directory, RecordQuery { bsz: Some(8), ..RecordQuery::default() }).unwrap();
    assert_eq!(set.files[0].num_core_per_host, None);
    assert_eq!(load(&set).unwrap().next_batch().unwrap().direction, [0, 1, 0, 1, 0, 1, 0, 1]);
}

/// Half of the choices came from a generator that nobody seeded.
#[test]
fn builds_cannot_be_repeated() {
    let (dir, first) = corpus(4000, |_| ());
    let bytes = std::fs::read(&first.records).unwrap();
    assert_eq!(std::fs::read(build(&options(dir.path(), 4000)).unwrap().records).unwrap(), bytes);
    let other = CorpusOptions { seed: 1, ..options(dir.path(), 4000) };
    assert_ne!(std::fs::read(build(&other).unwrap().records).unwrap(), bytes);
}

/// A task without files ended silently, without records.
#[test]
fn tasks_without_files() {
    let dir = tempfile::tempdir().unwrap();
    let options = CorpusOptions { num_task: 2, task: 1, ..options(dir.path(), 2000) };
    let sentence = build(&options).unwrap_err().to_string();
    assert!(sentence.contains("task 1 has no file: there are 1; set num_task to 1 at most"), "{sentence}");
}

/// VOCAB_SIZE is 32000 in the source, whatever the vocabulary.
#[test]
fn vocabulary_size_is_hard_coded() {
    let (dir, _) = corpus(2000, |_| ());
    assert!(succeeds(dir.path(), &train("")).contains(&format!("n_token = {VOCAB}")));
    let text = std::fs::read_to_string(dir.path().join("corpus/corpus_info.json")).unwrap();
    assert!(text.contains(&format!("\"vocab_size\": {VOCAB}")));
}

/// Records of another vocabulary trained without a word.
#[test]
fn vocabularies_are_not_compared() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let text: String = (0..400).map(|i| format!("the {} cats saw {} small dogs, then some\n", i % 7, i % 13)).collect();
    std::fs::write(dir.join("a.txt"), text).unwrap();
    let other: String =
        (0..400).map(|i| format!("a bird {} flew over {} large fields, and back\n", i % 7, i % 13)).collect();
    std::fs::write(dir.join("b.txt"), other).unwrap();
    for name in ["a", "b"] {
        succeeds(dir, &format!("vocab train --input {name}.txt --vocab-size 60 --soft-limit --output {name}.model"));
    }
    succeeds(dir, "corpus build --input a.txt --sp_path a.model --save_dir corpus --bsz_per_host 4 --seq_len 32");
    succeeds(dir, &train("--sp_path a.model"));
    refuses(dir, &train("--sp_path b.model"), &["made with the vocabulary of SHA-256", "is in use"]);
    std::fs::create_dir(dir.join("weights")).unwrap();
    std::fs::copy(dir.join("b.model"), dir.join("weights/spiece.model")).unwrap();
    refuses(dir, &train("--init_checkpoint weights"), &["made with the vocabulary of SHA-256"]);
    // Held-out records, too.
    let line =
        "corpus build --input a.txt --sp_path b.model --save_dir other --split dev --bsz_per_host 4 --seq_len 32";
    succeeds(dir, line);
    refuses(dir, &train("--eval_record_info_dir other/tfrecords"), &["made with the vocabulary of SHA-256"]);
}

/// Accents are stripped from every language; where they were kept, they must be everywhere.
#[test]
fn accents_are_stripped() {
    let keep = TextOptions { keep_accents: true, ..TextOptions::default() };
    assert_eq!(preprocess_text("が é", &TextOptions::default()), "か e");
    assert_eq!(preprocess_text("が é", &keep), "が é");
    let (dir, _) = corpus(2000, |o| o.keep_accents = true);
    build(&CorpusOptions { pass_id: 1, ..options(dir.path(), 2000) }).unwrap();
    refuses(dir.path(), &train(""), &["keep_accents = false, but true is in use"]);
}

/// `<sep>` and `<cls>` may be chosen and count towards the goal, but are never predicted.
#[test]
fn functional_tokens_are_chosen() {
    let (dir, report) = corpus(20_000, |_| ());
    let chosen = |r: &Record| (0..32).filter(|&i| r.is_masked[i]).map(|i| r.input[i]).collect::<Vec<_>>();
    let all = records(&report.records, 32);
    assert!(all.iter().all(|r| chosen(r).len() == 5));
    let lost: usize = all.iter().map(|r| chosen(r).iter().filter(|&&id| is_functional(id)).count()).sum();
    assert!(lost > 0);
    let mut loader = load(&find(&dir.path().join("corpus/tfrecords"), RecordQuery::default()).unwrap()).unwrap();
    let steps = loader.steps_per_epoch() as usize;
    let targets: f32 = loader.by_ref().take(steps).map(|b| b.unwrap().target_mask.iter().sum::<f32>()).sum();
    assert_eq!(targets as usize, 5 * all.len() - lost);
}

/// What is predicted is the token itself; the stored next tokens are not what training reads.
#[test]
fn targets_are_the_tokens_themselves() {
    let (dir, _) = corpus(4000, |_| ());
    let batch = load(&find(&dir.path().join("corpus/tfrecords"), RecordQuery::default()).unwrap())
        .unwrap()
        .next_batch()
        .unwrap();
    for (i, &position) in batch.target_positions.iter().enumerate().filter(|(_, p)| **p >= 0) {
        assert_eq!(batch.targets[i], batch.input_ids[i / 5 * 32 + position as usize]);
    }
}

/// Which tokens are predicted is fixed when the corpus is built, per pass; only their order changes from epoch to epoch.
#[test]
fn predicted_tokens_are_frozen() {
    let (dir, first) = corpus(4000, |_| ());
    let mut loader = load(&find(&dir.path().join("corpus/tfrecords"), RecordQuery::default()).unwrap()).unwrap();
    let steps = loader.steps_per_epoch() as usize;
    let epochs: Vec<_> = loader.by_ref().take(2 * steps).map(Result::unwrap).collect();
    assert_eq!(epochs[0].target_positions, epochs[steps].target_positions);
    assert_ne!(epochs[0].query_rank, epochs[steps].query_rank);
    let second = build(&CorpusOptions { pass_id: 1, ..options(dir.path(), 4000) }).unwrap();
    let chosen = |report: &CorpusReport| records(&report.records, 32)[0].is_masked.clone();
    assert_ne!(chosen(&first), chosen(&second));
}

/// Context sees neither targets nor `<sep>` and `<cls>`; the second half sees all of the first, which sees none of it.
#[test]
fn context_does_not_see_separators() {
    let (dir, _) = corpus(4000, |_| ());
    let batch = load(&find(&dir.path().join("corpus/tfrecords"), RecordQuery::default()).unwrap())
        .unwrap()
        .next_batch()
        .unwrap();
    let sees = |i: usize, j: usize| batch.query_rank[i] > batch.key_rank[j];
    let hidden = |i: usize| is_functional(batch.input_ids[i]) || batch.input_q[i] > 0.0;
    for (i, j) in (0..32).flat_map(|i| (0..32).map(move |j| (i, j))) {
        let expected = match (i < 16, j < 16) {
            (true, false) => false,
            (false, true) => true,
            _ if !hidden(j) => true,
            _ if !hidden(i) => false,
            _ => continue, // by the permutation
        };
        assert_eq!(sees(i, j), expected, "{i} {j}");
    }
    for i in (0..32).filter(|&i| hidden(i)) {
        assert_eq!(sees(i, i), is_functional(batch.input_ids[i]), "a target does not see itself");
    }
}

/// A smaller `perm_size` gives all blocks of a half the same order; another one each is an option.
#[test]
fn blocks_share_their_order() {
    let (dir, _) = corpus(4000, |o| o.num_predict = Some(32));
    let set = find(&dir.path().join("corpus/tfrecords"), RecordQuery::default()).unwrap();
    let order = |block_order| {
        let options = LoaderOptions { perm_size: Some(8), block_order, prefetch: 0, ..LoaderOptions::default() };
        let batch = Loader::open(&set, &options).unwrap().next_batch().unwrap();
        let key = &batch.key_rank[..16];
        (0..8).all(|i| key[8 + i] == key[i] + 8)
    };
    use xlnet::data::permutation::BlockOrder;
    assert!(order(BlockOrder::Shared) && !order(BlockOrder::Fresh));
    refuses(dir.path(), &train("--perm_size 5"), &["perm_size 5"]);
}

/// Consecutive steps are consecutive text, or memory would be of another text.
#[test]
fn steps_continue_their_rows() {
    let (_dir, report) = corpus(4000, |o| (o.bi_data, o.use_eod) = (false, false));
    let all = records(&report.records, 32);
    for (now, next) in all.iter().zip(&all[4..]) {
        assert_eq!(now.input[15] + 1, next.input[0]);
    }
}

/// Flags that never did anything are accepted, and said to do nothing.
#[test]
fn dead_flags() {
    let (dir, _) = corpus(2000, |_| ());
    let out = xlnet(dir.path(), &train("--d_embed 3 --track_mean --nouse_tpu"));
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && stderr.contains("d_embed is ignored") && stderr.contains("track_mean"), "{stderr}");
}

/// Index files of the original have no word about their making; ours do, and the original does not mind.
#[test]
fn index_files_say_what_made_them() {
    let (_dir, report) = corpus(2000, |o| (o.seed, o.keep_accents) = (5, true));
    let info: serde_json::Value = serde_json::from_slice(&std::fs::read(&report.record_info).unwrap()).unwrap();
    assert!(info["filenames"].is_array() && info["num_batch"].is_u64());
    let expected = serde_json::json!({
        "program": concat!("xlnet ", env!("CARGO_PKG_VERSION")),
        "uncased": true,
        "keep_accents": true,
        "bi_data": true,
        "num_core_per_host": 1,
        "bsz": 4,
        "seq_len": 32,
        "reuse_len": 16,
        "num_predict": 5,
        "seed": 5,
        "vocab_size": VOCAB,
        "vocabulary_hash": null,
        "inputs": ["a.txt"],
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&info["xlnet"][key], value, "{key}");
    }
}
