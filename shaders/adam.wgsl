//# computes   g = grad * rescale * grad_scale * clip / max(rescale |grad|, clip); m = beta1 m + (1 - beta1) g;
//#            v = beta2 v + (1 - beta2) g^2; param -= lr * lr_scale * (m / (sqrt(v) + eps) + weight_decay * param)
//# parallel   an invocation owns one element
//# keys       dtype = f32, decays = flag, wg = 256
//# buffers    param, grad, m, v, square_norm, hyper
//# launch     flat, ceil(n / wg) work groups
//# numerics   f32; every element alone
//# history    1: first version; 2: gradients of a scaled loss
//% include "lib/dtype.wgsl"

struct Params {
  n: u32,          // elements
  grad_scale: f32,
  lr_scale: f32,
}
struct At { param: u32, grad: u32, m: u32, v: u32, square_norm: u32, hyper: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> param: array<T>;       // [n]
@group(0) @binding(1) var<storage, read_write> grad: array<T>;        // [n]
@group(0) @binding(2) var<storage, read_write> m: array<T>;           // [n]
@group(0) @binding(3) var<storage, read_write> v: array<T>;           // [n]
@group(0) @binding(4) var<storage, read_write> square_norm: array<T>; // [1]
@group(0) @binding(5) var<storage, read_write> hyper: array<T>;       // [7]

//% include "lib/flat.wgsl"

@compute @workgroup_size(${wg})
fn adam(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * ${wg}u + lane;
  if i >= p.n {
    return;
  }
  let norm2 = f32(square_norm[at.square_norm]);
  // No finite number: the exponent is full. (Comparisons with NaN are not reliable in WGSL.)
  if (bitcast<u32>(norm2) & 0x7f800000u) == 0x7f800000u {
    return;
  }
  let lr = f32(hyper[at.hyper]);
  let clip = f32(hyper[at.hyper + 1u]);
  let beta1 = f32(hyper[at.hyper + 2u]);
  let beta2 = f32(hyper[at.hyper + 3u]);
  let eps = f32(hyper[at.hyper + 4u]);
  let rescale = f32(hyper[at.hyper + 6u]);
  var factor = p.grad_scale * rescale;
  if clip > 0.0 {
    factor *= clip / max(rescale * sqrt(norm2), clip);
  }
  let g = f32(grad[at.grad + i]) * factor;
  let first = fma(beta1, f32(m[at.m + i]), (1.0 - beta1) * g);
  let second = fma(beta2, f32(v[at.v + i]), (1.0 - beta2) * g * g);
  let old = f32(param[at.param + i]);
  var change = first / (sqrt(second) + eps);
//% if decays
  change = fma(f32(hyper[at.hyper + 5u]), old, change);
//% endif
  m[at.m + i] = T(first);
  v[at.v + i] = T(second);
  param[at.param + i] = T(old - lr * p.lr_scale * change);
}
