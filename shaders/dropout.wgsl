//# computes   out = x * mask * scale
//# parallel   an invocation owns 8 consecutive elements, those of one Philox block
//# keys       dtype = f32|f16, wg = 64
//# buffers    x, key, out
//# launch     flat, ceil(n / (8 wg)) work groups
//# numerics   one product in f32
//# history    1: first version
//% include "lib/dtype.wgsl"

struct Params {
  n: u32,         // elements
  site: u32,      // number of the dropout place
  threshold: u32, // 16 bits below this drop an element
  scale: f32,     // factor of kept elements
}
struct At { x: u32, key: u32, out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> x: array<T>;     // [n]
@group(0) @binding(1) var<storage, read_write> key: array<u32>; // [2]
@group(0) @binding(2) var<storage, read_write> out: array<T>;   // [n]

//% include "lib/flat.wgsl"
//% include "lib/dropout.wgsl"

@compute @workgroup_size(${wg})
fn dropout(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let block = flat_group(group, groups) * ${wg}u + lane;
  if block * 8u >= p.n {
    return;
  }
  let words = element_block(block, p.site, vec2u(key[at.key], key[at.key + 1u]));
  let end = min(8u, p.n - block * 8u);
  for (var e = 0u; e < end; e++) {
    let i = block * 8u + e;
    out[at.out + i] = T(f32(x[at.x + i]) * select(0.0, p.scale, keeps(words, e, p.threshold)));
  }
}
