enable f16;
alias T = f16; // element type of floating-point tensors in memory

struct Params {
  n: u32, // elements
}
struct At { src: u32, out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> src: array<vec4f>;   // [n]
@group(0) @binding(1) var<storage, read_write> out: array<vec4<T>>; // [n]

// Number of this work group in a grid that was folded to two dimensions, since each has at most 65535.
fn flat_group(group: vec3u, groups: vec3u) -> u32 {
  return group.x + group.y * groups.x;
}
// Rounding to half precision, ties to even, by bits: WGSL leaves that of f16() to the driver.

// The nearest number of half precision.
fn to_half(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  let size = bits & 0x7fffffffu;
  // The lowest 13 bits go; 65520 and more is infinity.
  var half = bitcast<f32>((size + 0xfffu + ((size >> 13u) & 1u)) & 0xffffe000u);
  if size >= 0x477ff000u {
    half = bitcast<f32>(max(size, 0x7f800000u)); // NaN stays one
  } else if size < 0x38800000u {
    // Below 2^-14 numbers are multiples of 2^-24, which are the last bits of 0.5.
    half = f32(bitcast<u32>(bitcast<f32>(size) + 0.5) - 0x3f000000u) * 5.9604645e-8;
  }
  return select(half, -half, (bits >> 31u) == 1u);
}
fn to_half_4(x: vec4f) -> vec4f {
  return vec4f(to_half(x.x), to_half(x.y), to_half(x.z), to_half(x.w));
}

@compute @workgroup_size(256)
fn cast_half(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = (flat_group(group, groups) * 256u + lane) * 4u;
  if first + 3u < p.n {
    let x = src[(at.src + first) / 4u];
    out[(at.out + first) / 4u] = vec4<T>(to_half_4(x));
  }
}
