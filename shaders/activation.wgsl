//# computes   out = dropout(f(x))
//# parallel   an invocation owns 8 consecutive elements of a row, those of one Philox block
//# keys       dtype = f32|f16, kind = gelu_tanh|gelu_erf|relu|tanh, dropout = flag, wg = 64
//# buffers    x, key, out
//# launch     flat, ceil(R ceil(d / 8) / wg) work groups
//# numerics   f32 inside; rounded once
//# history    1: first version; 2: dropout by row of the whole batch
//% include "lib/dtype.wgsl"

struct Params {
  rows: u32,      // R
  d: u32,         // row length
  site: u32,      // number of the dropout place
  threshold: u32, // 16 bits below this drop an element
  scale: f32,     // factor of kept elements
  lead: u32,      // rows of a batch row in the first part
  tail: u32,      // rows of a batch row in the second part
  split: u32,     // rows of the first part
}
struct At { x: u32, key: u32, out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> x: array<T>;     // [R, d]
//% if dropout
@group(0) @binding(1) var<storage, read_write> key: array<u32>; // [2 + B]
//% endif
@group(0) @binding(2) var<storage, read_write> out: array<T>;   // [R, d]

//% include "lib/flat.wgsl"
//% include "lib/stored.wgsl"
//% if dropout
//% include "lib/dropout_rows.wgsl"
//% endif
//% if kind != "relu"
//% include "lib/math.wgsl"
//% endif

fn f(x: f32) -> f32 {
//% if kind == "gelu_tanh"
  let u = 0.7978845608 * fma(x * x * 0.044715, x, x);
  return 0.5 * x * (1.0 + tanh_f32(u));
//% elif kind == "gelu_erf"
  return 0.5 * x * (1.0 + erf_f32(x * 0.7071067812));
//% elif kind == "relu"
  return select(x, 0.0, x < 0.0);
//% else
  return tanh_f32(x);
//% endif
}

@compute @workgroup_size(${wg})
fn activation(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let item = flat_group(group, groups) * ${wg}u + lane;
  let blocks = (p.d + 7u) / 8u;
  let r = item / blocks;
  let block = item % blocks;
  if r >= p.rows {
    return;
  }
//% if dropout
  let words = row_block(block, place_of(r));
//% endif
  let end = min(8u, p.d - block * 8u);
  for (var e = 0u; e < end; e++) {
    let i = r * p.d + block * 8u + e;
    var y = f(f32(x[at.x + i]));
//% if dropout
    y *= select(0.0, p.scale, keeps(words, e, p.threshold));
//% endif
    out[at.out + i] = stored(y);
  }
}
