// tanh and erf to a few units in the last place: the built-in tanh overflows on some drivers, erf does not exist. NaN
// stays NaN. The same approximations as src/backend/cpu/real.rs.

fn tanh_f32(x: f32) -> f32 {
  let size = abs(x);
  let t = exp(-2.0 * size);
  let far = sign(x) * ((1.0 - t) / (1.0 + t));
  let z = x * x;
  let p = fma(z, fma(z, fma(z, fma(z, -5.7049887e-3, 2.063909e-2), -5.3739716e-2), 0.13331442), -0.3333328);
  return select(far, fma(p * z, x, x), size < 0.625);
}

fn erf_f32(x: f32) -> f32 {
  let size = abs(x);
  // Abramowitz and Stegun 7.1.26, error below 1.5e-7.
  let t = 1.0 / fma(0.3275911, size, 1.0);
  let p = fma(t, fma(t, fma(t, fma(t, 1.0614054, -1.453152), 1.4214137), -0.28449674), 0.2548296);
  let far = sign(x) * (1.0 - p * t * exp(-size * size));
  // An odd polynomial below 1, where 1 - ... would lose relative accuracy.
  let z = x * x;
  let low = fma(z, fma(z, fma(z, 7.853861e-5, -8.010194e-4), 5.1883277e-3), -2.6853812e-2);
  let q = fma(z, fma(z, fma(z, low, 0.11283585), -0.37612626), 1.1283792);
  return select(far, q * x, size < 1.0);
}
