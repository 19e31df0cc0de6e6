{# An operand that is read as an image (src/device/image.rs): how it is declared, and its texel i, four f32. #}
{% macro var_image(name) %}var {{ name }}: texture_storage_2d<rgba32float, read>;{% endmacro %}
{% macro four(name, i) %}textureLoad({{ name }}, vec2<u32>(({{ i }}) & 1023u, ({{ i }}) >> 10u)){% endmacro %}
