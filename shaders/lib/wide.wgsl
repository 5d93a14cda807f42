// Arithmetic on 64 bits, low word first.

// High half of a 64-bit product, by 16-bit digits.
fn multiply_high(a: u32, b: u32) -> u32 {
  let al = a & 0xffffu;
  let ah = a >> 16u;
  let bl = b & 0xffffu;
  let bh = b >> 16u;
  let low = al * bl;
  let middle = ah * bl + (low >> 16u); // at most 0xfffe0001 + 0xfffe: fits
  let cross = al * bh + (middle & 0xffffu);
  return ah * bh + (middle >> 16u) + (cross >> 16u);
}

// Product of two fractions in units of 2^-64, cut off.
fn multiply_fractions(a: vec2u, b: vec2u) -> vec2u {
  let first = a.y * b.x;
  let second = a.x * b.y;
  let third = multiply_high(a.x, b.x);
  // Carry out of bit 64 of the lowest three parts.
  let sum = first + second;
  let total = sum + third;
  let carry = select(0u, 1u, sum < first) + select(0u, 1u, total < sum);
  let high = a.y * b.y;
  let add = vec3u(multiply_high(a.y, b.x), multiply_high(a.x, b.y), carry);
  var low = high;
  var top = multiply_high(a.y, b.y);
  low += add.x;
  top += select(0u, 1u, low < add.x);
  low += add.y;
  top += select(0u, 1u, low < add.y);
  low += add.z;
  top += select(0u, 1u, low < add.z);
  return vec2u(low, top);
}
