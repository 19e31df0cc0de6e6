{# Four numbers of a buffer at i. Where `pairs` is 1 the buffer is one of u64 (see pair.wgsl), two numbers a word: software
   renderers load a vec4 one component at a time, and a u64 at once. #}
{% macro get(pairs, buffer, i) %}{% if pairs %}vec4<f32>(pair({{ buffer }}[2u * ({{ i }})]), pair({{ buffer }}[2u * ({{ i }}) + 1u])){% else %}{{ buffer }}[{{ i }}]{% endif %}{% endmacro %}
{% macro put(pairs, buffer, i, value) %}{% if pairs %}{ let four = {{ value }}; {{ buffer }}[2u * ({{ i }})] = join(four.x, four.y); {{ buffer }}[2u * ({{ i }}) + 1u] = join(four.z, four.w); }{% else %}{{ buffer }}[{{ i }}] = {{ value }};{% endif %}{% endmacro %}
