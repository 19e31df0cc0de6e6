//! Commands about the program and the machine.

use super::{model, rugosa, run};

#[test]
fn the_doctor_names_device_features_disk_and_environment() {
    let (code, stdout, stderr) =
        run(rugosa("doctor --no-selftest").env("HF_TOKEN", "hf_secret").env("RUGOSA_DISABLE", "f16"));
    assert_eq!(code, Some(0), "{stderr}");
    for part in
        ["rugosa", "device", "driver", "features", "matrix units", "disk", "HF_TOKEN=(not shown)", "RUGOSA_DISABLE=f16"]
    {
        assert!(stdout.contains(part), "{part} in {stdout}");
    }
    assert!(!stdout.contains("hf_secret") && stdout.lines().all(|l| l.starts_with("ok ") || l.starts_with("note ")));
    let (code, stdout, _) = run(&mut rugosa("doctor --no-selftest --json --device nothing-of-this-name"));
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let bad = json["findings"].as_array().unwrap().iter().find(|f| f["is"] == "bad").unwrap();
    assert!(code == Some(1) && bad["text"].as_str().unwrap().contains("docs/install.md"), "{stdout}");
}

#[test]
fn shells_and_man_know_every_command() {
    let commands = ["train", "chat", "doctor", "completions", "selftest"];
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let (code, stdout, stderr) = run(&mut rugosa(&format!("completions {shell}")));
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{shell}");
        assert!(
            commands.iter().all(|c| stdout.contains(c)) && stdout.contains("gradient-accumulation-steps"),
            "{shell}"
        );
    }
    let (code, page, stderr) = run(&mut rugosa("man"));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for part in [
        ".TH rugosa 1",
        ".SH \"RUGOSA TRAIN\"",
        ".SH \"RUGOSA BENCH KERNELS\"",
        "Exit codes",
        "rugosa chat \\-\\-model",
    ] {
        assert!(page.contains(part), "{part} in the page");
    }
}

#[test]
fn quiet_says_nothing_and_no_color_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.jsonl");
    std::fs::write(&data, "{\"prompt\": \"2+2=\", \"response\": \"4\"}\n").unwrap();
    let model = model::gguf(folder.path());
    let preview = |args: &str| {
        let mut command = rugosa(args);
        command.arg("--model").arg(&model).arg("--data").arg(&data);
        command
    };
    for args in ["preview --quiet", "--quiet preview"] {
        let (code, stdout, stderr) = run(&mut preview(args));
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert!(stdout.contains("2+2="), "{stdout}");
    }
    let (code, _, stderr) = run(rugosa("--quiet preview --model nowhere --data").arg(&data));
    assert!(code == Some(1) && stderr.starts_with("error: "), "{stderr}");
    let (_, stdout, _) = run(preview("preview").env("NO_COLOR", "1"));
    assert!(!stdout.contains('\u{1b}'), "{stdout:?}");
}
