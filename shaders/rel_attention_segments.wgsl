//# computes   scores[b, h, i, s] = scale * (q_i + s_bias) . seg_embed[s]
//# parallel   an invocation owns one row of one head
//# keys       dtype = f32|f16, wg = 64
//# buffers    q, s_bias, seg_embed, work
//# launch     flat, ceil(B H rows / wg) work groups
//# numerics   sums in f32 in blocks of 16
//# history    1: first version; tensors in f16
//% include "lib/dtype.wgsl"

//% include "lib/rel_attention.wgsl"
struct At { q: u32, s_bias: u32, seg_embed: u32, work: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> q: array<T>;         // [B, rows, H, D]
@group(0) @binding(1) var<storage, read_write> s_bias: array<T>;    // [H, D]
@group(0) @binding(2) var<storage, read_write> seg_embed: array<T>; // [2, H, D]
@group(0) @binding(3) var<storage, read_write> work: array<u32>;

//% include "lib/flat.wgsl"

@compute @workgroup_size(${wg})
fn rel_attention_segments(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let item = flat_group(group, groups) * ${wg}u + lane; // of [B, H, rows]
  if item >= p.batch * p.heads * p.rows {
    return;
  }
  let m = item % p.rows;
  let h = item / p.rows % p.heads;
  let b = item / p.rows / p.heads;
  let row = at.q + ((b * p.rows + m) * p.heads + h) * p.d;
  var same = 0.0;
  var other = 0.0;
  for (var c0 = 0u; c0 < p.d; c0 += 16u) {
    var block = vec2f(0.0);
    for (var c = c0; c < min(c0 + 16u, p.d); c++) {
      let x = f32(q[row + c]) + f32(s_bias[at.s_bias + h * p.d + c]);
      block.x = fma(x, f32(seg_embed[at.seg_embed + h * p.d + c]), block.x);
      block.y = fma(x, f32(seg_embed[at.seg_embed + (p.heads + h) * p.d + c]), block.y);
    }
    same += block.x;
    other += block.y;
  }
  let to = at.work + p.scores + item * 2u;
  work[to] = bitcast<u32>(same * p.scale);
  work[to + 1u] = bitcast<u32>(other * p.scale);
}
