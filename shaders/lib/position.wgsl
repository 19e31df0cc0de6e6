// Position of entry e of S in its bucket: (row of 4) · 8 + (column of 4), then row and column in the 4 × 4 patch. The
// including shader declares s_index and p.s_positions; where it has several S, each with SUFFIX behind its names.
{% set S = SUFFIX if SUFFIX is defined else "" %}
fn position{{ S }}(e: u32) -> u32 {
    return (s_index{{ S }}[p.s_positions{{ S }} + (e >> 1u)] >> ((e & 1u) << 4u)) & 0xffffu;
}
