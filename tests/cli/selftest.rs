use super::{rugosa, run};
use serde_json::Value;

#[test]
fn every_kernel_has_a_line_and_a_verdict() {
    let (code, stdout, stderr) = run(&mut rugosa("selftest --quick --json"));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["failed"], 0);
    let cases = report["cases"].as_array().unwrap();
    assert_eq!(report["passed"].as_u64(), Some(cases.len() as u64));
    for case in cases {
        assert!(case["error_over_bound"].as_f64().unwrap() <= 1.0, "{case}");
        assert!(case["elements"].is_u64() && !case["bound"].as_str().unwrap().is_empty(), "{case}");
    }
    let kernels = report["kernels"].as_array().unwrap();
    assert_eq!(kernels.len(), rugosa::kernels::KERNELS.len());
    assert!(kernels.iter().any(|k| k["kernel"] == "adamw" && k["cases"].as_u64() > Some(0)));
}

#[test]
fn an_unknown_device_is_refused() {
    let mut command = rugosa("selftest --quick --device nonesuch");
    super::fails(&mut command, 1, &["--device", "nonesuch"]);
}
