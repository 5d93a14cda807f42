//# computes   out = x * mask * scale
//# parallel   an invocation owns 8 consecutive elements of a row, those of one Philox block
//# keys       dtype = f32, wg = 64
//# buffers    x, key, out
//# launch     flat, ceil(R ceil(d / 8) / wg) work groups
//# numerics   one product in f32
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
@group(0) @binding(1) var<storage, read_write> key: array<u32>; // [2 + B]
@group(0) @binding(2) var<storage, read_write> out: array<T>;   // [R, d]

//% include "lib/flat.wgsl"
//% include "lib/dropout_rows.wgsl"

@compute @workgroup_size(${wg})
fn dropout(
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
  let words = row_block(block, place_of(r));
  let end = min(8u, p.d - block * 8u);
  for (var e = 0u; e < end; e++) {
    let i = r * p.d + block * 8u + e;
    out[at.out + i] = T(f32(x[at.x + i]) * select(0.0, p.scale, keeps(words, e, p.threshold)));
  }
}
