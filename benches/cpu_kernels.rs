//! Arithmetic of the CPU backend, against what the machine can do.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
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
            vector::dispatch(
                #[inline(always)]
                || keep.row([1, 2, 3], 1.1, &mut y),
            )
        });
    });
    for (name, f) in [("exp", 0), ("tanh", 1), ("erf", 2)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                vector::dispatch(
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
            vector::dispatch(
                #[inline(always)]
                || vector::dot(black_box(&x), &y),
            )
        });
    });
    group.bench_function("sum", |b| {
        b.iter(|| {
            vector::dispatch(
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
    // SAFETY: the three matrices have the sizes and strides given.
    group.bench_function(BenchmarkId::new("q k^T", "matrixmultiply"), |b| {
        b.iter(|| unsafe {
            f32::gemm(
                [m, d, n],
                queries.as_ptr(),
                [d, 1],
                keys.as_ptr(),
                [1, d],
                0.0,
                scores.as_mut_ptr(),
                [stride, 1],
            );
        });
    });
    // SAFETY: as above.
    group.bench_function(BenchmarkId::new("p v", "matrixmultiply"), |b| {
        b.iter(|| unsafe {
            f32::gemm([m, n, d], scores.as_ptr(), [stride, 1], keys.as_ptr(), [d, 1], 0.0, out.as_mut_ptr(), [d, 1]);
        });
    });
    group.bench_function("pack k^T", |b| b.iter(|| tile::pack_transposed(&mut packed, black_box(&keys), d, n, d)));
    group.finish();
}

criterion_group!(benches, rows, tiles);
criterion_main!(benches);
