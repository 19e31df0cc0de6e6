{# Which words of a head turn together. j counts half of the head's words; LAYOUT 0: word j of its first half and of its second;
   1: the same of the first 2 · p.turned elements alone, and the words behind those, of which nothing is turned, in the same way;
   2: neighbouring elements, so that with VEC two words hold four pairs. The table has an angle of zero for what is not turned. #}
{% macro first(layout) %}{{ ["j", "j + select(0u, turned, j >= turned)", "2u * j"][layout] }}{% endmacro %}
{% macro second(layout) %}{{ ["j + half", "j + select(turned, half, j >= turned)", "2u * j + 1u"][layout] }}{% endmacro %}
{% macro left(pairs, x, y) %}{% if pairs %}vec4<f32>({{ x }}.xz, {{ y }}.xz){% else %}{{ x }}{% endif %}{% endmacro %}
{% macro right(pairs, x, y) %}{% if pairs %}vec4<f32>({{ x }}.yw, {{ y }}.yw){% else %}{{ y }}{% endif %}{% endmacro %}
{% macro lower(pairs, a, b) %}{% if pairs %}vec4<f32>({{ a }}.x, {{ b }}.x, {{ a }}.y, {{ b }}.y){% else %}{{ a }}{% endif %}{% endmacro %}
{% macro upper(pairs, a, b) %}{% if pairs %}vec4<f32>({{ a }}.z, {{ b }}.z, {{ a }}.w, {{ b }}.w){% else %}{{ b }}{% endif %}{% endmacro %}
