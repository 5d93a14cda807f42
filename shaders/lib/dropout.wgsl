// Philox4x32-7, the bits of src/op/philox.rs: a block of four words is a function of counter and key alone.

//% include "lib/wide.wgsl"

fn philox(start: vec4u, start_key: vec2u) -> vec4u {
  var c = start;
  var k = start_key;
  for (var round = 0u; round < 7u; round++) {
    let first = vec2u(multiply_high(0xD2511F53u, c.x), 0xD2511F53u * c.x);
    let second = vec2u(multiply_high(0xCD9E8D57u, c.z), 0xCD9E8D57u * c.z);
    c = vec4u(second.x ^ c.y ^ k.x, second.y, first.x ^ c.w ^ k.y, first.y);
    k += vec2u(0x9E3779B9u, 0xBB67AE85u);
  }
  return c;
}

// Decision `e` of 8 in a block: 16 bits, the low half of a word first.
fn keeps(words: vec4u, e: u32, threshold: u32) -> bool {
  return ((words[e / 2u] >> (16u * (e % 2u))) & 0xffffu) >= threshold;
}
