// Scores of a tile of 8 rows and 64 keys, an invocation a key; needs q_content (and q_position) in work group memory.

// First word of the bits of row m.
fn bits_of(b: u32, m: u32) -> u32 {
  return at.work + p.hidden + (b * p.rows + m) * 2u * ((p.keys + 31u) / 32u);
}
fn is_hidden(bits: u32, j: u32) -> bool {
  return ((work[bits + j / 32u] >> (j % 32u)) & 1u) == 1u;
}
fn is_other(bits: u32, j: u32) -> bool {
  return ((work[bits + (p.keys + 31u) / 32u + j / 32u] >> (j % 32u)) & 1u) == 1u;
}
// Scaled score of row m and key j, the dot products given.
fn score(products: f32, b: u32, h: u32, m: u32, j: u32) -> f32 {
  let bits = bits_of(b, m);
  if is_hidden(bits, j) {
    return HIDDEN;
  }
  var s = products * p.scale;
  if p.segments == 1u {
    let term = at.work + p.scores + ((b * p.heads + h) * p.rows + m) * 2u;
    s += bitcast<f32>(work[term + select(0u, 1u, is_other(bits, j))]);
  }
  return s;
}
// Probability of a score, from the logarithm of the row's denominator. Where all keys are hidden that is the hidden
// score itself, in which the number of keys is lost.
fn probability(s: f32, lse: f32) -> f32 {
  return select(exp_f32(s - lse), 1.0 / f32(p.keys), lse < 0.5 * HIDDEN);
}
// The 8 decisions on keys 8 block to 8 block + 7 of row m.
fn decisions(block: u32, m: u32, b: u32, h: u32) -> vec4u {
  return philox(vec4u(block, m, b * p.heads + h, p.site), vec2u(key[at.key], key[at.key + 1u]));
}
// Factor of the probability of key j.
fn factor(words: vec4u, j: u32) -> f32 {
  return select(0.0, p.keep, keeps(words, j % 8u, p.threshold));
}
