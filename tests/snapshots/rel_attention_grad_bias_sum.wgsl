alias T = f32; // element type of floating-point tensors in memory

struct Params {
  n: u32,      // columns
  blocks: u32, // rows of sums
  sums: u32,   // [blocks, n] f32, first word in work
  first: u32,  // first element written
  factor: f32, // 1 or -1
}
struct At { work: u32, out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> work: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<T>; // [first + n]

@compute @workgroup_size(64)
fn rel_attention_grad_bias_sum(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let c = group.x * 64u + lane;
  if c >= p.n {
    return;
  }
  var sum = 0.0;
  for (var block = 0u; block < p.blocks; block++) {
    sum += bitcast<f32>(work[at.work + p.sums + block * p.n + c]);
  }
  let to = at.out + p.first + c;
  out[to] = T(f32(out[to]) + p.factor * sum);
}
