//! From a shader file and its constants to WGSL text.
//!
//! A shader is a minijinja template: `{% include "lib/….wgsl" %}` brings shared fragments in, loops over constants are
//! unrolled in the text. `enable` lines stand at the top of a shader. Every constant of the specialisation is also declared as a WGSL `const` of type `u32`.

use super::spec::KernelSpec;
use crate::env;
use crate::error::{Error, Result};
use crate::io::atomic::write_atomic;
use crate::quant::{self, WeightFormat};
use crate::rng::Rng;
use minijinja::{Environment, UndefinedBehavior, Value};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::OnceLock;

/// The fragments that shaders include, by the name that they include them with, but for those of weight formats, which are in their
/// rows ([`crate::quant::fragments`]).
pub const FRAGMENTS: &[(&str, &str)] = &[
    ("lib/attention.wgsl", include_str!("../../shaders/lib/attention.wgsl")),
    ("lib/bits.wgsl", include_str!("../../shaders/lib/bits.wgsl")),
    ("lib/blocks.wgsl", include_str!("../../shaders/lib/blocks.wgsl")),
    ("lib/fours.wgsl", include_str!("../../shaders/lib/fours.wgsl")),
    ("lib/grid.wgsl", include_str!("../../shaders/lib/grid.wgsl")),
    ("lib/halves.wgsl", include_str!("../../shaders/lib/halves.wgsl")),
    ("lib/heads.wgsl", include_str!("../../shaders/lib/heads.wgsl")),
    ("lib/image.wgsl", include_str!("../../shaders/lib/image.wgsl")),
    ("lib/lanes.wgsl", include_str!("../../shaders/lib/lanes.wgsl")),
    ("lib/levels.wgsl", include_str!("../../shaders/lib/levels.wgsl")),
    ("lib/pair.wgsl", include_str!("../../shaders/lib/pair.wgsl")),
    ("lib/position.wgsl", include_str!("../../shaders/lib/position.wgsl")),
    ("lib/product.wgsl", include_str!("../../shaders/lib/product.wgsl")),
    ("lib/reduce.wgsl", include_str!("../../shaders/lib/reduce.wgsl")),
    ("lib/softcap.wgsl", include_str!("../../shaders/lib/softcap.wgsl")),
    ("lib/topk.wgsl", include_str!("../../shaders/lib/topk.wgsl")),
    ("lib/turned.wgsl", include_str!("../../shaders/lib/turned.wgsl")),
    ("lib/weight.wgsl", include_str!("../../shaders/lib/weight.wgsl")),
    ("lib/words.wgsl", include_str!("../../shaders/lib/words.wgsl")),
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
    let mut context: BTreeMap<_, _> = spec.consts.iter().map(|(name, value)| (*name, Value::from(*value))).collect();
    context.extend(spec.get("WFMT").and_then(WeightFormat::numbered).map(of_format).into_iter().flatten());
    let body = environment().render_str(spec.kernel.source, context).map_err(fail)?;
    // WGSL wants its directives in front of everything else
    let directives: String = body.lines().take_while(|l| l.starts_with("enable ")).flat_map(|l| [l, "\n"]).collect();
    Ok(format!("{directives}{text}{}", &body[directives.len()..]))
}

/// What the template knows of a weight's format: see `shaders/lib/weight.wgsl`.
fn of_format(format: WeightFormat) -> Vec<(&'static str, Value)> {
    // whether the including shader has a w_word of its own
    let mut all = vec![("W_QUANT", format.is_quantised().into()), ("W_WORDS", false.into())];
    if let Some(f) = &format.layout().fragment {
        all.extend([("W_UNIT", f.unit.into()), ("W_SHARES", f.shares.into()), ("W_MINIMUM", f.has_minimum.into())]);
        all.push(("W_FRAGMENT", f.name.into()));
    }
    all
}

/// A file name for `spec`: its kernel and a hash of its constants, the same in every process.
pub fn file_name(spec: &KernelSpec) -> String {
    let hash = Rng::named(0, &format!("{:?}", spec.consts)).next_u64();
    format!("{}-{hash:016x}.wgsl", spec.kernel.name)
}

/// Writes `text` of `spec` to the folder that [`env::DUMP_SHADERS`] names, if it names one.
///
/// # Errors
/// [`Error::Invalid`] that names the variable, and the path that cannot be written.
pub fn dump(spec: &KernelSpec, text: &str) -> Result<()> {
    match &env::settings().dump_shaders {
        Some(folder) => dump_to(folder, spec, text).map_err(|e| Error::invalid(env::DUMP_SHADERS, e.to_string())),
        None => Ok(()),
    }
}

/// Writes `text` of `spec` to `folder`, which is made if it is missing.
///
/// # Errors
/// [`Error::Io`] with the path that cannot be written.
pub fn dump_to(folder: &Path, spec: &KernelSpec, text: &str) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    write_atomic(&folder.join(file_name(spec)), |w| w.write_all(text.as_bytes()))
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
        let formats = quant::fragments().map(|f| (f.name, f.text));
        for (name, source) in FRAGMENTS.iter().copied().chain(formats) {
            // a broken fragment shows itself in each shader that includes it: every one is parsed in the tests
            let _ = env.add_template(name, source);
        }
        env
    })
}
