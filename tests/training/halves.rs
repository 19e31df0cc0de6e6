//! Runs on matrix units, whose activations are f16 where only products read them. Where the device has no units, the tests
//! say so and pass, unless RUGOSA_REQUIRE lists `coop`; `tests/portability/lavapipe-next.sh` runs them on one that has.

use super::non_finite::{ends, metrics};
use super::{Watcher, config, tiny};
use crate::common::{left_out, units};
use rugosa::device::Feature;
use rugosa::train::Session;
use rugosa::train::metrics::StepMetrics;

fn has_units(test: &str) -> bool {
    let has = units().is_some();
    if !has {
        left_out(Feature::CoopMatrix, test);
    }
    has
}

/// An operand that is rounded to f16 is off by 2⁻¹¹ of it at most. In a forward pass of the tiny model that happens in 22
/// products, one behind the other, whose errors are independent: the logits, of order 1, are off by √22 · 2⁻¹¹ of that, and
/// the loss, a mean of some fifty tokens, by a seventh of it. A gradient passes through as many products again. Four
/// standard deviations of each.
const LOSS: f64 = 4.0 * 4.7 / 7.0 / 2048.0;
const GRADIENT: f64 = 4.0 * 6.6 / 2048.0;

#[test]
fn a_run_on_units_is_the_run_in_f32() {
    if !has_units("a_run_on_units_is_the_run_in_f32") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 24, 40, 56);
    let common = "steps = 4\nbatch_size = 2\ngradient_accumulation_steps = 2\nseq_len = 64\nrank = 4\ndensity = 0.05\n";
    for (name, more) in
        [("rosa", "method = 'rosa'\nschedule = 'wl1'"), ("full", "method = 'full'\ncheckpointing = 'layer'")]
    {
        let run = |precision: &str| -> (Vec<StepMetrics>, u64) {
            let text = format!("{common}{more}\nprecision = '{precision}'\n");
            let run = config(dir.path(), &format!("{name}-{precision}"), &text);
            let session = Session::prepare(run.clone(), &mut Watcher::default()).unwrap();
            let outcome = session.run(&mut Watcher::default()).unwrap().outcome;
            let (planned, seen) = (outcome.plan.total, outcome.seen.total);
            assert!(seen <= planned && 20 * seen >= 19 * planned, "{name} {precision}: {seen} of {planned} planned");
            (metrics(&run.out), planned)
        };
        let ((floats, bytes), (halves, fewer)) = (run("f32"), run("f16"));
        assert_eq!(floats.len(), halves.len(), "{name}");
        for (f, h) in floats.iter().zip(&halves) {
            println!("{name} {}: loss {} and {}, norm {} and {}", f.step, f.loss, h.loss, f.grad_norm, h.grad_norm);
            assert!((f.loss - h.loss).abs() <= LOSS, "{name}: losses {} and {}", f.loss, h.loss);
            let off = (f.grad_norm - h.grad_norm).abs() / f.grad_norm;
            assert!(off <= GRADIENT, "{name}: norms {} and {}", f.grad_norm, h.grad_norm);
            assert!(f.loss != h.loss && !h.skipped, "{name}: the units are not used");
        }
        assert!(fewer < bytes, "{name}: {bytes} bytes in f32, {fewer} in f16");
    }
}

#[test]
fn what_overflows_f16_is_named_where_it_happens() {
    if !has_units("what_overflows_f16_is_named_where_it_happens") {
        return;
    }
    // a gain that f32 holds with ease
    ends(
        "method = 'lora'\nsteps = 30\nprecision = 'f16'\nbatch_size = 4\ngradient_accumulation_steps = 1\n",
        "model.layers.2.post_attention_layernorm.weight",
        5,
        1e6,
        &["model.layers.2.post_attention_layernorm: add_rmsnorm (forward) gave ", ", column 5; "],
    );
}
