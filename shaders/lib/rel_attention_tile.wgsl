// Tiles of 32 rows and 32 keys in work groups of 64. Invocation (y, x) = (lane / 8, lane % 8) owns rows y + 8 a and keys
// x + 8 b, a and b from 0 to 3: neighbours touch neighbours in work group memory, and its 16 pairs need 7 rows of r, since
// row i and key j need row start(0) - i + j of a content stream. Heads go through work group memory 16 columns at a time.

//% for x in loaded
// Columns c to c + 3 of the head that begins at element `first`; 0 beyond its end.
fn ${x}_4(first: u32, c: u32) -> vec4f {
//% if vec
  if c < p.d {
    return vec4f(${x}[(at.${x} + first + c) / 4u]);
  }
  return vec4f(0.0);
//% else
  var value = vec4f(0.0);
  for (var i = 0u; i < 4u && c + i < p.d; i++) {
    value[i] = f32(${x}[at.${x} + first + c + i]);
  }
  return value;
//% endif
}
//% endfor

// What is kept in memory as it is used, and sums in f32.
//% for x in stored + summed
fn store_${x}(first: u32, c: u32, value: vec4f) {
//% if vec
  if c < p.d {
    ${x}[(at.${x} + first + c) / 4u] = ${"stored_4" if x in stored else ""}(value);
  }
//% else
  for (var i = 0u; i < 4u && c + i < p.d; i++) {
    ${x}[at.${x} + first + c + i] = ${"stored" if x in stored else ""}(value[i]);
  }
//% endif
}
//% endfor

var<workgroup> row_start: array<u32, 32>; // row of r that belongs to key 0; PADDED: there is no such row

// Finds the rows m0 to m0 + 31; a barrier must follow.
fn find_rows(b: u32, m0: u32, lane: u32) {
  if lane < 32u {
    var start = PADDED;
    if m0 + lane < p.rows {
      start = work[at.work + p.starts + b * p.rows + m0 + lane];
    }
    row_start[lane] = start;
  }
}

// First word of the bits of row m.
fn bits_of(b: u32, m: u32) -> u32 {
  return at.work + p.hidden + (b * p.rows + min(m, p.rows - 1u)) * 2u * ((p.keys + 31u) / 32u);
}
// Bits of keys j0 to j0 + 31 of a row: of another segment.
fn others_of(b: u32, m: u32, j0: u32) -> u32 {
  return work[bits_of(b, m) + (p.keys + 31u) / 32u + j0 / 32u];
}
