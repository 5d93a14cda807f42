//# computes   dgamma[b, c] = sum over the rows r of block b of dout * (sum - mean) * rstd; dbeta[b, c] likewise of dout
//# parallel   an invocation owns one column of one block of rows
//# keys       dtype = f32, wg = 64
//# buffers    dout, sum, mean, rstd, partial_sums
//# launch     [ceil(d / wg), blocks]; before layer_norm_grad, which may overwrite dout, and two of column_sum
//# numerics   sums in f32 in ascending order, block by block: deterministic
//# history    1: first version
//% include "lib/dtype.wgsl"

struct Params {
  rows: u32,  // R
  d: u32,     // row length
  block: u32, // rows of a block
}
struct At { dout: u32, sum: u32, mean: u32, rstd: u32, partial_sums: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> dout: array<T>;           // [R, d]
@group(0) @binding(1) var<storage, read_write> sum: array<T>;            // [R, d]
@group(0) @binding(2) var<storage, read_write> mean: array<T>;           // [R]
@group(0) @binding(3) var<storage, read_write> rstd: array<T>;           // [R]
@group(0) @binding(4) var<storage, read_write> partial_sums: array<f32>; // [2, blocks, d], dgamma first

@compute @workgroup_size(${wg})
fn layer_norm_grad_columns(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let c = group.x * ${wg}u + lane;
  if c >= p.d {
    return;
  }
  let end = min((group.y + 1u) * p.block, p.rows);
  var dgamma = 0.0;
  var dbeta = 0.0;
  for (var r = group.y * p.block; r < end; r++) {
    let d = f32(dout[at.dout + r * p.d + c]);
    let normed = (f32(sum[at.sum + r * p.d + c]) - f32(mean[at.mean + r])) * f32(rstd[at.rstd + r]);
    dgamma = fma(d, normed, dgamma);
    dbeta += d;
  }
  let to = at.partial_sums + group.y * p.d + c;
  partial_sums[to] = dgamma;
  partial_sums[to + groups.y * p.d] = dbeta;
}
