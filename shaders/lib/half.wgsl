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
