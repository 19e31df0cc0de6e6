// What is read and written at once, where VEC is 1 four f32 and else one; OUT16 writes those as f16, PAIRS reads and writes them
// in words of 64 bits.
{% if OUT16 %}
{% include "lib/halves.wgsl" %}
{% endif %}
{% if PAIRS %}
{% include "lib/pair.wgsl" %}
{% endif %}
alias V = {{ "vec4<f32>" if VEC else "f32" }};
