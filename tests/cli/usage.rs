use super::{fails, rugosa, run};

#[test]
fn help_and_version_are_results() {
    let (code, stdout, stderr) = run(&mut rugosa("--help"));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for command in ["train", "plan", "eval", "generate", "preview", "devices", "demo"] {
        assert!(stdout.contains(command), "{stdout}");
    }
    let (code, stdout, _) = run(&mut rugosa("--version"));
    assert_eq!((code, stdout.trim()), (Some(0), concat!("rugosa ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn wrong_usage_is_2() {
    for args in ["", "nonsense", "devices --nonsense", "preview --model m", "preview --model m --data d --rows 0"] {
        let (code, stdout, stderr) = run(&mut rugosa(args));
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{args}: {stderr}");
        assert!(stderr.contains("Usage: ") || stderr.contains("--help"), "{args}: {stderr}");
    }
}

#[test]
fn a_log_filter_that_does_not_parse_is_wrong_usage() {
    fails(rugosa("devices").env("RUGOSA_LOG", "a=b=c"), 2, &["RUGOSA_LOG"]);
}

#[cfg(not(feature = "mpi"))]
#[test]
fn processes_that_cannot_know_of_each_other_are_refused() {
    let mut train = rugosa("train --model m --data d --out o");
    fails(train.env("OMPI_COMM_WORLD_SIZE", "2"), 2, &["OMPI_COMM_WORLD_SIZE: 2 processes", "docs/distributed.md"]);
}
