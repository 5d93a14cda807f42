// Where the rows of a tensor stand in the whole batch, as in src/op/philox.rs; needs p and key.

//% include "lib/dropout.wgsl"

// Words 1 and 2 of the counters of row r: its number in its batch row, and that in the whole batch.
fn place_of(r: u32) -> vec2u {
  let trails = r >= p.split;
  let within = r - select(0u, p.split, trails);
  let each = max(select(p.lead, p.tail, trails), 1u);
  return vec2u(within % each + select(0u, p.lead, trails), key[at.key + 2u + within / each]);
}
// Block i of a row that stands at `place`.
fn row_block(i: u32, place: vec2u) -> vec4u {
  return philox(vec4u(i, place, p.site), vec2u(key[at.key], key[at.key + 1u]));
}
