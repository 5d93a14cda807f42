// A number as memory of type T holds it.
//% if dtype == "f16"
//% include "lib/half.wgsl"

fn stored(x: f32) -> T {
  return T(to_half(x));
}
//% else
fn stored(x: f32) -> T {
  return x;
}
//% endif
