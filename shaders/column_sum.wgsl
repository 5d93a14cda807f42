//# computes   out[b, c] (=|+=) sum over the rows r of block b of weight[r] * x[r, c]
//# parallel   an invocation owns one column of one block of rows
//# keys       source = f32|f16, dtype = f32|f16, weighted = flag, add = flag, wg = 64
//# buffers    x, weight, out
//# launch     [ceil(n / wg), blocks]; over more rows than one block twice, by way of scratch in f32
//# numerics   sums in f32 in ascending order, block by block: deterministic
//# history    1: first version
//% if source == "f16" and dtype != "f16"
enable f16;
//% endif
//% include "lib/dtype.wgsl"
alias S = ${source}; // element type of x

struct Params {
  rows: u32,  // R
  n: u32,     // columns
  block: u32, // rows of a block
}
struct At { x: u32, weight: u32, out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> x: array<S>;      // [R, n]
//% if weighted
@group(0) @binding(1) var<storage, read_write> weight: array<S>; // [R]
//% endif
@group(0) @binding(2) var<storage, read_write> out: array<T>;    // [blocks, n]

@compute @workgroup_size(${wg})
fn column_sum(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let c = group.x * ${wg}u + lane;
  if c >= p.n {
    return;
  }
  let end = min((group.y + 1u) * p.block, p.rows);
  var sum = 0.0;
  for (var r = group.y * p.block; r < end; r++) {
    let value = f32(x[at.x + r * p.n + c]);
//% if weighted
    sum = fma(f32(weight[at.weight + r]), value, sum);
//% else
    sum += value;
//% endif
  }
  let to = at.out + group.y * p.n + c;
//% if add
  out[to] = T(f32(out[to]) + sum);
//% else
  out[to] = T(sum);
//% endif
}
