use std::path::{Path, PathBuf};

use super::super::corpus::{CorpusOptions, build_corpus};
use super::super::encode::IdVocabulary;
use super::super::record_info::{RecordQuery, Split};
use super::super::special::is_functional;
use super::*;
use rand::Rng;

/// Builds a corpus of 3000 ids with `change`d options and returns its directory of records.
fn corpus(directory: &Path, change: impl Fn(&mut CorpusOptions)) -> PathBuf {
    let input = directory.join("a.txt");
    let lines: Vec<String> = (0..600).map(|i| format!("{} 11 12 13 {}", 100 + i, 20 + i % 50)).collect();
    std::fs::write(&input, lines.join("\n")).unwrap();
    let mut options = CorpusOptions {
        inputs: vec![input],
        save_dir: directory.to_owned(),
        bsz_per_host: 4,
        seq_len: 64,
        reuse_len: 32,
        uncased: false,
        num_predict: Some(11),
        from_raw_text: false,
        ..CorpusOptions::default()
    };
    change(&mut options);
    build_corpus(&options, &IdVocabulary { vocab_size: 1000 }, &mut |_| ()).unwrap();
    directory.join("tfrecords")
}

fn find(directory: &Path) -> RecordSet {
    RecordSet::find(&[directory.to_owned()], &RecordQuery::default()).unwrap()
}

fn open(directory: &Path, change: impl Fn(&mut LoaderOptions)) -> Result<Loader> {
    let mut options = LoaderOptions { prefetch: 0, seed: 5, ..LoaderOptions::default() };
    change(&mut options);
    Loader::open(&find(directory), &options)
}

#[test]
fn batches_hold_together() {
    let dir = tempfile::tempdir().unwrap();
    let records = corpus(dir.path(), |o| (o.bsz_per_host, o.num_core_per_host) = (8, 2));
    let mut loader = open(&records, |o| o.perm_size = Some(16)).unwrap();
    let steps = loader.steps_per_epoch();
    assert!(steps > 10);
    let mut padded = 0;
    for batch in loader.by_ref().take(steps as usize).map(Result::unwrap) {
        let (b, l, t) = (batch.batch_size, batch.seq_len, batch.num_targets);
        assert_eq!((b, l, t), (8, 64, 11));
        for tokens in [&batch.input_ids, &batch.segment_ids, &batch.query_rank, &batch.key_rank] {
            assert_eq!(tokens.len(), b * l);
        }
        assert_eq!((batch.input_q.len(), batch.direction.len()), (b * l, b));
        assert_eq!((batch.targets.len(), batch.target_mask.len(), batch.target_positions.len()), (b * t, b * t, b * t));
        assert_eq!(batch.direction, [0, 0, 1, 1, 0, 0, 1, 1]);
        for row in 0..b {
            let inputs = &batch.input_ids[row * l..(row + 1) * l];
            let positions = &batch.target_positions[row * t..(row + 1) * t];
            let real = positions.iter().take_while(|p| **p >= 0).count();
            padded += t - real;
            assert!(positions[..real].is_sorted() && positions[real..].iter().all(|p| *p == -1));
            for (i, &position) in positions.iter().enumerate() {
                let (target, weight) = (batch.targets[row * t + i], batch.target_mask[row * t + i]);
                if let Ok(position) = usize::try_from(position) {
                    assert_eq!((target, weight), (inputs[position], 1.0));
                    assert!(!is_functional(target));
                    assert_eq!(batch.input_q[row * l + position], 1.0);
                    // A target sees neither itself nor, from the first half, anything of the second.
                    let query = batch.query_rank[row * l + position];
                    assert!(query <= batch.key_rank[row * l + position]);
                    assert!(position >= 32 || batch.key_rank[row * l + 32..(row + 1) * l].iter().all(|k| query <= *k));
                } else {
                    assert_eq!((target, weight), (0, 0.0));
                }
            }
            let predicted = batch.input_q[row * l..(row + 1) * l].iter().sum::<f32>();
            assert_eq!(predicted as usize, real);
        }
    }
    assert!(padded > 0); // functional tokens were chosen somewhere
    assert_eq!(loader.position(), Position { epoch: 1, step: 0 });
}

#[test]
fn epochs_redraw_orders_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut loader = open(&corpus(dir.path(), |_| ()), |_| ()).unwrap();
    let steps = loader.steps_per_epoch() as usize;
    let first: Vec<Batch> = loader.by_ref().take(steps).map(Result::unwrap).collect();
    let second: Vec<Batch> = loader.by_ref().take(steps).map(Result::unwrap).collect();
    for (a, b) in first.iter().zip(&second) {
        assert_ne!((&a.query_rank, &a.key_rank), (&b.query_rank, &b.key_rank));
        let ranks = (a.query_rank.clone(), a.key_rank.clone());
        assert_eq!(*a, Batch { query_rank: ranks.0, key_rank: ranks.1, ..b.clone() });
    }
    // Consecutive steps continue each other: the first half of step 1 follows that of step 0 in its row.
    assert_ne!(first[0].input_ids[..32], first[1].input_ids[..32]);
}

/// With every token predicted, the keys of the first half are the order drawn: another one for every record and epoch.
#[test]
fn every_record_has_its_own_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut loader = open(&corpus(dir.path(), |o| o.num_predict = Some(64)), |_| ()).unwrap();
    let rows = 2 * 4 * loader.steps_per_epoch() as usize;
    let mut orders = std::collections::BTreeSet::new();
    for batch in loader.by_ref().take(rows / 4).map(Result::unwrap) {
        orders.extend(batch.key_rank.chunks(64).map(|row| row[..32].to_vec()));
    }
    assert_eq!(orders.len(), rows);
}

#[test]
fn positions_resume_exactly_with_and_without_prefetch() {
    let dir = tempfile::tempdir().unwrap();
    let records = corpus(dir.path(), |_| ());
    let mut plain = open(&records, |_| ()).unwrap();
    let steps = plain.steps_per_epoch();
    let total = 2 * steps as usize + 3;
    let batches: Vec<Batch> = plain.by_ref().take(total).map(Result::unwrap).collect();
    for prefetch in [0, 1, 3] {
        let mut loader = open(&records, |o| o.prefetch = prefetch).unwrap();
        let mut positions = Vec::new();
        for expected in &batches {
            positions.push(loader.position());
            assert_eq!(loader.next_batch().unwrap(), *expected);
        }
        for at in [0, 1, steps as usize - 1, steps as usize, total - 1] {
            let saved = serde_json::to_string(&positions[at]).unwrap();
            loader.seek(serde_json::from_str(&saved).unwrap());
            assert_eq!(loader.position(), positions[at]);
            assert_eq!(loader.next_batch().unwrap(), batches[at]);
        }
        loader.seek(Position { epoch: 0, step: steps + 1 });
        assert_eq!(loader.position(), Position { epoch: 1, step: 1 });
        loader.seek(Position { epoch: u64::MAX, step: u64::MAX });
        loader.next_batch().unwrap();
    }
    assert_ne!(open(&records, |o| o.seed = 6).unwrap().next_batch().unwrap(), batches[0]);
}

/// Ranks and micro-batches read parts of a batch; each row is the one that it is in the whole batch.
#[test]
fn shares_are_rows_of_the_batch() {
    let dir = tempfile::tempdir().unwrap();
    let records = corpus(dir.path(), |o| (o.bsz_per_host, o.num_core_per_host) = (8, 2));
    let set = find(&records);
    let options = LoaderOptions { prefetch: 0, seed: 5, ..LoaderOptions::default() };
    let mut whole = Loader::open(&set, &options).unwrap();
    for rows in [vec![3], vec![0, 1, 2, 3, 4, 5, 6, 7], vec![6, 2, 5], vec![7, 0]] {
        let mut share = Loader::open_rows(&set, &options, &rows).unwrap();
        whole.seek(Position { epoch: 1, step: 2 });
        share.seek(Position { epoch: 1, step: 2 });
        for _ in 0..3 {
            let (all, some) = (whole.next_batch().unwrap(), share.next_batch().unwrap());
            assert_eq!(some.batch_size, rows.len());
            let pick = |values: &[i32]| {
                let width = values.len() / all.batch_size;
                rows.iter().flat_map(|row| values[row * width..(row + 1) * width].to_vec()).collect::<Vec<_>>()
            };
            assert_eq!(some.input_ids, pick(&all.input_ids));
            assert_eq!(some.segment_ids, pick(&all.segment_ids));
            assert_eq!(some.query_rank, pick(&all.query_rank));
            assert_eq!(some.key_rank, pick(&all.key_rank));
            assert_eq!(some.target_positions, pick(&all.target_positions));
            assert_eq!(some.direction, pick(&all.direction));
        }
    }
    for rows in [vec![], vec![8], vec![1, 2, 1]] {
        assert!(Loader::open_rows(&set, &options, &rows).is_err(), "{rows:?}");
    }
}

/// Four passes in one directory: one order of files for all epochs, another for another seed.
#[test]
fn files_are_shuffled_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut records = PathBuf::new();
    for pass in 0..4 {
        records = corpus(dir.path(), |o| o.pass_id = pass);
    }
    let epoch = |loader: &mut Loader| -> Vec<Vec<i32>> {
        let steps = loader.steps_per_epoch() as usize;
        loader.take(steps).map(|b| b.unwrap().target_positions).collect()
    };
    let mut loader = open(&records, |_| ()).unwrap();
    let first = epoch(&mut loader);
    assert_eq!(first, epoch(&mut loader));
    let mut orders: Vec<_> = (0..6).map(|seed| epoch(&mut open(&records, |o| o.seed = seed).unwrap())).collect();
    assert!(orders.iter().any(|o| *o != first));
    let unshuffled = |seed| epoch(&mut open(&records, |o| (o.seed, o.shuffle_files) = (seed, false)).unwrap());
    assert_eq!(unshuffled(1), unshuffled(2));
    orders.push(first);
    for order in &mut orders {
        order.sort();
    }
    assert!(orders.windows(2).all(|w| w[0] == w[1])); // the same steps in every order
}

#[test]
fn free_number_of_targets_and_held_out_split() {
    let dir = tempfile::tempdir().unwrap();
    let records = corpus(dir.path(), |o| {
        (o.num_predict, o.split, o.bi_data) = (None, Split::Dev, false);
    });
    let query = RecordQuery { split: Split::Dev, ..RecordQuery::default() };
    let set = RecordSet::find(&[records], &query).unwrap();
    let batch = Loader::open(&set, &LoaderOptions::default()).unwrap().next_batch().unwrap();
    assert_eq!((batch.num_targets, batch.targets.clone()), (64, batch.input_ids.clone()));
    assert_eq!(batch.target_mask, batch.input_q);
    assert_eq!(batch.direction, [0; 4]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let records = corpus(dir.path(), |_| ());
    let says = |change: fn(&mut LoaderOptions)| open(&records, change).map(|_| ()).unwrap_err().to_string();
    assert!(says(|o| o.perm_size = Some(0)).contains("perm_size 0"));
    assert!(says(|o| o.perm_size = Some(24)).contains("perm_size 24"));
    assert!(says(|o| o.perm_size = Some(64)).contains("perm_size 64"));
    assert!(says(|o| o.vocab_size = Some(50)).contains("but the model knows 50 pieces"));

    let set = find(&records);
    let path = &set.files[0].paths[0];
    let bytes = std::fs::read(path).unwrap();
    let reread = |bytes: &[u8]| {
        std::fs::write(path, bytes).unwrap();
        Loader::open(&set, &LoaderOptions::default()).map(|_| ()).unwrap_err().to_string()
    };
    let length = u64::from_le_bytes(std::array::from_fn(|i| bytes[i])) as usize + 16;
    assert!(reread(&bytes[..10 * length / 4]).contains("is damaged"));
    assert!(reread(&[]).contains("hold 0 records"));
    assert!(reread(&bytes[..length]).contains("hold 1 records"));
    let mut flipped = bytes.clone();
    flipped[length / 2] ^= 1;
    assert!(reread(&flipped).contains("record 0 is damaged"));
    std::fs::write(path, &bytes).unwrap();
    let fewer = RecordSet { settings: RecordSettings { num_predict: Some(3), ..set.settings.clone() }, ..set.clone() };
    let sentence = Loader::open(&fewer, &LoaderOptions::default()).map(|_| ()).unwrap_err().to_string();
    assert!(sentence.contains("its name allows 3"), "{sentence}");
    let absurd = RecordSettings { num_predict: Some(usize::MAX), ..set.settings.clone() };
    assert!(Loader::open(&RecordSet { settings: absurd, ..set.clone() }, &LoaderOptions::default()).is_err());
    let ahead = LoaderOptions { prefetch: usize::MAX, ..LoaderOptions::default() };
    assert_eq!(Loader::open(&set, &ahead).unwrap().next_batch().unwrap().batch_size, 4);
    let longer = RecordSet { settings: RecordSettings { seq_len: 128, ..set.settings.clone() }, ..set.clone() };
    let sentence = Loader::open(&longer, &LoaderOptions { perm_size: Some(32), ..LoaderOptions::default() });
    assert!(sentence.map(|_| ()).unwrap_err().to_string().contains("must hold 128 integers, got 64"));
    let none = RecordSet { files: Vec::new(), ..set.clone() };
    assert!(Loader::open(&none, &LoaderOptions::default()).is_err());
}

/// An index file with any bit flipped is refused, or still describes what is there.
#[test]
fn damaged_index_files() {
    let dir = tempfile::tempdir().unwrap();
    let records = corpus(dir.path(), |_| ());
    let index = find(&records).files[0].index.clone();
    let text = std::fs::read(&index).unwrap();
    let expected = open(&records, |_| ()).unwrap().steps_per_epoch();
    let mut rng = ChaCha8Rng::seed_from_u64(16);
    let mut refused = 0;
    for _ in 0..400 {
        let mut damaged = text.clone();
        if rng.random_bool(0.2) {
            damaged.truncate(rng.random_range(0..text.len() - 2)); // the end is "}\n"
        } else {
            let at = rng.random_range(0..text.len());
            damaged[at] ^= 1 << rng.random_range(0..8);
        }
        std::fs::write(&index, &damaged).unwrap();
        let options = LoaderOptions { prefetch: 0, ..LoaderOptions::default() };
        let set = RecordSet::find(std::slice::from_ref(&records), &RecordQuery::default());
        match set.and_then(|set| Loader::open(&set, &options)) {
            Ok(mut loader) => {
                assert!(loader.steps_per_epoch() <= expected);
                loader.next_batch().unwrap();
            }
            Err(e) => {
                assert!(!e.to_string().contains('\n'), "{e}");
                refused += 1;
            }
        }
    }
    assert!(refused > 200, "{refused}");
}

/// Records lie in several files of one index file, and a step across two of them; batches are those of one file.
#[test]
fn steps_across_files() {
    let dir = tempfile::tempdir().unwrap();
    let records = corpus(dir.path(), |_| ());
    let set = find(&records);
    let options = LoaderOptions { prefetch: 0, seed: 5, ..LoaderOptions::default() };
    let mut whole = Loader::open(&set, &options).unwrap();
    let path = set.files[0].paths[0].clone();
    let bytes = std::fs::read(&path).unwrap();
    let mut reader = super::super::tfrecord::RecordReader::open(&path).unwrap();
    let mut ends = vec![0];
    while reader.next_record().unwrap().is_some() {
        ends.push(reader.offset() as usize);
    }
    // Cuts within steps, between two, and around a file without records.
    let cuts = [0, ends[3], ends[8], ends[8], ends[21], bytes.len()];
    let mut parts = set.clone();
    parts.files[0].paths = (cuts.windows(2).enumerate())
        .map(|(i, cut)| {
            let part = dir.path().join(format!("part-{i}.tfrecords"));
            std::fs::write(&part, &bytes[cut[0]..cut[1]]).unwrap();
            part
        })
        .collect();
    let mut loader = Loader::open(&parts, &options).unwrap();
    let steps = whole.steps_per_epoch();
    assert_eq!(loader.steps_per_epoch(), steps);
    for _ in 0..2 * steps {
        assert_eq!(loader.next_batch().unwrap(), whole.next_batch().unwrap());
    }
    for step in [5, 0, 2, steps - 1, 1] {
        loader.seek(Position { epoch: 3, step });
        whole.seek(Position { epoch: 3, step });
        assert_eq!(loader.next_batch().unwrap(), whole.next_batch().unwrap());
    }
}

/// Records that are not those that were checked end the run with a sentence, and nothing else.
#[test]
fn files_that_change_in_training() {
    let dir = tempfile::tempdir().unwrap();
    let records = corpus(dir.path(), |_| ());
    let path = find(&records).files[0].paths[0].clone();
    let bytes = std::fs::read(&path).unwrap();
    for prefetch in [0, 2] {
        let mut loader = open(&records, |o| o.prefetch = prefetch).unwrap();
        let first = loader.next_batch().unwrap();
        let steps = loader.steps_per_epoch();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        // What is open may still be read; a new epoch opens the file again.
        let error = (0..2 * steps).find_map(|_| loader.next_batch().err()).unwrap().to_string();
        assert!(error.contains("changed while it was in use") || error.contains("cannot read"), "{error}");
        let stays = loader.position();
        assert!(loader.next_batch().is_err());
        assert_eq!(loader.position(), stays);
        std::fs::remove_file(&path).unwrap();
        loader.seek(Position::default());
        assert!(loader.next_batch().unwrap_err().to_string().contains("cannot read"));
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(open(&records, |o| o.prefetch = prefetch).unwrap().next_batch().unwrap(), first);
    }
}
