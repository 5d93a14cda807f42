//! Records made by the original's data_utils (`tests/golden/records`), and ours beside them.
//!
//! `python tests/original_records.py read DIR` runs the original's own reader over ours.

use std::path::PathBuf;

use xlnet::data::corpus::CorpusOptions;
use xlnet::data::record_info::{RecordQuery, RecordSettings};

use super::*;

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/records")
}

#[test]
fn names_settings_tasks_and_passes_are_read() {
    let directory = golden().join("bi/tfrecords");
    let set = find(&directory, RecordQuery::default()).unwrap();
    let expected = RecordSettings {
        bsz: 8,
        seq_len: 32,
        reuse_len: Some(16),
        uncased: false,
        bi_data: true,
        mask_alpha: 6,
        mask_beta: 1,
        num_predict: Some(5),
    };
    assert_eq!(set.settings, expected);
    assert_eq!(set.files.iter().map(|f| f.num_batch).collect::<Vec<_>>(), [10; 4]); // two tasks, two passes
    assert!(set.files.iter().all(|f| f.num_core_per_host == Some(2))); // as corpus_info.json tells
    assert_eq!((&set.vocabulary_hash, set.keep_accents), (&None, None));
    let first_passes = find(&directory, RecordQuery { num_passes: Some(1), ..RecordQuery::default() }).unwrap();
    assert_eq!(first_passes.files.len(), 2);
    let uni = golden().join("uni/tfrecords");
    let both = RecordSet::find(&[directory, uni], &RecordQuery::default()).unwrap_err().to_string();
    assert!(both.contains("bsz is 2, there 8") && both.contains("bi_data is false, there true"), "{both}");
}

#[test]
fn all_records_become_batches() {
    for (name, steps, directions) in [("bi", 40, vec![0, 0, 1, 1, 0, 0, 1, 1]), ("uni", 21, vec![0, 0])] {
        let set = find(&golden().join(name).join("tfrecords"), RecordQuery::default()).unwrap();
        let mut loader = load(&set).unwrap();
        assert_eq!(loader.steps_per_epoch(), steps);
        let mut targets = 0.0;
        for batch in loader.by_ref().take(steps as usize).map(Result::unwrap) {
            assert_eq!(batch.direction, directions);
            targets += batch.target_mask.iter().sum::<f32>();
        }
        assert_eq!(targets, [1499.0, 204.0][usize::from(name == "uni")]); // as many as the original's reader counts
    }
}

/// Without corpus_info.json the text of the rows tells their layout, and contradicts what is wrong.
#[test]
fn directions_are_found_in_the_text() {
    let dir = tempfile::tempdir().unwrap();
    copy(&golden().join("bi"), dir.path());
    std::fs::remove_file(dir.path().join("corpus_info.json")).unwrap();
    let asked =
        |cores| find(&dir.path().join("tfrecords"), RecordQuery { num_core_per_host: cores, ..RecordQuery::default() });
    let set = asked(None).unwrap();
    assert_eq!(set.files[0].num_core_per_host, None);
    assert_eq!(load(&set).unwrap().next_batch().unwrap().direction, [0, 0, 1, 1, 0, 0, 1, 1]);
    assert_eq!(load(&asked(Some(2)).unwrap()).unwrap().next_batch().unwrap().direction, [0, 0, 1, 1, 0, 0, 1, 1]);
    for wrong in [1, 4] {
        let sentence = load(&asked(Some(wrong)).unwrap()).err().unwrap().to_string();
        assert!(sentence.contains(&format!("num_core_per_host = 2, not {wrong}")), "{sentence}");
    }
}

/// The same text: what the original does not draw at random, the rows and their first halves, is equal bit by bit.
#[test]
fn rows_are_the_originals() {
    let dir = tempfile::tempdir().unwrap();
    let base = CorpusOptions {
        inputs: (0..2).map(|i| golden().join(format!("text/{i}.txt"))).collect(),
        save_dir: dir.path().to_owned(),
        seq_len: 32,
        reuse_len: 16,
        num_predict: Some(5),
        from_raw_text: false,
        ..CorpusOptions::default()
    };
    let bi = CorpusOptions { bsz_per_host: 8, num_core_per_host: 2, uncased: false, num_task: 2, ..base.clone() };
    let inputs = base.inputs[..1].to_vec();
    let uni = CorpusOptions { inputs, bsz_per_host: 2, uncased: true, bi_data: false, ..base };
    let second = CorpusOptions { task: 1, ..bi.clone() };
    let mut last_steps = [0, 0];
    for (options, folder) in [(bi, "bi"), (second, "bi"), (uni, "uni")] {
        let ours = build(&options).unwrap();
        let name = ours.records.file_name().unwrap();
        let [ours, theirs] =
            [ours.records.clone(), golden().join(folder).join("tfrecords").join(name)].map(|path| records(&path, 32));
        last_steps[0] += ours.len() / options.bsz_per_host;
        last_steps[1] += theirs.len() / options.bsz_per_host;
        for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            assert_eq!(ours.input[..16], theirs.input[..16], "{folder} {i}");
            assert_eq!(ours.target[..16], theirs.target[..16], "{folder} {i}");
            let masked = |m: &[bool]| m.iter().filter(|m| **m).count();
            for half in [0..16, 16..32] {
                assert_eq!(masked(&ours.is_masked[half.clone()]), masked(&theirs.is_masked[half]), "{folder} {i}");
            }
            assert_eq!(ours.segment_ids[..16], theirs.segment_ids[..16]);
            assert_eq!(ours.segment_ids[30..], theirs.segment_ids[30..]);
        }
    }
    // The last step of a file depends on chance.
    assert!(last_steps[0].abs_diff(last_steps[1]) <= 3, "{last_steps:?}");
}
