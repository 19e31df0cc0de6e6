// Queries, keys and values: side by side in one matrix, or apart in q, k and v. A head counts through those of q, then of k,
// then of v; p has heads, kv_heads and half. MERGE = 1: they come from the three, else they go there. VEC, OUT16 and PAIRS
// as in rope_split.wgsl.
{% from "lib/fours.wgsl" import get, put %}
{% include "lib/words.wgsl" %}

// Where the head lies in its own matrix: so many heads from its start.
fn own_head(token: u32, head: u32) -> u32 {
    let both = p.heads + p.kv_heads;
    if (head >= both) { return token * p.kv_heads + head - both; }
    if (head >= p.heads) { return token * p.kv_heads + head - p.heads; }
    return token * p.heads + head;
}

{% if MERGE %}
fn get_part(head: u32, i: u32) -> V {
    if (head < p.heads) { return {{ get(PAIRS, "q", "i") }}; }
    if (head < p.heads + p.kv_heads) { return {{ get(PAIRS, "k", "i") }}; }
    return {{ get(PAIRS, "v", "i") }};
}

fn put_all(i: u32, value: V) {
    {{ put(PAIRS, "merged", "i", "halves4(value)" if OUT16 else "value") }}
}
{% else %}
fn put_part(head: u32, i: u32, value: V) {
{% for name in ["q", "k", "v"] %}
    {{ ["if (head < p.heads)", "else if (head < p.heads + p.kv_heads)", "else"][loop.index0] }} { {{ put(PAIRS, name, "i", "halves4(value)" if OUT16 else "value") }} }
{% endfor %}
}
{% endif %}
