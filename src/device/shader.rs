//! From a shader file and its constants to WGSL text.
//!
//! A shader is a minijinja template: `{% include "lib/….wgsl" %}` brings shared fragments in, loops over constants are
//! unrolled in the text. `enable` lines stand at the top of a shader. Every constant of the specialisation is also declared as a WGSL `const` of type `u32`.

use super::spec::KernelSpec;
use crate::error::{Error, Result};
use minijinja::{Environment, UndefinedBehavior};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::OnceLock;

/// The fragments that shaders include, by the name that they include them with.
pub const FRAGMENTS: &[(&str, &str)] = &[
    ("lib/grid.wgsl", include_str!("../../shaders/lib/grid.wgsl")),
    ("lib/position.wgsl", include_str!("../../shaders/lib/position.wgsl")),
    ("lib/product.wgsl", include_str!("../../shaders/lib/product.wgsl")),
    ("lib/reduce.wgsl", include_str!("../../shaders/lib/reduce.wgsl")),
    ("lib/softcap.wgsl", include_str!("../../shaders/lib/softcap.wgsl")),
    ("lib/topk.wgsl", include_str!("../../shaders/lib/topk.wgsl")),
    ("lib/weight.wgsl", include_str!("../../shaders/lib/weight.wgsl")),
];

/// The WGSL text of `spec`.
///
/// # Errors
/// [`Error::Kernel`] with the template's file and line.
pub fn render(spec: &KernelSpec) -> Result<String> {
    let fail = |e: minijinja::Error| Error::Kernel {
        name: spec.kernel.name.into(),
        reason: format!("{}: {e:#}", spec.kernel.file),
    };
    let mut text = format!("// {} {:?}\n", spec.kernel.name, spec.consts);
    for (name, value) in &spec.consts {
        let _ = writeln!(text, "const {name}: u32 = {value}u;"); // writing to a String cannot fail
    }
    let context: BTreeMap<_, _> = spec.consts.iter().copied().collect();
    let body = environment().render_str(spec.kernel.source, context).map_err(fail)?;
    // WGSL wants its directives in front of everything else
    let directives: String = body.lines().take_while(|l| l.starts_with("enable ")).flat_map(|l| [l, "\n"]).collect();
    Ok(format!("{directives}{text}{}", &body[directives.len()..]))
}

fn environment() -> &'static Environment<'static> {
    static ENVIRONMENT: OnceLock<Environment<'static>> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let mut env = Environment::new();
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        if let Ok(syntax) = minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
            env.set_syntax(syntax);
        }
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        for (name, source) in FRAGMENTS {
            // a broken fragment shows itself in each shader that includes it: every one is parsed in the tests
            let _ = env.add_template(name, source);
        }
        env
    })
}
