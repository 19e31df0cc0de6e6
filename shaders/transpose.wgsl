// A slice of the tokens of dY and one of X, each turned so that the tokens of a feature lie side by side: what the sampled
// gradient reads. Both in one launch, whose start and end cost as much as a small one's work.
//
// HALF 1 packs two tokens in a word as f16 (beyond ±65,504 they become infinite, or NaN), HALF 0 leaves them f32. Behind the
// slice's last token there are zeros up to the end of the row. DY16, X16 = 1: dY, or X, is f16 itself, of an even number of
// features, and HALF 1; a thread takes two features of two tokens, whose halves only change places. A workgroup turns 64
// features of 32 words; the tile's rows are a word longer than they are filled, so that neither way through it meets one
// bank twice.
{% include "lib/grid.wgsl" %}
{% set OPERANDS = [("dy", DY16), ("x", X16)] %}
struct Params { base: u32, groups: u32, first: u32, end: u32, words: u32, dy_groups: u32, dy_cols: u32, x_cols: u32, }

@group(0) @binding(0) var<storage, read> dy: array<{{ "u32" if DY16 else "f32" }}>;      // [tokens, dy_cols]
@group(0) @binding(1) var<storage, read> x: array<{{ "u32" if X16 else "f32" }}>;        // [tokens, x_cols]
@group(0) @binding(2) var<storage, read_write> dy_turned: array<u32>; // [dy_cols, words]
@group(0) @binding(3) var<storage, read_write> x_turned: array<u32>;  // [x_cols, words]
@group(0) @binding(4) var<uniform> p: Params;

const FEATURES: u32 = 64u;
const WORDS: u32 = 32u;
const STRIDE: u32 = WORDS + 1u;

var<workgroup> tile: array<u32, FEATURES * STRIDE>;

{% for x, X16 in OPERANDS %}
{% if X16 %}
// features col and col + 1 of a token
fn {{ x }}_pair(token: u32, col: u32) -> u32 {
    let loaded = {{ x }}[(min(token, p.end - 1u) * p.{{ x }}_cols + min(col, p.{{ x }}_cols - 2u)) >> 1u];
    return select(0u, loaded, token < p.end);
}
{% else %}
fn {{ x }}_value(token: u32, col: u32) -> f32 {
    // always a load from inside, so that none waits for the test of another
    let loaded = {{ x }}[min(token, p.end - 1u) * p.{{ x }}_cols + min(col, p.{{ x }}_cols - 1u)];
    return select(0.0, loaded, token < p.end);
}

fn {{ x }}_word(i: u32, col: u32) -> u32 {
{% if HALF %}
    let token = p.first + 2u * i;
    return pack2x16float(vec2<f32>({{ x }}_value(token, col), {{ x }}_value(token + 1u, col)));
{% else %}
    return bitcast<u32>({{ x }}_value(p.first + i, col));
{% endif %}
}
{% endif %}

fn {{ x }}_turn(group: u32, lid: u32) {
    let across = (p.{{ x }}_cols + FEATURES - 1u) / FEATURES;
    let first_col = (group % across) * FEATURES;
    let first_word = (group / across) * WORDS;
{% if X16 %}
    let two = lid % (FEATURES / 2u);
    let row = lid / (FEATURES / 2u);
{% for i in range(4) %}
    let token{{ i }} = p.first + 2u * (first_word + row + {{ 8 * i }}u);
    let v{{ i }} = {{ x }}_pair(token{{ i }}, first_col + 2u * two);
    let w{{ i }} = {{ x }}_pair(token{{ i }} + 1u, first_col + 2u * two);
{% endfor %}
{% for i in range(4) %}
    tile[two * STRIDE + row + {{ 8 * i }}u] = (v{{ i }} & 0xffffu) | (w{{ i }} << 16u);
    tile[(two + FEATURES / 2u) * STRIDE + row + {{ 8 * i }}u] = (v{{ i }} >> 16u) | (w{{ i }} & 0xffff0000u);
{% endfor %}
{% else %}
    let col = lid % FEATURES;
    let row = lid / FEATURES;
{% for i in range(8) %}
    let v{{ i }} = {{ x }}_word(first_word + row + {{ 4 * i }}u, first_col + col);
{% endfor %}
{% for i in range(8) %}
    tile[col * STRIDE + row + {{ 4 * i }}u] = v{{ i }};
{% endfor %}
{% endif %}
    workgroupBarrier();
    let w = lid % WORDS;
    for (var c = lid / WORDS; c < FEATURES; c += 256u / WORDS) {
        if (first_col + c < p.{{ x }}_cols) {
{% if X16 %}
            // odd features lie behind the even ones
            let line = (c >> 1u) + (c & 1u) * (FEATURES / 2u);
{% else %}
            let line = c;
{% endif %}
            {{ x }}_turned[(first_col + c) * p.words + first_word + w] = tile[line * STRIDE + w];
        }
    }
}

{% endfor %}
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    if (group < p.dy_groups) {
        dy_turn(group, lid);
    } else {
        x_turn(group - p.dy_groups, lid);
    }
}
