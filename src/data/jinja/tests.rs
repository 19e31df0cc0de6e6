//! Each value is what Jinja 3.1 in the sandbox of `transformers` renders.

use super::text::Part;
use super::{Template, Value};
use serde_json::json;

fn try_render(template: &str) -> Result<String, String> {
    let messages = json!([
        {"role": "user", "content": "Hi <b> é", "n": 3},
        {"role": "assistant", "content": " Yo! ", "calls": [{"name": "f", "arguments": {"b": 1, "a": [true, null, 1.5]}}]},
    ]);
    let messages = messages.as_array().unwrap();
    let variables = [("messages", Value::messages(messages)), ("tools", Value::None), ("eos", Value::str("</s>"))];
    Ok(Template::parse(template)?.render(&variables, 951_782_399)?.text)
}

fn render(template: &str) -> String {
    try_render(template).unwrap_or_else(|e| panic!("{template}: {e}"))
}

fn fails(template: &str) -> String {
    try_render(template).map_or_else(|e| e, |text| panic!("{template}: {text}"))
}

/// Rows of an expression and what it prints.
fn expressions(rows: &[(&str, &str)]) {
    for (expression, want) in rows {
        assert_eq!(render(&format!("{{{{ {expression} }}}}")), *want, "{expression}");
    }
}

#[test]
fn values_print_as_in_python() {
    expressions(&[
        ("none", "None"),
        ("true", "True"),
        ("[1, 'a', none, {'k': (1,)}]", "[1, 'a', None, {'k': (1,)}]"),
        ("'it\\'s' ~ [\"it's\", 'q\"', '\\n\\x00é']", "it's[\"it's\", 'q\"', '\\n\\x00é']"),
        ("1.0", "1.0"),
        ("1e16", "1e+16"),
        ("0.0001", "0.0001"),
        ("0.00001", "1e-05"),
        ("1/3", "0.3333333333333333"),
        ("(1, 2)", "(1, 2)"),
        ("range(3)", "range(0, 3)"),
        ("{'a': 1}.items()", "dict_items([('a', 1)])"),
        ("nothing", ""),
        ("[nothing]", "[Undefined]"),
        ("18446744073709551615 + 1", "18446744073709551616"),
    ]);
}

#[test]
fn operators_are_pythons() {
    expressions(&[
        ("7 // 2, -7 // 2, 7 % -3, -7 % 3, 7 / 2", "(3, -4, -2, 2, 3.5)"),
        ("2 ** 10", "1024"),
        ("'%s is %5.2f, %03d %%, %r' % ('x', 3.14159, 7, 'q')", "x is  3.14, 007 %, 'q'"),
        ("'%(a)s' % {'a': 1}", "1"),
        ("'{} {} {a:>5} {b:,}'.format(1, 2, a='x', b=1234567)", "1 2     x 1,234,567"),
        ("'ab' * 2 + 'c'", "ababc"),
        ("[1] + [2]", "[1, 2]"),
        ("1 < 2 < 3, 3 > 2 > 2", "(True, False)"),
        ("'a' in 'cat', 'x' not in ['x'], 'k' in {'k': 1}", "(True, False, True)"),
        ("1 == 1.0, true == 1, 'a' == 1, [1] == [1.0]", "(True, True, False, True)"),
        ("'b' if false", ""),
        ("1 ~ none ~ 'x' ~ nothing", "1Nonex"),
        ("not nothing and nothing == nothing2", "True"),
        ("0 or [] or 'last'", "last"),
        ("'x' 'y'", "xy"),
        ("-2 ** 2", "4"),
    ]);
    assert!(fails("{{ 'a' + 1 }}").contains("can only concatenate str (not \"int\") to str"));
    assert!(fails("{{ 'a' + nothing }}").contains("'nothing' is undefined"));
    assert!(fails("{{ nothing.x }}").contains("'nothing' is undefined"));
    assert!(fails("{{ 1 < 'a' }}").contains("no order"));
    assert!(fails("{{ 1 // 0 }}").contains("division by zero"));
    assert!(fails("{{ 'x' in tools }}").contains("argument of type 'NoneType' is not iterable"));
}

#[test]
fn attributes_and_items_are_jinjas() {
    expressions(&[
        ("messages[0].content", "Hi <b> é"),
        ("messages[-1]['role']", "assistant"),
        ("messages[0].nothing is defined", "False"),
        ("tools.x is undefined", "True"),
        ("messages[5] is undefined", "True"),
        ("{'items': 1}.items is callable, {'items': 1}['items']", "(True, 1)"),
        ("'abc'[0] ~ 'abc'[-1] ~ 'abc'[1:] ~ 'abc'[::-1] ~ 'abc'[:-1]", "acbccbaab"),
        ("[1, 2, 3, 4][::2], (1, 2)[1:], [1, 2, 3][-2:]", "([1, 3], (2,), [2, 3])"),
        ("'é€😀'[1], 'é€😀'|length", "('€', 3)"),
        ("'abc'.append is defined", "False"),
        ("messages[0].get('x', 'd'), messages[0].get('x')", "('d', None)"),
        ("dict(a=1, b=2).keys() | list", "['a', 'b']"),
    ]);
    assert!(fails("{{ [].append(1) }}").contains("access to attribute 'append' of 'list' object is unsafe"));
    assert!(fails("{{ messages[0].nothing.more }}").contains("'dict object' has no attribute 'nothing'"));
    assert_eq!(render("{{ tools[1:] }}"), "");
    assert!(fails("{{ nothing[1:] }}").contains("'nothing' is undefined"));
}

#[test]
fn methods_of_strings_are_pythons() {
    expressions(&[
        (
            "'a b  c'.split(), 'a,b,c'.split(',', 1), 'a,b,c'.rsplit(',', 1)",
            "(['a', 'b', 'c'], ['a', 'b,c'], ['a,b', 'c'])",
        ),
        ("' a b '.rsplit(none, 1), 'x'.split('</think>')[-1]", "([' a', 'b'], 'x')"),
        ("'a-b-c'.partition('-'), 'a-b-c'.rpartition('-')", "(('a', '-', 'b-c'), ('a-b', '-', 'c'))"),
        ("'prefix'.removeprefix('pre') ~ 'suffix'.removesuffix('fix')", "fixsuf"),
        ("'7'.zfill(3) ~ '-7'.zfill(4)", "007-007"),
        ("'hello'.index('l'), 'hello'.find('z'), 'hello'.rfind('l'), 'hello'.count('l')", "(2, -1, 3, 2)"),
        ("'  x\\n'.strip() ~ '|' ~ 'xxaxx'.strip('x') ~ '|' ~ ' x '.lstrip() ~ '|' ~ ' x '.rstrip()", "x|a|x | x"),
        ("'hello world'.title(), 'hELLO'.capitalize(), 'aB'.swapcase()", "('Hello World', 'Hello', 'Ab')"),
        ("'ab'.center(5, '*'), 'ab'.ljust(4) ~ '|', 'ab'.rjust(4)", "('**ab*', 'ab  |', '  ab')"),
        ("'a\\nb\\r\\nc'.splitlines(), '-'.join(['x', 'y'])", "(['a', 'b', 'c'], 'x-y')"),
        ("'abc'.startswith(('x', 'a')), 'abc'.endswith('bc')", "(True, True)"),
        ("'aXbX'.replace('X', '-', 1), 'ab'.replace('', '.')", "('a-bX', '.a.b.')"),
        ("'12'.isdigit(), 'a1'.isalnum(), ' '.isspace(), 'Ab'.islower()", "(True, True, True, False)"),
        ("[1, 2, 1].index(1, 1), (1, 1).count(1)", "(2, 2)"),
    ]);
    assert!(fails("{{ 'a'.index('z') }}").contains("substring not found"));
    assert!(fails("{{ [1].index(2) }}").contains("not in list"));
}

#[test]
fn tests_are_jinjas() {
    expressions(&[
        ("none is iterable, 'a' is iterable, {} is iterable, nothing is iterable", "(False, True, True, True)"),
        ("'a' is sequence, {} is sequence, none is sequence, 1 is sequence", "(True, True, False, False)"),
        ("{} is mapping, 'a' is string, 1 is string", "(True, True, False)"),
        ("true is number, true is integer, 1.0 is float, 1 is boolean", "(True, False, True, False)"),
        ("3 is odd, 4 is divisibleby 2, 'a' is in ['a'], 2 is gt 1", "(True, True, True, True)"),
        ("true is true, 1 is true, none is none, none is sameas none", "(True, False, True, True)"),
        ("'A' is upper, 'tojson' is filter, 'odd' is test", "(True, True, True)"),
        ("nothing is not defined and 1 is defined", "True"),
    ]);
    assert!(fails("{{ 1 is weird }}").contains("no test named 'weird'"));
}

#[test]
fn filters_are_jinjas() {
    expressions(&[
        ("nothing | default('d') ~ ('' | default('e', true)) ~ (none | default('f'))", "deNone"),
        ("messages | selectattr('role', 'equalto', 'user') | map(attribute='n') | list", "[3]"),
        ("messages | rejectattr('role', 'equalto', 'user') | list | length", "1"),
        ("none | selectattr('x') | list", "[]"),
        ("['a', 'b'] | map('upper') | join(', ')", "A, B"),
        ("[3, 1, 2] | sort(reverse=true), ['b', 'A'] | sort", "([3, 2, 1], ['A', 'b'])"),
        ("{'b': 1, 'A': 2} | dictsort", "[('A', 2), ('b', 1)]"),
        ("{'a': 1} | items | list", "[('a', 1)]"),
        ("[1, 2, 2] | unique | list, [1, 2] | sum, [1, 5, 2] | max", "([1, 2], 3, 5)"),
        ("'a\\nb' | indent(2), 'a\\n\\nb' | indent(2, true)", "('a\\n  b', '  a\\n\\n  b')"),
        ("' x ' | trim ~ '|' ~ ('xax' | trim('x'))", "x|a"),
        ("2.5 | round, 3.14159 | round(2), '3' | int + 1, 'x' | int(9), '2.7' | float", "(2.0, 3.14, 4, 9, 2.7)"),
        ("'abc' | first ~ ('abc' | last) ~ ('abc' | reverse)", "accba"),
        ("range(5) | batch(2) | list, range(5) | slice(2) | list", "([[0, 1], [2, 3], [4]], [[0, 1, 2], [3, 4]])"),
        ("'<a>' | e ~ ('<b>' + ('<c>' | safe))", "&lt;a&gt;&lt;b&gt;<c>"),
        ("'my-word (is) ok' | title", "My-Word (Is) Ok"),
        ("[{'k': 1}, {'k': 1}, {'k': 2}] | groupby('k') | length", "2"),
        ("'%s-%s' | format(1, 2)", "1-2"),
    ]);
    assert!(fails("{{ 1 | nofilter }}").contains("no filter named 'nofilter'"));
    assert!(fails("{{ (messages | select) | length }}").contains("object of type 'generator' has no len()"));
    assert_eq!(render("{% set g = [1, 2] | map('string') %}{{ g | list }}{{ g | list }}"), "['1', '2'][]", "once");
}

#[test]
fn tojson_is_pythons_with_its_arguments() {
    expressions(&[
        ("messages[0].content | tojson", "\"Hi <b> é\""),
        ("'é\\x7f😀' | tojson(ensure_ascii=true)", "\"\\u00e9\\u007f\\ud83d\\ude00\""),
        ("messages[1].calls[0].arguments | tojson", "{\"b\": 1, \"a\": [true, null, 1.5]}"),
        ("{'b': 1, 'a': []} | tojson(sort_keys=true, separators=(',', ':'))", "{\"a\":[],\"b\":1}"),
        ("{'b': {'c': 1}} | tojson(indent=2)", "{\n  \"b\": {\n    \"c\": 1\n  }\n}"),
        ("[1, 2] | tojson(indent=0)", "[\n1,\n2\n]"),
        ("{1: 2, none: 3} | tojson, (1, 2) | tojson", "('{\"1\": 2, \"null\": 3}', '[1, 2]')"),
        ("1e400 | tojson, 1e16 | tojson", "('Infinity', '1e+16')"),
    ]);
    assert!(fails("{{ nothing | tojson }}").contains("undefined value"));
    assert!(fails("{{ 1 | tojson(html=true) }}").contains("unexpected keyword argument 'html'"));
}

#[test]
fn blocks_scope_and_loop_as_in_jinja() {
    for (template, want) in [
        ("{% set x = 1 %}{% for i in [2] %}{% set x = i %}{{ x }}{% endfor %}{{ x }}", "21"),
        ("{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}", "2"),
        ("{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "6"),
        (
            "{% for i in range(9) if i is odd %}{% if i == 7 %}{% break %}{% endif %}{{ loop.index }}{{ i }} {% endfor %}",
            "11 23 35 ",
        ),
        ("{% for i in [1, 2] %}{% if loop.first %}{% continue %}{% endif %}{{ i }}{% else %}e{% endfor %}", "2"),
        ("{% for i in [] %}{% else %}none{% endfor %}", "none"),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}={{ v }}{% endfor %}", "a=1"),
        ("{% for c in 'ab' %}{{ loop.previtem }}{{ c }}{{ loop.nextitem }}|{% endfor %}", "ab|ab|"),
        (
            "{% macro m(a, b='x', c=none) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1, c=2) }}{{ m('q') | upper }}",
            "1x2QXNONE",
        ),
        ("{% macro m() %}[{{ caller(3) }}]{% endmacro %}{% call(n) m() %}{{ n }}{% endcall %}", "[3]"),
        ("{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, k=2) }}", "(1,){'k': 2}"),
        ("{% macro f(n) %}{{ n }}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "3210"),
        ("{% set t %}a{{ 1 }}{% endset %}{{ t | length }}{% filter upper %}b{% endfilter %}", "2B"),
        ("{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}", "3"),
        ("{% for x in [1, [2]] recursive %}{{ loop(x) if x is not number else x }}{% endfor %}", "12"),
        ("{% set a, b = 1, 2 %}{{ b }}{{ a }}", "21"),
        ("{% raw %}{{ x }}{% endraw %}{# c #}", "{{ x }}"),
        ("{% set j = joiner('; ') %}{% for i in [1, 2] %}{{ j() }}{{ i }}{% endfor %}", "1; 2"),
        ("{{ strftime_now('%Y-%m-%d') }}", "2000-02-28"),
        ("{% if tools is iterable and tools | length %}t{% elif not tools %}n{% endif %}", "n"),
    ] {
        assert_eq!(render(template), want, "{template}");
    }
    assert!(
        fails("{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}").contains("takes not more than 1 argument(s), 2 given")
    );
    assert!(fails("{% for x in tools %}{% endfor %}").contains("'NoneType' object is not iterable"));
    assert_eq!(fails("a\n{{ raise_exception('no ' ~ 1) }}"), "line 2: no 1");
    assert_eq!(fails("a\n\n{% for %}"), "line 3: expected a name, found the end of the tag");
    assert!(fails("{% set ns = {} %}{% set ns.x = 1 %}").contains("non-namespace object"));
}

#[test]
fn blanks_around_tags_go_as_with_trim_and_lstrip() {
    for (template, want) in [
        ("a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a\n  b\nc"),
        ("a  {%- if true -%}  b  {%- endif -%}  c", "abc"),
        ("a\n  {%+ if true %}b{% endif %}", "a\n  b"),
        ("{% if true +%}\nb{% endif %}", "\nb"),
        ("x {{- ' y ' -}} z", "x y z"),
        ("  {# c #}\n  d", "  d"),
        ("{{ 'a\nb' }}\r\n", "a\nb"),
        ("{{ {'a': {'b': 1}}['a']['b'] }}", "1"),
        ("{{ '\\u00e9\\x41\\t\\q' }}", "éA\t\\q"),
        ("  {%- raw -%}  {% x %}  {%- endraw %}\nend", "{% x %}end"),
    ] {
        assert_eq!(render(template), want, "{template:?}");
    }
}

#[test]
fn hostile_templates_end() {
    let loops = "{% for i in range(99999) %}{% for j in range(99999) %}a{% endfor %}{% endfor %}";
    assert!(fails(loops).contains("too many steps"));
    assert!(fails("{{ range(1000000) }}").contains("range too big"));
    assert!(fails("{{ 'a' * 1000000000000 }}").contains("too much memory"));
    let doubled = "{% set ns = namespace(x='aaaaaaaaaaaaaaaa', l=[]) %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
    assert!(fails(doubled).contains("too much memory"));
    let kept =
        "{% set ns = namespace(l=[]) %}{% for i in range(999) %}{% set ns.l = ns.l + ['a' * 9999999] %}{% endfor %}";
    assert!(fails(kept).contains("too much memory"));
    assert!(fails("{{ ('a' * 1000000).replace('', 'b' * 1000000) }}").contains("too much memory"));
    assert!(fails("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}").contains("calls itself too deeply"));
    assert!(fails(&format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000))).contains("nested more than"));
    assert!(fails(&"{% if 1 %}".repeat(5000)).contains("nested more than"));
    assert!(fails("{{ 'x'.center(10 ** 12) }}").contains("too large"));
    assert!(fails("{{ '%1000000000000d' % 1 }}").contains("too large"));
    assert!(fails("{{ -170141183460469231731687303715884105727 - 2 }}").contains("too large"));
}

/// `{% for i in range(99999) %}{% for j in range(9) %}`, with a namespace `ns`.
fn many(body: &str) -> String {
    format!(
        "{{% set ns = namespace(x=[], y=[], s='', n=none) %}}{{% for i in range(99999) %}}{{% for j in range(9) %}}{body}\
         {{% endfor %}}{{% endfor %}}"
    )
}

#[test]
fn values_that_nest_without_end_are_refused() {
    // what would overflow the stack when it is compared, printed or dropped
    for body in [
        "{% set ns.x = [ns.x] %}",
        "{% set ns.x = {'a': ns.x} %}",
        "{% set ns.x = dict(a=ns.x) %}",
        "{% set ns.x = (ns.x,) | list %}",
        "{% set ns.x = [ns.x] | batch(1) %}",
        "{% set ns.x = {'a': ns.x}.get %}",
        "{% set ns.x = {'a': ns.x}.items() %}",
        "{% set ns.x = joiner(ns.x) %}",
        "{% for y in [ns.x] %}{% set ns.x = loop %}{% endfor %}",
        "{% set ns.x = [[0, ns.x]] | groupby(0) %}",
    ] {
        let reason = fails(&many(body));
        assert!(reason.contains("nests values more than 200 deep"), "{body}: {reason}");
    }
}

#[test]
fn what_holds_itself_is_let_go() {
    for body in [
        "{% set ns.n = namespace(p=ns.n) %}",
        "{% set new = namespace() %}{% set ns.n = new %}{% set ns.m = ns %}",
        "{% macro f() %}{{ ns }}{% endmacro %}{% set g = ns.n %}{% set ns.n = f %}",
        "{% set l = loop.changed(ns.n) %}{% set ns.n = [loop] %}",
    ] {
        let reason = fails(&many(body));
        assert!(reason.contains("makes over 100000 macros, namespaces and the like"), "{body}: {reason}");
    }
    let circle = "{% macro f(m) %}{{ m.content }}{% endmacro %}{% set ns = namespace(a=f) %}{% set ns.b = ns %}\
        {% for m in messages recursive %}{{ f(m) }}{% if loop.changed(loop) %}{% endif %}{% endfor %}";
    // its messages are gone with it
    render(circle);
    assert_eq!(super::limits::live(), 0);
}

#[test]
fn work_and_memory_are_paid_before_they_are_done() {
    let twice = |start: &str| {
        format!(
            "{{% set ns = namespace(a={start}, b={start}) %}}{{% for i in range(99) %}}{{% set ns.a = [ns.a, ns.a] %}}{{% set ns.b = [ns.b, ns.b] %}}"
        )
    };
    let long = "{% set a = 'ab ' * 20000000 %}";
    for (template, reason) in [
        // each of these would take hours, or all memory
        (twice("[]") + "{% set x = ns.a == ns.b %}{% endfor %}", "too many steps"),
        (twice("[]") + "{% set x = ns.a in [ns.b] %}{% endfor %}", "too many steps"),
        (twice("[]") + "{% if [ns.a, ns.b] | sort %}{% endif %}{% endfor %}", "too many steps"),
        (twice("[]") + "{% endfor %}{{ ns.a }}", "too m"),
        (twice("'{}'") + "{% endfor %}{{ ns.a | tojson }}", "too m"),
        (long.to_owned() + "{{ a | list | length }}", "too much memory"),
        (long.to_owned() + "{{ a.split('b') | length }}", "makes over 1000000 parts"),
        (long.to_owned() + "{{ a.split() | length }}", "makes over 1000000 parts"),
        (long.to_owned() + "{% for i in range(99999) %}{% if 'c' in a %}{% endif %}{% endfor %}", "too many steps"),
        (long.to_owned() + "{% for i in range(99999) %}{{ a | length }}{% endfor %}", "too many steps"),
        (long.to_owned() + "{% for i in range(99999) %}{% set x %}{{ a }}{% endset %}{% endfor %}", "too m"),
        (long.to_owned() + "{% for i in range(99999) %}{% set x = a[i] %}{% endfor %}", "too many steps"),
        (long.to_owned() + "{{ a[::2] }}", "can't be cut"),
        (long.to_owned() + "{{ ([a] * 999999) | sum(start='') }}", "too m"),
        ("{{ ([range(9999) | list] * 99999) | sum(start=[]) | length }}".into(), "too many steps"),
        ("{{ ((range(99999) | list) * 9) | unique | list | length }}".into(), "too many steps"),
        ("{% set l = [('a' * 9999999)] * 99999 %}{{ l | sort | first | length }}".into(), "too m"),
        ("{{ ('%1000000d' * 99999) % ((1,) * 99999) }}".into(), "too m"),
        ("{{ ('{:1000000}' * 99999).format(1) }}".into(), ""),
        ("{{ ('\\t' * 9999999).expandtabs(1000000) }}".into(), "too m"),
    ] {
        let started = std::time::Instant::now();
        let said = fails(&template);
        assert!(said.contains(reason), "{template}: {said}");
        assert!(started.elapsed().as_secs() < 30, "{template}: took {:?}", started.elapsed());
    }
    // numbers that are none have no order: the sort must not panic over them
    let _ = render("{% set l = ['nan' | float, 3, 'nan' | float, 1, 2.5] * 99 %}{{ l | sort | length }}");
    let _ = render("{{ '--170141183460469231731687303715884105728' | int }}");
    assert_eq!(render("{{ 'héllo'[1:3] }}{{ 'abc'[5:] }}{{ 'abc'[2:1] }}{{ 'abc'[-2:] }}"), "élbc");
}

#[test]
fn a_tree_may_not_be_deep_without_brackets_either() {
    // on a small stack: the tree is dropped there too
    let run = || {
        for (link, start) in [
            (" + 1", "1"),
            (" * 1", "1"),
            ("**1", "1"),
            (" or 1", "1"),
            (" and 1", "1"),
            (" if 1", "1"),
            (".a", "a"),
            ("[0]", "a"),
            ("()", "a"),
            ("|trim", "a"),
            (" is odd", "a"),
        ] {
            let said = fails(&format!("{{{{ {start}{} }}}}", link.repeat(100_000)));
            assert!(said.contains("has over 2000 operators") || said.contains("chained"), "{link}: {said}");
            fails(&format!("{{{{ {start}{} }}}}", link.repeat(1_999)));
        }
        for (open, close) in [("(", ")"), ("[", "]"), ("{1:", "}"), ("a[", "]"), ("f(", ")"), ("- ", ""), ("not ", "")]
        {
            let said = fails(&format!("{{{{ {}1{} }}}}", open.repeat(60_000), close.repeat(60_000)));
            assert!(said.contains("nested more than"), "{open}: {said}");
        }
        for open in ["{% if 1 %}", "{% for a in b %}", "{% set a %}", "{% macro a() %}", "{% call a() %}"] {
            let said = fails(&open.repeat(60_000));
            assert!(said.contains("nested more than"), "{open}: {said}");
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
    assert!(fails(&"a".repeat(2 << 20)).contains("has 2097152 bytes"));
    // thousands of tags of one kind, none of another
    let tags = render(&"{{ '' }}".repeat(100_000));
    assert_eq!(tags, "");
}

#[test]
fn a_stack_of_a_worker_thread_is_enough() {
    let deep = "{% macro f(n) %}{% if n %}{% for i in [1] %}{{ '' ~ (f(n - 1) | string) }}{% endfor %}{% endif %}{% endmacro %}{{ f(999) }}";
    let run = || fails(deep).contains("calls itself too deeply");
    assert!(std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap());
}

#[test]
fn every_byte_knows_its_message() {
    let template = "{% macro show(m) %}<{{ m.content | trim }}>{% endmacro %}start {% for m in messages %}\
        {{ '[' + m.role + ']' }}{{ show(m) }}{{ m.calls | tojson if m.calls }}{% endfor %}end";
    let messages = json!([
        {"role": "user", "content": " a a "},
        {"role": "assistant", "content": "a", "calls": [{"n": "x"}]},
    ]);
    let variables = [("messages", Value::messages(messages.as_array().unwrap()))];
    let done = Template::parse(template).unwrap().render(&variables, 0).unwrap();
    assert_eq!(done.text, "start [user]<a a>[assistant]<a>[{\"n\": \"x\"}]end");
    let of = |message, part| -> Vec<&str> {
        let is = |m: &&super::text::Mark| m.origin.message == message && m.origin.part == part;
        done.marks.iter().filter(is).map(|m| &done.text[m.range.clone()]).collect()
    };
    assert_eq!(of(Some(0), Part::Content), ["a a"]);
    assert_eq!(of(Some(1), Part::Content), ["a"]);
    assert_eq!(of(Some(1), Part::Role), ["assistant"]);
    assert_eq!(of(Some(1), Part::Other), ["\"n\"", "\"x\""]);
    assert_eq!(of(Some(0), Part::Template), ["[", "]<", ">"]);
    assert!(
        done.marks.iter().all(|m| m.range.start >= 6 && m.range.end <= done.text.len() - 3),
        "the frame is nobody's"
    );
}

#[test]
fn generation_marks_what_stands_in_it() {
    let template = "{% for m in messages %}{% generation %}{{ m.content }}!{% endgeneration %}.{% endfor %}";
    let template = Template::parse(template).unwrap();
    assert!(template.marks_generation());
    assert!(!Template::parse("{{ generation }}").unwrap().marks_generation());
    let messages = json!([{"role": "a", "content": "x"}, {"role": "a", "content": "y"}]);
    let done = template.render(&[("messages", Value::messages(messages.as_array().unwrap()))], 0).unwrap();
    let said: String = done.marks.iter().filter(|m| m.origin.generated).map(|m| &done.text[m.range.clone()]).collect();
    assert_eq!((&*done.text, &*said), ("x!.y!.", "x!y!"));
}
