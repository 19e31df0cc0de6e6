// Four neighbouring codes of 4, 2 or 1 bits, the first in the lowest bits.
fn nibbles4(q: u32) -> vec4<u32> {
    return vec4<u32>(q & 15u, (q >> 4u) & 15u, (q >> 8u) & 15u, (q >> 12u) & 15u);
}
fn crumbs4(q: u32) -> vec4<u32> {
    return vec4<u32>(q & 3u, (q >> 2u) & 3u, (q >> 4u) & 3u, (q >> 6u) & 3u);
}
fn bits4(q: u32) -> vec4<u32> {
    return vec4<u32>(q & 1u, (q >> 1u) & 1u, (q >> 2u) & 1u, (q >> 3u) & 1u);
}
// Four signed bytes of a word, and one of them.
fn bytes4(q: u32) -> vec4<i32> {
    let s = bitcast<i32>(q);
    return vec4<i32>((s << 24u) >> 24u, (s << 16u) >> 24u, (s << 8u) >> 24u, s >> 24u);
}
fn byte_at(q: u32, i: u32) -> i32 { return bitcast<i32>(q << (24u - 8u * (i & 3u))) >> 24u; }
// The f16 at i of an array of words.
fn half_of(q: u32, i: u32) -> f32 {
    let pair = unpack2x16float(q);
    return select(pair.x, pair.y, (i & 1u) == 1u);
}
