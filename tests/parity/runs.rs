//! RoSA runs through the command line: masks exact, the loss at every step and the final adapter within tolerance.

use super::golden::*;
use super::program::*;
use rugosa::train::phase::Phase;

/// Warm-up and collection; the masks are all that is wanted.
#[test]
fn masks_are_exact() {
    let rosa = Tensors::open("rosa_llama");
    let start = Start::new(&rosa);
    let wl3 = "--method rosa --schedule wl3 --mask-only --steps 4";
    let one_row = "--batch-size 1 --gradient-accumulation-steps 2";
    for (key, more_rows, flags) in [
        ("main", "", wl3.to_owned()),
        ("ms_mb1", "", format!("{wl3} {one_row}")),
        ("mean_mb1", "", format!("{wl3} {one_row} --mask-mode mean")),
        ("ms_ng2", "train0", format!("{wl3} --mask-grads 2")),
        ("mean_ng2", "train0", format!("{wl3} --mask-grads 2 --mask-mode mean")),
    ] {
        let lines = rows(&rosa, WARM) + &rows(&rosa, more_rows.split_whitespace());
        let run = Run::train(&lines, &flags, &[("--init-adapter", &start.adapter())]);
        run.assert_masks(&rosa, key);
        let want = [numbers("rosa/loss_f64/warmup"), numbers("rosa/loss_f64/collect")].concat();
        assert_losses(key, &run.losses()[..4], &want, tolerance("rosa.loss.abs/warmup"));
        assert!(!run.out().join("adapter_model.safetensors").exists(), "{key}: only masks were wanted");
    }
    let run = Run::train(&rows(&rosa, ["grad"]), "--method spa --schedule spa_only --mask-only --steps 1", &[]);
    run.assert_masks(&rosa, "spa_only");
}

const LINEAR: &str = "--lora-lr 7e-3 --lr 2e-3 --lr-schedule linear --warmup-steps 3";

#[test]
fn low_rank_and_sparse_together() {
    let rosa = Tensors::open("rosa_llama");
    let start = Start::new(&rosa);
    let flags = format!("--method rosa --steps 10 {LINEAR}");
    let files = [("--init-adapter", start.adapter()), ("--mask", start.mask())];
    let files = files.each_ref().map(|(f, p)| (*f, p.as_path()));
    // as it comes, within the limits that a browser gives, and without any optional feature
    for environment in [&[][..], &[("RUGOSA_LIMITS", "default")], &[("RUGOSA_DISABLE", "f16,subgroup,coop,timestamps")]]
    {
        let run = Run::train_in(environment, &rows(&rosa, TRAIN), &flags, &files);
        assert_run(&rosa, &run, "rosa", "ABS");
    }
}

#[test]
fn low_rank_alone() {
    let rosa = Tensors::open("rosa_llama");
    let flags = format!("--method lora --steps 10 {LINEAR}");
    let run = Run::train(&rows(&rosa, TRAIN), &flags, &[("--init-adapter", &Start::new(&rosa).adapter())]);
    assert_run(&rosa, &run, "lora", "AB");
}

#[test]
fn sparse_alone() {
    let rosa = Tensors::open("rosa_llama");
    let flags = format!("--method spa --steps 10 {LINEAR}");
    let run = Run::train(&rows(&rosa, TRAIN), &flags, &[("--mask", &Start::new(&rosa).mask())]);
    assert_run(&rosa, &run, "spa", "S");
}

#[test]
fn without_a_restart() {
    let rosa = Tensors::open("rosa_llama");
    let flags = format!("--method rosa --schedule wl3 --no-restart --steps 14 {LINEAR}");
    let lines = rows(&rosa, WARM.into_iter().chain(TRAIN));
    let run = Run::train(&lines, &flags, &[("--init-adapter", &Start::new(&rosa).adapter())]);
    run.assert_masks(&rosa, "norestart");
    assert_run(&rosa, &run, "norestart", "ABS");
}

/// A run that begins again once its masks are built goes on as a run of its own would that is given those masks: bit
/// for bit, from the initial A.
#[test]
fn a_restart_is_a_run_of_its_own() {
    let rosa = Tensors::open("rosa_llama");
    let (start, lines) = (Start::new(&rosa), rows(&rosa, WARM));
    for init in [Some(start.adapter()), None] {
        let init: Vec<_> = init.iter().map(|p| ("--init-adapter", p.as_path())).collect();
        let run = Run::train(&lines, "--method rosa --schedule wl3 --steps 5", &init);
        if !init.is_empty() {
            run.assert_masks(&rosa, "main");
        }
        let mask = run.masks();
        let flags = "--method rosa --schedule default --steps 5";
        let second = Run::train(&lines, flags, &[&init[..], &[("--mask", &mask)]].concat());
        let of = |r: &Run, phase: Phase| r.metrics().into_iter().filter(|m| m.phase == phase).collect::<Vec<_>>();
        assert_eq!((of(&run, Phase::Warmup).len(), of(&run, Phase::Collect).len()), (3, 1));
        let (first, second_steps) = (of(&run, Phase::Train), of(&second, Phase::Train));
        assert_eq!((first.len(), second_steps.len()), (5, 5));
        for (a, b) in first.iter().zip(&second_steps) {
            assert_eq!((a.step, a.schedule_step), (b.step + 4, b.schedule_step));
            assert_eq!((a.loss.to_bits(), a.grad_norm.to_bits()), (b.loss.to_bits(), b.grad_norm.to_bits()));
        }
        assert!(run.adapter_bytes() == second.adapter_bytes(), "the adapters differ");
    }
}

#[track_caller]
fn assert_losses(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (step, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance, "{what}: loss {g} at step {step}, expected {w}");
    }
}

/// Losses, and of the final adapter the `parts` that the run trains.
#[track_caller]
fn assert_run(rosa: &Tensors, run: &Run, name: &str, parts: &str) {
    let want = numbers(&format!("rosa/loss_f64/{name}"));
    assert_losses(name, &run.losses(), &want, tolerance(&format!("rosa.loss.abs/{name}")));
    let adapter = run.adapter();
    assert_eq!(adapter.modules.len(), 21);
    for (module, tensors) in &adapter.modules {
        let found = [
            ("A", tensors.a.as_ref().map(|a| &a.data)),
            ("B", tensors.b.as_ref().map(|b| &b.data)),
            ("S", tensors.sparse.as_ref().map(|s| &s.values)),
        ];
        for (part, values) in found {
            assert_eq!(values.is_some(), parts.contains(part), "{name}: {part} of {module}");
            let Some(values) = values else { continue };
            let want = rosa.f32(&format!("final.{name}.{module}.{part}"));
            let (l2, most) = (rel_l2(values, &want), max_abs(values, &want));
            let relative = tolerance(&format!("rosa.final.rel_l2/{name}.{part}"));
            let absolute = tolerance(&format!("rosa.final.max_abs/{name}.{part}"));
            assert!(l2 <= relative && most <= absolute, "{name}: {part} of {module}: relative {l2}, absolute {most}");
        }
    }
}
