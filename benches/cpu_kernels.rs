//! Arithmetic of the CPU backend, against what the machine can do.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use xlnet::backend::cpu::matmul::{Matmul, matmul, workspace_len};
use xlnet::backend::cpu::rel_attention::{self, Dropout, Inputs, Mask, Outputs, Query, Relative, Segments, Sizes};
use xlnet::backend::cpu::rel_attention_grad::{self, Gradients, ParamGrad, Saved};
use xlnet::backend::cpu::{real::Real, tile, vector};
use xlnet::op::philox::Keep;

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect()
}

/// Row functions: elements per second.
fn rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("row");
    let x = numbers(512);
    let mut y = vec![0f32; 512];
    group.throughput(Throughput::Elements(512));
    let keep = Keep::new([1, 2], 0.1).expect("a valid rate");
    group.bench_function("keep", |b| {
        b.iter(|| {
            vector::vectorize(
                #[inline(always)]
                || keep.row([1, 2, 3], 0, 1.1, &mut y),
            )
        });
    });
    for (name, f) in [("exp", 0), ("tanh", 1), ("erf", 2)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                vector::vectorize(
                    #[inline(always)]
                    || match f {
                        0 => y.iter_mut().zip(&x).for_each(|(y, &x)| *y = Real::exp(x)),
                        1 => y.iter_mut().zip(&x).for_each(|(y, &x)| *y = Real::tanh(x)),
                        _ => y.iter_mut().zip(&x).for_each(|(y, &x)| *y = Real::erf(x)),
                    },
                )
            });
        });
    }
    group.bench_function("dot", |b| {
        b.iter(|| {
            vector::vectorize(
                #[inline(always)]
                || vector::dot(black_box(&x), &y),
            )
        });
    });
    group.bench_function("sum", |b| {
        b.iter(|| {
            vector::vectorize(
                #[inline(always)]
                || vector::sum(black_box(&x)),
            )
        });
    });
    group.finish();
}

/// The tile products of attention at 512 keys and head dimension 64, one thread; FLOP/s as elements per second.
fn tiles(c: &mut Criterion) {
    let mut group = c.benchmark_group("tile");
    let (m, d, n) = (48, 64, 512);
    group.throughput(Throughput::Elements(2 * (m * d * n) as u64));
    let (keys, stride) = (numbers(n * d), tile::row_stride(n));
    let mut packed = vec![0f32; tile::packed_len(n, d)];
    tile::pack_transposed(&mut packed, &keys, d, n, d);
    let (queries, mut scores, mut out, mut dk) =
        (numbers(m * d), vec![0f32; m * stride], vec![0f32; m * d], vec![0f32; n * d]);
    group.bench_function(BenchmarkId::new("q k^T", "48x64x512"), |b| {
        b.iter(|| {
            tile::multiply(
                &mut scores,
                stride,
                tile::Left::Rows(&queries, d),
                tile::Right::packed(&packed, d, 0),
                [m, d, n],
                false,
            )
        });
    });
    group.bench_function(BenchmarkId::new("p v", "48x512x64"), |b| {
        b.iter(|| {
            tile::multiply(
                &mut out,
                d,
                tile::Left::Rows(&scores, stride),
                tile::Right::rows(&keys, d),
                [m, n, d],
                false,
            )
        });
    });
    group.bench_function(BenchmarkId::new("p^T dout", "512x48x64"), |b| {
        b.iter(|| {
            tile::multiply(
                &mut dk,
                d,
                tile::Left::Columns(&scores, stride),
                tile::Right::rows(&queries, d),
                [n, m, d],
                true,
            )
        });
    });
    group.bench_function("pack k^T", |b| b.iter(|| tile::pack_transposed(&mut packed, black_box(&keys), d, n, d)));
    group.finish();
}

/// The plain products of a Base layer at 1024 rows, and the LM head; all threads.
fn matmuls(c: &mut Criterion) {
    let mut group = c.benchmark_group("matmul");
    group.sample_size(10);
    for (name, m, k, n, trans_a, trans_b) in [
        ("up", 1024, 768, 3072, false, false),
        ("down", 1024, 3072, 768, false, false),
        ("dx", 1024, 3072, 768, false, true),
        ("dw", 768, 1024, 3072, true, false),
        ("projection", 1024, 768, 768, false, false),
        ("lm_head", 64, 768, 32000, false, true),
    ] {
        let (a, b, mut out) = (numbers(m * k), numbers(k * n), vec![0f32; m * n]);
        let sizes = Matmul { m, n, k, trans_a, trans_b, accumulate: false };
        let mut space = vec![0f32; workspace_len::<f32>(&sizes, rayon::current_num_threads())];
        group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
        group.bench_function(BenchmarkId::new(name, format!("{m}x{k}x{n}")), |bench| {
            bench.iter(|| matmul(&mut out, &a, &b, None, &sizes, &mut space));
        });
    }
    group.finish();
}

/// Attention of XLNet-Base with segments, padding mask and dropout, all threads; FLOP/s as elements per second, the
/// band of the position term counted without waste.
fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("rel_attention");
    group.sample_size(10);
    for (batch, rows, memory, query_rows) in [(8, 128, 0, 0), (4, 512, 0, 0), (2, 512, 384, 85)] {
        let sizes = Sizes { batch, heads: 12, head_dim: 64, rows, memory, query_rows, groups: 1 };
        let hd = 12 * 64;
        let x = numbers(batch * rows * hd);
        let (kv, g) = (numbers(batch * sizes.keys() * hd), numbers(batch * query_rows * hd));
        let positions: Vec<i32> = (0..batch * query_rows).map(|t| (t % query_rows * 6) as i32).collect();
        let (r, bias) = (numbers(sizes.positions() * hd), numbers(2 * hd));
        let ids: Vec<i32> = (0..batch * rows).map(|i| (i / 50 % 2) as i32).collect();
        let padding: Vec<i32> = (0..batch * rows).map(|i| i32::from(i % rows < 9)).collect();
        let batch_rows: Vec<u32> = (0..batch as u32).collect();
        let inputs = Inputs {
            content: Some(&x),
            query: (query_rows > 0).then_some(Query { q: &g, positions: &positions }),
            k: &kv,
            v: &kv,
            relative: Some(Relative { r: &r, group: None, w_bias: &bias[..hd], r_bias: &bias[..hd] }),
            segments: Some(Segments { s_bias: &bias[..hd], seg_embed: &bias, ids: &ids }),
            mask: Mask::Padding(&padding),
            causal: false,
            same_length: false,
            scale: 0.125,
            dropout: Some(Dropout {
                keep: Keep::new([1, 2], 0.1).expect("a valid rate"),
                batch_rows: &batch_rows,
                content_site: 1,
                query_site: 2,
            }),
        };
        let threads = rayon::current_num_threads();
        let (mut out, mut lse) = (vec![0f32; x.len()], vec![0f32; x.len() / 64]);
        let (mut query_out, mut query_lse) = (vec![0f32; g.len()], vec![0f32; g.len() / 64]);
        let mut space = vec![0f32; rel_attention::workspace_len(&sizes, threads)];
        let products = (batch * 12 * (rows + query_rows) * sizes.keys() * 64) as u64;
        let label = format!("{batch}x{rows}+{memory}+{query_rows}");
        group.throughput(Throughput::Elements(6 * products));
        group.bench_function(BenchmarkId::new("forward", &label), |b| {
            b.iter(|| {
                let mut outputs =
                    Outputs { out: &mut out, lse: &mut lse, query_out: &mut query_out, query_lse: &mut query_lse };
                rel_attention::forward(&sizes, &inputs, &mut outputs, &mut space).expect("right lengths");
            });
        });
        let mut space = vec![0f32; rel_attention_grad::workspace_len(&sizes, threads)];
        let [mut dq, mut query_dq, mut dk, mut dv] = [&x, &g, &kv, &kv].map(|like| vec![0f32; like.len()]);
        let mut dr = vec![0f32; r.len()];
        let [mut dw, mut drb, mut ds, mut de] = [1, 1, 1, 2].map(|n| vec![0f32; n * hd]);
        group.throughput(Throughput::Elements(16 * products));
        group.bench_function(BenchmarkId::new("backward", &label), |b| {
            b.iter(|| {
                let saved = Saved {
                    out: &out,
                    lse: &lse,
                    dout: &x,
                    query_out: &query_out,
                    query_lse: &query_lse,
                    query_dout: &g,
                };
                let mut gradients = Gradients {
                    dq: &mut dq,
                    query_dq: &mut query_dq,
                    dk: &mut dk,
                    dv: &mut dv,
                    dr: &mut dr,
                    dw_bias: ParamGrad { data: &mut dw, accumulate: false },
                    dr_bias: ParamGrad { data: &mut drb, accumulate: false },
                    ds_bias: ParamGrad { data: &mut ds, accumulate: false },
                    dseg_embed: ParamGrad { data: &mut de, accumulate: false },
                };
                rel_attention_grad::backward(&sizes, &inputs, &saved, &mut gradients, &mut space)
                    .expect("right lengths");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, rows, tiles, matmuls, attention);
criterion_main!(benches);
