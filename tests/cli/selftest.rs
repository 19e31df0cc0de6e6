use super::{rugosa, run};
use serde_json::Value;

#[test]
fn cases_for_which_there_was_no_time_are_counted() {
    let (code, stdout, stderr) = run(&mut rugosa("selftest --quick --limit 0"));
    assert_eq!(code, Some(0), "{stderr}");
    let last = stdout.lines().last().unwrap();
    assert!(last.starts_with("0 passed, 0 failed, ") && last.contains(" not run in time in "), "{last}");
    let (_, stdout, _) = run(&mut rugosa("selftest --quick --limit 0 --json"));
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert!(report["not_run"].as_u64() > Some(100) && report["passed"] == 0, "{report}");
}

#[test]
fn an_unknown_device_is_refused() {
    let mut command = rugosa("selftest --quick --device nonesuch");
    super::fails(&mut command, 1, &["--device", "nonesuch"]);
}

/// Whole self-tests take a minute each.
mod thorough {
    use super::*;

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
    fn shaders_are_dumped_as_the_driver_gets_them() {
        let folder = tempfile::tempdir().unwrap();
        let dump = folder.path().join("shaders");
        let mut command = rugosa("selftest --quick");
        let (code, stdout, stderr) = run(command.env("RUGOSA_DUMP_SHADERS", &dump));
        assert_eq!(code, Some(0), "{stderr}");
        let files: Vec<_> = std::fs::read_dir(&dump).unwrap().map(|f| f.unwrap().path()).collect();
        let name = |f: &std::path::PathBuf| f.file_name().unwrap().to_str().unwrap().to_string();
        for line in stdout.lines().filter(|l| l.ends_with("  pass")) {
            let kernel = line.split_whitespace().next().unwrap();
            assert!(files.iter().any(|f| name(f).starts_with(&format!("{kernel}-"))), "{kernel}");
        }
        for file in &files {
            let text = std::fs::read_to_string(file).unwrap();
            let kernel = name(file).rsplit_once('-').unwrap().0.to_string();
            // behind what the shader enables, which has to come first
            let first = text.lines().find(|line| !line.starts_with("enable ")).unwrap_or_default();
            assert!(first.starts_with(&format!("// {kernel} [")) && text.contains("@compute"), "{file:?}");
        }
        // where nothing can be written, it is said
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut command = rugosa("selftest --quick");
        command.env("RUGOSA_DUMP_SHADERS", file.join("x")).env("RUGOSA_CACHE", file.join("y"));
        let (code, _, stderr) = run(&mut command);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.lines().any(|l| l.contains("RUGOSA_DUMP_SHADERS: ") && l.contains("/file")), "{stderr}");
        assert!(stderr.lines().any(|l| l.contains("RUGOSA_CACHE: ") && l.contains("/file")), "{stderr}");
    }
}
