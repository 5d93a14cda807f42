// Numbers as memory of type T holds them.
//% if dtype == "f16"
//% include "lib/half.wgsl"

fn stored(x: f32) -> T {
  return T(to_half(x));
}
fn stored_4(x: vec4f) -> vec4<T> {
  return vec4<T>(to_half_4(x));
}
//% else
fn stored(x: f32) -> T {
  return x;
}
fn stored_4(x: vec4f) -> vec4f {
  return x;
}
//% endif
