//# computes   sums[block, h, d] = sum over the rows of a block of weight[h, row] * x, x = source[row, h, d] + bias[h, d] or seg_embed[1] - seg_embed[0]
//# parallel   an invocation owns one column of one block of rows
//# keys       dtype = f32|f16, source = rows|biased|segments, wg = 64
//# buffers    x, bias, work
//# launch     [ceil(H D / wg), blocks]
//# numerics   sums in f32 in ascending order, block by block: deterministic
//# history    1: first version; tensors in f16
//% include "lib/dtype.wgsl"

struct Params {
  rows: u32,    // A R
  length: u32,  // R, rows that share a weight vector of one head
  heads: u32,   // H
  d: u32,       // D
  block: u32,   // rows of a block
  weights: u32, // [A, H, R] f32, first word in work
  sums: u32,    // [blocks, H, D] f32, first word in work
}
struct At { x: u32, bias: u32, work: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> x: array<T>;    // [A, R, H, D], or seg_embed [2, H, D]
//% if source == "biased"
@group(0) @binding(1) var<storage, read_write> bias: array<T>; // [H, D]
//% endif
@group(0) @binding(2) var<storage, read_write> work: array<u32>;

@compute @workgroup_size(${wg})
fn rel_attention_grad_bias(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let column = group.x * ${wg}u + lane;
  let n = p.heads * p.d;
  if column >= n {
    return;
  }
  let h = column / p.d;
//% if source == "biased"
  let add = f32(bias[at.bias + column]);
//% elif source == "segments"
  let difference = f32(x[at.x + n + column]) - f32(x[at.x + column]);
//% endif
  var sum = 0.0;
  let end = min((group.y + 1u) * p.block, p.rows);
  for (var row = group.y * p.block; row < end; row++) {
    let weight = bitcast<f32>(work[at.work + p.weights + (row / p.length * p.heads + h) * p.length + row % p.length]);
    // Padded targets have weight 0, whatever their row holds.
    if weight != 0.0 {
//% if source == "rows"
      sum = fma(weight, f32(x[at.x + row * n + column]), sum);
//% elif source == "biased"
      sum = fma(weight, f32(x[at.x + row * n + column]) + add, sum);
//% else
      sum = fma(weight, difference, sum);
//% endif
    }
  }
  work[at.work + p.sums + group.y * n + column] = bitcast<u32>(sum);
}
