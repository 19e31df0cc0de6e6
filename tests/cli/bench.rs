use super::{fails, rugosa, run};
use serde_json::Value;

/// One step of the smallest sizes.
const STEP: &str =
    "bench step --shape tiny --batch-size 2 --seq-len 16 --steps 1 --warmup 1 --weights f16 --density 0.01";

#[test]
fn steps_are_measured_and_told_in_json() {
    let (code, stdout, stderr) = run(&mut rugosa(&format!("{STEP} --method lora,rosa,spa --json")));
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    for key in ["device", "driver", "api", "version", "command"] {
        assert!(report[key].as_str().is_some_and(|t| !t.is_empty()), "{key} in {report}");
    }
    assert!(report["command"].as_str().unwrap().starts_with("rugosa bench step --shape tiny"), "{report}");
    let rows = report["rows"].as_array().unwrap();
    let methods: Vec<_> = rows.iter().map(|r| r["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["lora", "rosa", "spa"]);
    let number =
        |r: &Value, path: &str| r.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {r}"));
    for r in rows {
        for path in
            ["/tokens_per_second", "/step_ms/median", "/forward_ms/median", "/backward_ms/median", "/peak_bytes"]
        {
            assert!(number(r, path) > 0.0, "{path} in {r}");
        }
        assert!(number(r, "/seconds_to_first_step") >= number(r, "/first_step_seconds"));
        assert!(number(r, "/step_ms/min") <= number(r, "/step_ms/max"));
        // nothing is compiled, and hardly anything allocated, once the first step is over
        assert_eq!(number(r, "/per_step/pipelines"), 0.0, "{r}");
        assert!(number(r, "/per_step/launches") > 100.0, "{r}");
        // random weights: the loss is near that of a guess among 512
        assert!((number(r, "/first_loss") - 512f64.ln()).abs() < 0.5, "{r}");
        assert!(number(r, "/peak_reserved_bytes") >= number(r, "/peak_bytes"));
    }
    let of = |i: usize| number(&rows[i], "/parameters");
    assert_eq!(of(0) + of(2), of(1), "RoSA trains what LoRA and the sparse adapter train together");
}

#[test]
fn a_table_goes_to_standard_output_and_json_to_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bench.json");
    let command = format!("{STEP} --method rosa --checkpointing 2 --mask clustered --json {}", file.display());
    let (code, stdout, stderr) = run(&mut rugosa(&command));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.starts_with("shape") && stdout.contains("tokens/s") && stdout.contains("2 x 16 ckpt 2"), "{stdout}");
    assert!(stderr.contains("device: "), "{stderr}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(report["rows"][0]["checkpointing"], "2");
    assert_eq!(report["rows"][0]["mask"], "clustered");
    let count = |name: &str| report["rows"][0][name].as_u64().unwrap();
    assert!(count("kernels") > 10, "{report}");
    assert_eq!(count("late_kernels"), 0, "the first step compiles nothing");
}

#[test]
fn a_profile_names_kernels_and_their_shares() {
    let (code, stdout, stderr) = run(&mut rugosa(&format!("{STEP} --method rosa --profile --json")));
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let kernels = report["rows"][0]["profile"]["kernels"].as_array().unwrap();
    let share: f64 = kernels.iter().map(|k| k["share"].as_f64().unwrap()).sum();
    assert!((share - 1.0).abs() < 1e-6, "{share}");
    for name in ["attention_forward", "adamw", "cross_entropy_grad"] {
        // a device may have another form of it: attention_forward_simd, attention_forward_coop
        let is = |k: &Value| k["kernel"].as_str().is_some_and(|k| k.starts_with(name));
        assert!(kernels.iter().any(|k| is(k) && k["launches"].as_u64() > Some(0)), "{name}");
    }
    let mut without = rugosa(&format!("{STEP} --method rosa --profile"));
    fails_at_the_end(without.env("RUGOSA_DISABLE", "timestamps"), &["--profile", "no timestamps", "leave it out"]);
}

/// The last line of standard error is the error.
#[track_caller]
fn fails_at_the_end(command: &mut std::process::Command, parts: &[&str]) {
    let (code, stdout, stderr) = run(command);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: ") && parts.iter().all(|p| last.contains(p)), "{stderr}");
}

#[test]
fn kernels_are_measured_against_a_floor() {
    let args = "bench kernels --shape tiny --tokens 32 --weights bf16 --precision f32 --repeats 1 --filter tiny --json";
    let (code, stdout, stderr) = run(&mut rugosa(args));
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    for ceiling in ["copy_gb_per_second", "product_f32_tflops"] {
        assert!(report["ceilings"][ceiling].as_f64() > Some(0.0), "{report}");
    }
    let rows = report["rows"].as_array().unwrap();
    for op in ["rosa_linear", "sddmm", "attention", "attention_backward", "head", "rmsnorm", "adamw", "topk"] {
        assert!(rows.iter().any(|r| r["op"] == op), "{op}");
    }
    for row in rows {
        assert!(row["wall_ms"]["median"].as_f64() > Some(0.0) && row["floor_ms"].as_f64() > Some(0.0), "{row}");
        assert!(!row["kernels"].as_array().unwrap().is_empty(), "{row}");
    }
    let with_s = rows.iter().find(|r| r["op"] == "rosa_linear" && !r["baseline"].is_null()).unwrap();
    assert!(with_s["baseline"]["times_as_long"].as_f64() > Some(0.0), "{with_s}");
}

#[test]
fn an_unknown_shape_is_answered_with_those_there_are() {
    let names = ["gpt-5", "--shape", "smollm2-135m", "llama3.2-1b", "llama2-7b", "qwen3-0.6b", "tiny"];
    fails(&mut rugosa("bench step --shape gpt-5"), 2, &names);
    fails(&mut rugosa("bench kernels --shape tiny,gpt-5"), 2, &names);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    fails(&mut rugosa(&format!("{STEP} --json nonesuch/a.json")), 1, &["nonesuch"]);
    // 172 is no whole number of blocks of 32
    fails(&mut rugosa("bench step --shape tiny --weights q4 --steps 1"), 1, &["tiny", "172", "Q4_1"]);
    fails(&mut rugosa("bench step --shape tiny --weights f32 --seq-len 4096"), 1, &["--seq-len", "2048"]);
    for args in ["--density 0", "--density 1.5", "--method full", "--steps 0", "--rank 0", "--weights f8"] {
        let (code, stdout, stderr) = run(&mut rugosa(&format!("bench step {args}")));
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{args}: {stderr}");
    }
}

#[test]
fn plans_of_kernels_are_printed_without_measuring() {
    let args = "bench kernels --shape tiny --tokens 32 --weights bf16 --precision f32 --filter rosa_linear,sddmm,attention,rmsnorm --plan";
    let (code, out, stderr) = run(&mut rugosa(args));
    assert_eq!(code, Some(0), "{stderr}");
    for line in [
        "  rosa_linear Nt 32x",
        "W in the tile",
        "  sddmm ",
        "  attention Forward 32 queries",
        "low rank fused by 4",
        "  rmsnorm [32, 64]: ",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
    assert!(!out.contains(" ms"), "{out}");
}
