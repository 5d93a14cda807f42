//# computes   out = src, rounded to the nearest number of half precision, ties to even
//# parallel   an invocation owns 4 consecutive elements
//# keys       dtype = f16, vec = flag, wg = 256
//# buffers    src, out
//# launch     flat, ceil(n / (4 wg)) work groups
//# numerics   every element alone; by integers, since WGSL leaves the rounding of f16() to the driver
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

// Bits of the nearest number of half precision.
fn half_bits(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let size = bits & 0x7fffffffu;
  let sign = (bits >> 16u) & 0x8000u;
  // Above 2^-14 the lowest 13 bits go; 65520 and more is infinity.
  var half = min((size + 0xfffu + ((size >> 13u) & 1u) - 0x38000000u) >> 13u, 0x7c00u);
  if size < 0x38800000u {
    // In units of 2^-24, which are the last bits of 0.5.
    half = bitcast<u32>(bitcast<f32>(size) + 0.5) - 0x3f000000u;
  }
  half = select(half, 0x7e00u, size > 0x7f800000u); // NaN
  return sign | half;
}

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
    let low = vec2<T>(unpack2x16float(half_bits(x.x) | (half_bits(x.y) << 16u)));
    let high = vec2<T>(unpack2x16float(half_bits(x.z) | (half_bits(x.w) << 16u)));
    out[(at.out + first) / 4u] = vec4<T>(low, high);
  }
//% else
  for (var i = first; i < min(first + 4u, p.n); i++) {
    out[at.out + i] = T(unpack2x16float(half_bits(src[at.src + i])).x);
  }
//% endif
}
