// Two f32 in one load or store of 64 bits.
fn low(x: u64) -> f32 { return bitcast<f32>(u32(x)); }
fn high(x: u64) -> f32 { return bitcast<f32>(u32(x >> 32u)); }
fn join(x: f32, y: f32) -> u64 { return u64(bitcast<u32>(x)) | (u64(bitcast<u32>(y)) << 32u); }
