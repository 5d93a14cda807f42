//# computes   out[g, t] = [sin(p w_i).., cos(p w_i)..], p = clip(s_g (N - t)), w_i = 10000^(-2i/d)
//# parallel   an invocation owns one pair (i, i + d/2) of all rows of a block
//# keys       dtype = f32, directed = flag, wg = 64
//# buffers    direction, out
//# launch     [ceil(d / 2 / wg), ceil(P / block), G]
//# numerics   angles as 64-bit fractions of a turn, exact to 1e-15; sin and cos by polynomials, 1e-7
//# history    1: first version
//% include "lib/dtype.wgsl"

struct Params {
  positions: u32,  // P
  d: u32,
  keys: u32,       // N
  clamp_len: u32,  // largest distance
  block: u32,      // rows of a block
  turn_high: u32,  // 1 / (2 pi) in units of 2^-64
  turn_low: u32,
  ratio_high: u32, // 10000^(-2/d) in units of 2^-64
  ratio_low: u32,
}
struct At { direction: u32, out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
//% if directed
@group(0) @binding(0) var<storage, read_write> direction: array<i32>; // [G]
//% endif
@group(0) @binding(1) var<storage, read_write> out: array<T>;         // [G, P, d]

//% include "lib/wide.wgsl"

const QUARTER: f32 = 1.4629181e-9; // 2 pi / 2^32

// sin and cos of a fraction of a turn in units of 2^-32.
fn sin_cos(turn: u32) -> vec2f {
  let quadrant = (turn + 0x20000000u) >> 30u;
  let x = f32(bitcast<i32>(turn - (quadrant << 30u))) * QUARTER; // within pi/4 of 0
  let z = x * x;
  let s = fma(fma(fma(-1.9515296e-4, z, 8.332161e-3), z, -0.16666655) * z, x, x);
  let c = fma(fma(fma(2.4433157e-5, z, -1.3887316e-3), z, 4.1666646e-2) * z, z, fma(-0.5, z, 1.0));
  let q = quadrant & 3u;
  let value = select(vec2f(s, c), vec2f(c, s), (q & 1u) != 0u);
  return vec2f(select(value.x, -value.x, q >= 2u), select(value.y, -value.y, q == 1u || q == 2u));
}

@compute @workgroup_size(${wg})
fn position_encoding(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let half = p.d / 2u;
  let i = group.x * ${wg}u + lane;
  if i >= half {
    return;
  }
  let g = group.z;
//% if directed
  let backward = direction[at.direction + g] != 0;
//% else
  let backward = groups.z == 2u && g == 1u;
//% endif
  // w_i / (2 pi): the ratio to the power i by squaring.
  var w = vec2u(p.turn_low, p.turn_high);
  var square = vec2u(p.ratio_low, p.ratio_high);
  for (var power = i; power != 0u; power >>= 1u) {
    if (power & 1u) != 0u {
      w = multiply_fractions(w, square);
    }
    square = multiply_fractions(square, square);
  }
  let end = min((group.y + 1u) * p.block, p.positions);
  for (var t = group.y * p.block; t < end; t++) {
    let distance = i32(p.keys) - i32(t);
    let size = min(u32(abs(distance)), p.clamp_len);
    let turn = multiply_high(w.x, size) + w.y * size; // whole turns drop out
    let value = sin_cos(turn);
    let s = select(value.x, -value.x, (distance < 0) != backward);
    let row = at.out + (g * p.positions + t) * p.d;
    out[row + i] = T(s);
    out[row + half + i] = T(value.y);
  }
}
