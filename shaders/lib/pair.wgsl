// Two f32 in one load or store of 64 bits.
fn low(x: u64) -> f32 { return bitcast<f32>(u32(x)); }
fn high(x: u64) -> f32 { return bitcast<f32>(u32(x >> 32u)); }
fn pair(x: u64) -> vec2<f32> { return vec2<f32>(low(x), high(x)); }
fn word(x: u32, y: u32) -> u64 { return u64(x) | (u64(y) << 32u); }
fn join(x: f32, y: f32) -> u64 { return word(bitcast<u32>(x), bitcast<u32>(y)); }
