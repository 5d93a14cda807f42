//# computes   out = src, rounded to the nearest number of half precision, ties to even
//# parallel   an invocation owns 4 consecutive elements
//# keys       dtype = f16, vec = flag, wg = 256
//# buffers    src, out
//# launch     flat, ceil(n / (4 wg)) work groups
//# numerics   every element alone; by bits, since WGSL leaves the rounding of f16() to the driver
//# history    1: first version; vec moves 4 elements at once; called cast_half since WGSL reserves the word cast
//% include "lib/dtype.wgsl"

struct Params {
  n: u32, // elements
}
struct At { src: u32, out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
//% if vec
@group(0) @binding(0) var<storage, read_write> src: array<vec4f>;   // [n]
@group(0) @binding(1) var<storage, read_write> out: array<vec4<T>>; // [n]
//% else
@group(0) @binding(0) var<storage, read_write> src: array<f32>;     // [n]
@group(0) @binding(1) var<storage, read_write> out: array<T>;       // [n]
//% endif

//% include "lib/flat.wgsl"
//% include "lib/half.wgsl"

@compute @workgroup_size(${wg})
fn cast_half(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = (flat_group(group, groups) * ${wg}u + lane) * 4u;
//% if vec
  if first + 3u < p.n {
    let x = src[(at.src + first) / 4u];
    out[(at.out + first) / 4u] = vec4<T>(to_half_4(x));
  }
//% else
  for (var i = first; i < min(first + 4u, p.n); i++) {
    out[at.out + i] = T(to_half(src[at.src + i]));
  }
//% endif
}
