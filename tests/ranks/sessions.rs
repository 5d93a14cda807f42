//! Ranks as threads of this process, in f64: they compute what one process computes with the whole batch.

use std::path::Path;

use xlnet::backend::Device;
use xlnet::config::XlnetConfig;
use xlnet::data::loader::{Loader, LoaderOptions};
use xlnet::data::record_info::{RecordQuery, RecordSet};
use xlnet::data::share::rows_of_parts;
use xlnet::distributed::tcp::{Meeting, Tcp};
use xlnet::distributed::{Collective, Single};
use xlnet::model::{MaskKind, QueryKind, TransformerOptions};
use xlnet::tensor::DType;
use xlnet::train::init::{InitOptions, initialize};
use xlnet::train::ranks::Ranks;
use xlnet::train::session::{Session, StepResult};
use xlnet::train::step::{Objective, OptimizerOptions, StepOptions};
use xlnet_testkit::learning::largest_scale;

use super::runs::{build, free_port};

const STEPS: usize = 4;

/// What a rank ends with.
struct End {
    results: Vec<StepResult>,
    params: Vec<Vec<f64>>,
    /// Memories of the whole batch, row by row; at rank 0 only.
    memory: Vec<Vec<u8>>,
}

/// Trains with `ranks` ranks of `accumulate` micro-batches each.
fn train(records: &Path, ranks: usize, accumulate: usize, dropout: f32, half: bool) -> Vec<End> {
    let set = RecordSet::find(&[records.to_owned()], &RecordQuery::default()).unwrap();
    let (bsz, num_core) = (set.settings.bsz, set.files[0].num_core_per_host.unwrap());
    let shares: Vec<Vec<usize>> = rows_of_parts(bsz, num_core, set.settings.bi_data, ranks * accumulate)
        .chunks(bsz / ranks)
        .map(<[usize]>::to_vec)
        .collect();
    let rank = |group: Box<dyn Collective>| {
        let mut ranks = Ranks::new(group, shares.clone()).unwrap();
        let options = LoaderOptions { prefetch: 0, seed: 3, ..LoaderOptions::default() };
        let mut loader = Loader::open_rows(&set, &options, ranks.rows()).unwrap();
        let mut session = session(&set, ranks.rows().len() / accumulate, accumulate, dropout, half);
        session.set_rows(ranks.rows()).unwrap();
        let (program, exec) = session.parts();
        if ranks.is_first() {
            initialize(exec, program, &InitOptions { init_std: 0.1, ..InitOptions::default() }).unwrap();
        }
        ranks.share_weights(program, exec).unwrap();
        let results = (0..STEPS).map(|_| ranks.train(&mut session, &loader.next_batch().unwrap()).unwrap()).collect();
        let (program, exec) = session.parts();
        ranks.check_weights(program, exec).unwrap();
        let memory = ranks.gather_memory(program, exec).unwrap();
        ranks.finish().unwrap();
        let params = program.params.iter().map(|&id| exec.download_f64(id).unwrap()).collect();
        End { results, params, memory: memory.into_iter().map(|(_, bytes)| bytes).collect() }
    };
    if ranks == 1 {
        return vec![rank(Box::new(Single))];
    }
    let port = free_port();
    std::thread::scope(|scope| {
        let rank = &rank;
        let start = |number| {
            let meeting = Meeting { rank: number, ranks, address: "127.0.0.1".into(), port };
            scope.spawn(move || rank(Box::new(Tcp::meet(&meeting).unwrap())))
        };
        let threads: Vec<_> = (0..ranks).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn session(set: &RecordSet, batch: usize, accumulate: usize, dropout: f32, half: bool) -> Session {
    let config =
        XlnetConfig { n_layer: 2, d_model: 12, n_head: 2, d_head: 6, d_inner: 20, n_token: 64, ..XlnetConfig::base() };
    let transformer = TransformerOptions {
        batch,
        length: set.settings.seq_len,
        memory: 16,
        mem_len: 16,
        reuse_len: set.settings.reuse_len,
        bi_data: set.settings.bi_data,
        mask: MaskKind::Ranks,
        query: set.settings.num_predict.map_or(QueryKind::All, QueryKind::Targets),
        dropout,
        dropatt: dropout,
        products: half.then_some(DType::F16),
        ..TransformerOptions::default()
    };
    let mut optimizer = OptimizerOptions { clip: 0.5, ..OptimizerOptions::default() };
    optimizer.schedule.learning_rate = 0.01;
    let options = StepOptions {
        transformer,
        objective: Objective::LanguageModel,
        accumulate,
        float: if half { DType::F32 } else { DType::F64 },
        optimizer: Some(optimizer),
    };
    let mut session = Session::new(&config, options, Device::Cpu, 7).unwrap();
    // With the largest scale of the loss the first steps overflow f16.
    session.resume_loss_scale(largest_scale());
    session.reset_memory().unwrap();
    session
}

fn numbers(bytes: &[Vec<u8>]) -> Vec<f64> {
    bytes.iter().flat_map(|b| b.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b))).collect()
}

#[track_caller]
fn agree(what: &str, a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len(), "{what}");
    let scale = a.iter().fold(1e-3f64, |most, x| most.max(x.abs()));
    assert!(a.iter().chain(b).all(|x| x.is_finite()), "{what}");
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst <= 1e-9 * scale, "{what}: off by {worst:e} of {scale:e}");
}

/// All ranks of `many` agree bit for bit; their loss, norm, weights and memories are those of `one` to rounding.
#[track_caller]
fn same(one: &End, many: &[End]) {
    for (rank, end) in many.iter().enumerate() {
        for (a, b) in many[0].params.iter().zip(&end.params) {
            assert!(a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits()), "rank {rank} has other weights");
        }
        assert_eq!(end.results, many[0].results, "rank {rank}");
        assert_eq!(end.memory.is_empty(), rank != 0);
    }
    let of = |end: &End| end.results.iter().flat_map(|r| [r.loss, r.gradient_norm]).collect::<Vec<_>>();
    agree("losses and norms", &of(one), &of(&many[0]));
    agree("weights", &one.params.concat(), &many[0].params.concat());
    agree("memories", &numbers(&one.memory), &numbers(&many[0].memory));
    assert!(one.results.iter().all(|r| r.gradient_norm > 0.5), "the clip is at work: {:?}", one.results);
}

#[test]
fn ranks_compute_the_big_batch() {
    for (bi_data, num_core) in [(true, 1), (true, 2), (true, 4), (false, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let records = build(dir.path(), bi_data, num_core);
        for dropout in [0.0, 0.2] {
            let one = train(&records, 1, 1, dropout, false).remove(0);
            for (ranks, accumulate) in [(1, 2), (1, 4), (2, 1), (2, 2), (4, 1), (8, 1)] {
                same(&one, &train(&records, ranks, accumulate, dropout, false));
            }
        }
    }
}

/// A step that overflows at one rank is left out by all, and all have the same scale of the loss afterwards.
#[test]
fn ranks_leave_out_the_same_steps() {
    let dir = tempfile::tempdir().unwrap();
    let records = build(dir.path(), true, 1);
    let one = train(&records, 1, 1, 0.0, true).remove(0);
    let scales = |end: &End| end.results.iter().map(|r| (r.loss_scale, r.overflowed)).collect::<Vec<_>>();
    let left_out = one.results.iter().filter(|r| r.overflowed).count();
    assert!((1..STEPS).contains(&left_out), "{:?}", one.results);
    for ranks in [2, 4] {
        for (rank, end) in train(&records, ranks, 1, 0.0, true).iter().enumerate() {
            assert_eq!(scales(end), scales(&one), "rank {rank} of {ranks}");
            for (mine, whole) in end.results.iter().zip(&one.results).filter(|(r, _)| !r.overflowed) {
                let far = |a: f64, b: f64| (a / b - 1.0).abs();
                let (loss, norm) = (far(mine.loss, whole.loss), far(mine.gradient_norm, whole.gradient_norm));
                assert!(loss < 1e-3 && norm < 1e-2, "rank {rank} of {ranks}: {mine:?}, expected {whole:?}");
            }
        }
    }
}
