//! Every op alone, at the shapes of XLNet-Base training on 1024 tokens (8 rows of 128, and 2 of 512 for attention), with
//! dropout. After criterion's line of each op comes ours: best time of one run, which includes handing the op over and
//! waiting for it; time by the device's own clock where it has one; GB/s and GFLOP/s of the latter by `Op::cost`. On the
//! CPU, or on the device in `XLNET_DEVICE`. `XLNET_LIMITS=67000,3350`, what its data sheet promises in GFLOP/s and GB/s,
//! adds the share of the limit that binds the op.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use xlnet::backend::Device;
use xlnet::op::*;
use xlnet::program::Builder;
use xlnet::tensor::{DType, Role, TensorId};

const ROWS: usize = 1024; // tokens of a batch
const TARGETS: usize = 8 * 22; // predicted tokens of a batch
const WIDTH: usize = 768;
const INNER: usize = 3072;
const HEADS: usize = 12;
const HEAD_DIM: usize = 64;
const VOCABULARY: usize = 32_000;

/// Dropout of `batch` rows of `lead` rows each.
fn dropout(b: &mut Builder, batch: usize, lead: usize) -> DropoutSite {
    DropoutSite { key: b.tensor("key", [KEY_LEN + batch], DType::U32, Role::Input), site: 0, rate: 0.1, lead }
}

fn ids(b: &mut Builder, name: &str, len: usize) -> TensorId {
    b.input_i32(name, [len])
}

fn matmul(b: &mut Builder, [m, n, k]: [usize; 3], [trans_a, trans_b]: [bool; 2]) -> Op {
    let (a, w, out) = (b.input("a", [m * k]), b.param("b", [k * n]), Target::set(b.output("out", [m, n])));
    MatMul { a, b: w, bias: None, out, m, n, k, trans_a, trans_b }.into()
}

/// Content and query stream over `batch` rows of `length` tokens with as many memory tokens. Results are inputs too, so
/// that the gradient alone is a program.
fn attention(b: &mut Builder, batch: usize, length: usize) -> RelAttention {
    let (hd, keys, targets) = (HEADS * HEAD_DIM, 2 * length, length / 6 + 1);
    let [w_bias, r_bias, s_bias] = ["r_w_bias", "r_r_bias", "r_s_bias"].map(|name| b.param(name, [HEADS, HEAD_DIM]));
    RelAttention {
        q: Some(b.input("q", [batch * length, hd])),
        query: Some(QueryStream {
            q: b.input("query q", [batch * targets, hd]),
            positions: ids(b, "positions", batch * targets),
            out: b.input("query out", [batch * targets, hd]),
            lse: b.input("query lse", [batch * HEADS * targets]),
            site: 1,
        }),
        k: b.input("k", [batch * keys, hd]),
        v: b.input("v", [batch * keys, hd]),
        relative: Some(RelativeTerms { r: b.input("r", [keys + length, hd]), group: None, w_bias, r_bias }),
        segment: Some(SegmentTerms {
            s_bias,
            seg_embed: b.param("seg_embed", [2, HEADS, HEAD_DIM]),
            ids: ids(b, "segments", batch * length),
        }),
        mask: Mask::Ranks { query: ids(b, "query rank", batch * length), key: ids(b, "key rank", batch * length) },
        causal: false,
        same_length: false,
        scale: 0.125,
        dropout: Some(dropout(b, batch, 0)),
        out: Some(b.input("out", [batch * length, hd])),
        lse: Some(b.input("lse", [batch * HEADS * length])),
        batch,
        heads: HEADS,
        head_dim: HEAD_DIM,
        length,
        memory: length,
        targets,
        groups: 1,
    }
}

fn attention_grad(b: &mut Builder, batch: usize, length: usize) -> Op {
    let forward = attention(b, batch, length);
    let hd = HEADS * HEAD_DIM;
    let like = |b: &mut Builder, name: &str, id: TensorId| {
        let shape = b.shape(id);
        b.input(name, shape)
    };
    let [dw_bias, dr_bias, ds_bias] = ["dw", "dr", "ds"].map(|name| Some(Target::set(b.output(name, [hd]))));
    let dseg_embed = Some(Target::set(b.output("dseg", [2 * hd])));
    let dout = forward.q.map(|q| like(b, "dout", q));
    let query =
        forward.query.map(|s| QueryStreamGrad { dout: like(b, "query dout", s.q), dq: like(b, "query dq", s.q) });
    let relative = forward.relative.map(|r| RelativeTermsGrad { dr: like(b, "dr", r.r), dw_bias, dr_bias });
    let segment = Some(SegmentTermsGrad { ds_bias, dseg_embed });
    let dq = forward.q.map(|q| like(b, "dq", q));
    let (dk, dv) = (like(b, "dk", forward.k), like(b, "dv", forward.v));
    RelAttentionGrad { forward, dout, dq, query, dk, dv, relative, segment }.into()
}

/// Label and the op with its tensors.
type Case = (&'static str, fn(&mut Builder) -> Op);

const CASES: &[Case] = &[
    ("fill 32000x768", |b| Fill { out: b.output("out", [VOCABULARY, WIDTH]), value: 0.0 }.into()),
    ("copy_blocks memory and segment, 8 x 128x768", |b| {
        let (src, dst) = (b.input("src", [ROWS, WIDTH]), Target::set(b.output("dst", [2 * ROWS, WIDTH])));
        let length = 128 * WIDTH;
        let (src_stride, dst_stride) = (length, 2 * length);
        CopyBlocks { src, src_offset: 0, src_stride, dst, dst_offset: length, dst_stride, blocks: 8, length }.into()
    }),
    ("gather_rows 1024 of 32000x768", |b| {
        let (table, out) = (b.param("table", [VOCABULARY, WIDTH]), b.output("out", [ROWS, WIDTH]));
        GatherRows { table, ids: ids(b, "ids", ROWS), out }.into()
    }),
    ("gather_rows_grad 1024 of 32000x768, set", |b| {
        let (dout, dtable) = (b.input("dout", [ROWS, WIDTH]), Target::set(b.output("dtable", [VOCABULARY, WIDTH])));
        GatherRowsGrad { dout, ids: ids(b, "ids", ROWS), dtable }.into()
    }),
    ("gather_rows_grad 1024 of 32000x768, add", |b| {
        let (dout, dtable) =
            (b.input("dout", [ROWS, WIDTH]), b.tensor("d", [VOCABULARY, WIDTH], DType::F32, Role::Input));
        GatherRowsGrad { dout, ids: ids(b, "ids", ROWS), dtable: Target::add(dtable) }.into()
    }),
    ("mix_rows 1024x768", |b| {
        let (x, weight) = (Some(b.input("x", [ROWS, WIDTH])), Some(b.input("weight", [ROWS])));
        MixRows { x, row: b.param("row", [WIDTH]), weight, out: b.output("out", [ROWS, WIDTH]) }.into()
    }),
    ("mix_rows_grad 1024x768", |b| {
        let (dout, weight) = (b.input("dout", [ROWS, WIDTH]), Some(b.input("weight", [ROWS])));
        let (drow, dx) = (b.output("drow", [WIDTH]), b.output("dx", [ROWS, WIDTH]));
        MixRowsGrad { dout, weight, drow: Some(Target::set(drow)), dx: Some(Target::set(dx)) }.into()
    }),
    ("weighted_rows 8x128x768", |b| {
        let (x, weight) = (b.input("x", [8, 128, WIDTH]), b.input("weight", [8, 128]));
        WeightedRows { x, weight, out: b.output("out", [8, WIDTH]) }.into()
    }),
    ("weighted_rows_grad 8x128x768", |b| {
        let (x, weight, dout) =
            (b.input("x", [8, 128, WIDTH]), b.input("weight", [8, 128]), b.input("dout", [8, WIDTH]));
        let (dx, dweight) = (Target::set(b.output("dx", [8, 128, WIDTH])), Some(b.output("dweight", [8, 128])));
        WeightedRowsGrad { x, weight, dout, dx, dweight }.into()
    }),
    ("position_encoding 1x384x768", |b| {
        let out = b.output("out", [1, 384, WIDTH]);
        PositionEncoding { direction: None, out, keys: 256, clamp_len: None }.into()
    }),
    ("dropout 1024x768", |b| {
        let (x, out) = (b.input("x", [ROWS, WIDTH]), b.output("out", [ROWS, WIDTH]));
        Dropout { x, out, dropout: dropout(b, 8, ROWS / 8) }.into()
    }),
    ("matmul 1024x768x3072", |b| matmul(b, [ROWS, INNER, WIDTH], [false, false])),
    ("matmul 3072x768x1024, a transposed", |b| matmul(b, [INNER, WIDTH, ROWS], [true, false])),
    ("matmul 176x32000x768, b transposed", |b| matmul(b, [TARGETS, VOCABULARY, WIDTH], [false, true])),
    ("column_sum 1024x3072", |b| {
        ColumnSum { x: b.input("x", [ROWS, INNER]), out: Target::set(b.output("out", [INNER])) }.into()
    }),
    ("layer_norm 1024x768", |b| {
        let (x, residual) = (b.input("x", [ROWS, WIDTH]), Some(b.input("residual", [ROWS, WIDTH])));
        let (gamma, beta, out) = (b.param("gamma", [WIDTH]), b.param("beta", [WIDTH]), b.output("out", [ROWS, WIDTH]));
        let sum = Some(b.output("sum", [ROWS, WIDTH]));
        let [mean, rstd] = ["mean", "rstd"].map(|name| Some(b.output(name, [ROWS])));
        LayerNorm {
            x,
            residual,
            dropout: Some(dropout(b, 8, ROWS / 8)),
            gamma,
            beta,
            out,
            rounded: None,
            sum,
            mean,
            rstd,
            eps: 1e-12,
        }
        .into()
    }),
    ("layer_norm_grad 1024x768", |b| {
        let (dout, sum) = (b.input("dout", [ROWS, WIDTH]), b.input("sum", [ROWS, WIDTH]));
        let (mean, rstd, gamma) = (b.input("mean", [ROWS]), b.input("rstd", [ROWS]), b.param("gamma", [WIDTH]));
        let (dsum, dx) = (b.output("dsum", [ROWS, WIDTH]), Some(b.output("dx", [ROWS, WIDTH])));
        let [dgamma, dbeta] = ["dgamma", "dbeta"].map(|name| Some(Target::set(b.output(name, [WIDTH]))));
        LayerNormGrad { dout, sum, mean, rstd, gamma, dsum, dx, dropout: Some(dropout(b, 8, ROWS / 8)), dgamma, dbeta }
            .into()
    }),
    ("activation gelu 1024x3072", |b| {
        let (x, out) = (b.input("x", [ROWS, INNER]), b.output("out", [ROWS, INNER]));
        Activation { x, out, kind: ActivationKind::GeluTanh, dropout: Some(dropout(b, 8, ROWS / 8)) }.into()
    }),
    ("activation_grad gelu 1024x3072", |b| {
        let (x, dout, dx) =
            (b.input("x", [ROWS, INNER]), b.input("dout", [ROWS, INNER]), b.output("dx", [ROWS, INNER]));
        ActivationGrad { x, dout, dx, kind: ActivationKind::GeluTanh, dropout: Some(dropout(b, 8, ROWS / 8)) }.into()
    }),
    ("rel_attention 8x128, memory 128", |b| attention(b, 8, 128).into()),
    ("rel_attention_grad 8x128, memory 128", |b| attention_grad(b, 8, 128)),
    ("rel_attention 2x512, memory 512", |b| attention(b, 2, 512).into()),
    ("rel_attention_grad 2x512, memory 512", |b| attention_grad(b, 2, 512)),
    ("softmax 176x32000", |b| {
        let (x, out) = (b.input("x", [TARGETS, VOCABULARY]), b.output("out", [TARGETS, VOCABULARY]));
        Softmax { x, hidden: None, out, log: false }.into()
    }),
    ("softmax_grad 176x32000", |b| {
        let (y, dy) = (b.input("y", [TARGETS, VOCABULARY]), b.input("dy", [TARGETS, VOCABULARY]));
        SoftmaxGrad { y, dy, hidden: None, dx: Target::set(b.output("dx", [TARGETS, VOCABULARY])) }.into()
    }),
    ("softmax_cross_entropy 176x32000", |b| {
        let (logits, labels) = (b.input("logits", [TARGETS, VOCABULARY]), ids(b, "labels", TARGETS));
        let (weights, loss) = (b.input("weights", [TARGETS]), Target::set(b.output("loss", [1])));
        let dlogits = Some(b.output("dlogits", [TARGETS, VOCABULARY]));
        SoftmaxCrossEntropy { logits, hidden: None, labels, weights, loss, row_loss: None, dlogits }.into()
    }),
    ("element_loss 1024", |b| {
        let [x, labels, weights] = ["x", "labels", "weights"].map(|name| b.input(name, [ROWS]));
        let (loss, dx) = (Target::set(b.output("loss", [1])), Some(b.output("dx", [ROWS])));
        ElementLoss { kind: ElementLossKind::SquaredError, x, labels, weights, loss, row_loss: None, dx }.into()
    }),
    ("square_norm 3072x768", |b| {
        SquareNorm { x: b.input("x", [INNER, WIDTH]), out: Target::set(b.output("out", [1])) }.into()
    }),
    ("adam 3072x768", |b| {
        let [param, grad, m, v] = ["param", "grad", "m", "v"].map(|name| b.param(name, [INNER, WIDTH]));
        let (square_norm, hyper) = (b.input("square_norm", [1]), b.input("hyper", [Adam::HYPER_LEN]));
        Adam { param, grad, m, v, square_norm, hyper, decays: true, grad_scale: 1.0, lr_scale: 1.0 }.into()
    }),
];

/// Fills every tensor with plain values: floats in [-1, 1], ids 0 to 99, ranks and positions within a segment.
fn fill(executor: &mut dyn xlnet::backend::Executor) -> anyhow::Result<()> {
    let program = executor.program().clone();
    for (id, desc) in program.iter() {
        let n = desc.shape.len();
        match desc.dtype {
            DType::U32 => executor.upload_u32(id, &vec![7; n])?,
            DType::I32 => executor.upload_i32(id, &(0..n).map(|i| (i * 7919 % 100) as i32).collect::<Vec<_>>())?,
            // Moments, deviations and the like must not be negative.
            _ => executor.upload_f32(id, &(0..n).map(|i| (i * 7919 % 1009) as f32 / 1009.0).collect::<Vec<_>>())?,
        }
    }
    Ok(())
}

fn device() -> Device {
    let named = std::env::var("XLNET_DEVICE").map_or(Ok(Device::Cpu), |name| name.parse::<Device>());
    named.unwrap_or_else(|error| panic!("XLNET_DEVICE: {error}"))
}

/// GFLOP/s and GB/s of the data sheet.
fn limits() -> Option<[f64; 2]> {
    let text = std::env::var("XLNET_LIMITS").ok()?;
    let numbers: Vec<f64> = text.split(',').map(|n| n.trim().parse()).collect::<Result<_, _>>().unwrap_or_default();
    Some(<[f64; 2]>::try_from(numbers).unwrap_or_else(|_| panic!("XLNET_LIMITS: GFLOP/s,GB/s, not {text}")))
}

/// Mean time of the op by the device's clock.
fn device_time(executor: &mut dyn xlnet::backend::Executor) -> Option<Duration> {
    executor.profile(true);
    for _ in 0..3 {
        executor.run(0..1).ok()?;
    }
    let times = executor.profile(false);
    times.first().map(|time| time.time / time.runs.max(1) as u32)
}

fn ops(c: &mut Criterion) {
    let (device, limits) = (device(), limits());
    for &(label, op) in CASES {
        let mut best = None::<Duration>;
        let mut b = Builder::new(DType::F32);
        let op = op(&mut b);
        let run = (|| {
            b.push(op.clone())?;
            let mut executor = device.open(Arc::new(b.finish()?))?;
            fill(&mut *executor)?;
            anyhow::Ok(executor)
        })();
        let mut executor = match run {
            Ok(executor) => executor,
            Err(error) => {
                println!("{label}: not on {device}: {error}");
                continue;
            }
        };
        c.bench_function(label, |bencher| {
            bencher.iter_custom(|runs| {
                let start = Instant::now();
                for _ in 0..runs {
                    let start = Instant::now();
                    if let Err(error) = black_box(&mut executor).run(0..1).and_then(|()| executor.sync()) {
                        panic!("{label}: {error}");
                    }
                    best = Some(best.map_or(start.elapsed(), |best| best.min(start.elapsed())));
                }
                start.elapsed()
            });
        });
        if let Some(best) = best {
            let cost = op.cost(&executor.program().tensors);
            let host = best.as_secs_f64();
            let s = device_time(&mut *executor).map_or(host, |time| time.as_secs_f64().min(host));
            let (gb, gflop) = (cost.bytes as f64 / s / 1e9, cost.flops as f64 / s / 1e9);
            let share = limits.map(|[flops, bytes]| format!(" {:>5.1} %", 100.0 * (gflop / flops).max(gb / bytes)));
            let (host, s, share) = (host * 1e3, s * 1e3, share.unwrap_or_default());
            println!(
                "{label:<48} {device} {host:>10.3} ms, on the device {s:>10.3} ms {gb:>8.1} GB/s {gflop:>8.1} GFLOP/s{share}\n"
            );
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(300));
    targets = ops
}
criterion_main!(benches);
