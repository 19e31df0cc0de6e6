use super::parse::parse;
use super::*;

fn parsed(variables: &[(&str, &str)]) -> Parsed {
    parse(variables.iter().map(|(n, v)| (n.into(), v.into())))
}

#[test]
fn every_variable_sets_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let (settings, faults) = parsed(&[
        (DEVICE, "llvm"),
        (DISABLE, "f16, coop"),
        (LIMITS, "default"),
        (CLASS, "discrete"),
        (SPARSE, "apart"),
        (SELFTEST, "off"),
        (CACHE, folder),
        (DUMP_SHADERS, "./new"),
        (LOG, "info,wgpu_hal=debug,rugosa::train=trace"),
        (EPOCH, " 86400 "),
        (FAULT, "read-only:7"),
        (PORTABILITY, "quick"),
        (REQUIRE, "f16, coop"),
        (FUZZ_SECONDS, "0.5"),
        (RANK_TIMEOUT, "90"),
        ("RUGOSA_MUTANTS", "norm"),
        ("RUGOSA_TEST_INNER", "1"),
        ("PATH", "/bin"),
        ("HOME", "rugosa"),
    ]);
    assert_eq!(faults, []);
    let expected = Settings {
        device: Some("llvm".into()),
        disable: vec!["f16", "coop"],
        default_limits: true,
        class: Some("discrete"),
        separate_sparse: true,
        skip_selftest: true,
        cache: Cache::Folder(folder.into()),
        cuda: None,
        dump_shaders: Some("./new".into()),
        log: Some("info,wgpu_hal=debug,rugosa::train=trace".into()),
        rank_timeout: Some(90),
        source_date_epoch: Some(86400),
        fault: Some(Fault { kind: FaultKind::ReadOnly, at: 7 }),
    };
    assert_eq!(settings, expected);
    assert_eq!(parsed(&[(CACHE, "off"), (SELFTEST, "on")]).0, Settings { cache: Cache::Off, ..Settings::default() });
    let empty: Vec<_> = VARIABLES.iter().map(|v| (v.name, "")).collect();
    assert_eq!(parsed(&empty), (Settings::default(), vec![]), "empty counts as absent");
}

#[test]
fn wrong_values_and_names_are_told_with_the_near_one() {
    for (name, value, parts) in [
        (
            DISABLE,
            "f16,subgrup",
            "\"subgrup\" is none of f16, subgroup, coop, timestamps, int64, images, gemm; did you mean subgroup?",
        ),
        (DISABLE, "everything", "\"everything\" is none of"),
        (LIMITS, "defualt", "default is the one value; did you mean default?"),
        (CLASS, "gpu", "\"gpu\" is none of software, integrated, discrete"),
        (SPARSE, "1", "\"1\" means nothing here; apart is the one value"),
        (SELFTEST, "of", "\"of\" is none of on, off; did you mean off?"),
        (SELFTEST, "OFF", "did you mean off?"),
        (CACHE, "of", "is neither off nor a folder that exists; for a new one of that name write ./of"),
        (CACHE, "0", "is neither off nor a folder"),
        (DUMP_SHADERS, "yes", "\"yes\" is no folder that exists"),
        (LOG, "debgu", "\"debgu\" is neither a level (off, error"),
        (LOG, "debgu", "did you mean debug?"),
        (LOG, "rugsoa=debug", "did you mean rugosa?"),
        (LOG, "rugosa=loud", "\"loud\" is no level"),
        (LOG, "a=b=c", "\"a\" is neither"),
        (EPOCH, "yesterday", "\"yesterday\" is no whole number of seconds since 1970"),
        (EPOCH, "-1", "from 0 to 253402300799"),
        (EPOCH, "1700000000.5", "is no whole number"),
        (FAULT, "kil:1", "\"kil\" is none of kill, full, read-only; did you mean kill?"),
        (FAULT, "kill", "\"kill\" counts no operation, from 1, as kill:7 does"),
        (FAULT, "full:0", "\"full:0\" counts no operation"),
        (REQUIRE, "f16,cop", "\"cop\" is none of f16, subgroup"),
        (PORTABILITY, "quikc", "\"quikc\" is none of strict, quick; did you mean quick?"),
        (FUZZ_SECONDS, "ten", "\"ten\" is no number of seconds"),
        (FUZZ_SECONDS, "-1", "\"-1\" is no number of seconds"),
        (FUZZ_SECONDS, "inf", "\"inf\" is no number of seconds"),
        ("RUGOSA_DEVCE", "0", "no variable of rugosa has this name; did you mean RUGOSA_DEVICE?"),
        ("rugosa_log", "debug", "did you mean RUGOSA_LOG?"),
        ("ROGUSA_SPARSE", "apart", "did you mean RUGOSA_SPARSE?"),
        ("RUGOSA_VERBOSE", "1", "no variable of rugosa has this name (rugosa ⟨help⟩"),
    ] {
        let (settings, faults) = parsed(&[(name, value)]);
        assert!(
            matches!(faults.as_slice(), [(n, reason)] if n == name && reason.contains(parts)),
            "{name}={value}: {faults:?}"
        );
        assert_eq!(settings, Settings::default(), "{name}={value} sets something");
    }
    let two = parsed(&[(SPARSE, "x"), ("RUGOSA_X", "y"), (SELFTEST, "off")]);
    assert_eq!((two.1.len(), two.0.skip_selftest), (2, true));
}

#[test]
fn switches_are_the_variables_that_change_how_things_are_computed() {
    let said = |list: &[(&str, &str)]| parsed(list).0.switches();
    assert_eq!(said(&[(DEVICE, "0"), (CACHE, "off"), (EPOCH, "1"), (SELFTEST, "off")]), []);
    let all = said(&[(DISABLE, "coop, f16"), (LIMITS, "default"), (CLASS, "discrete"), (SPARSE, "apart")]);
    let text = |(name, value): &(&str, String)| format!("{name}={value}");
    assert_eq!(
        all.iter().map(text).collect::<Vec<_>>(),
        ["RUGOSA_DISABLE=f16,coop", "RUGOSA_LIMITS=default", "RUGOSA_CLASS=discrete", "RUGOSA_SPARSE=apart"]
    );
    // the device shows itself, its tiles are kept in states, and dates show in the rows
    let elsewhere = [DEVICE, CACHE, EPOCH];
    let changing = VARIABLES.iter().filter(|v| v.numbers.is_some()).map(|v| v.name);
    let here: Vec<_> = changing.filter(|name| !elsewhere.contains(name)).collect();
    assert_eq!(here, all.iter().map(|(name, _)| *name).collect::<Vec<_>>());
}

#[test]
fn a_file_is_no_folder() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let (_, faults) = parsed(&[(CACHE, file.path().to_str().unwrap())]);
    assert!(faults[0].1.ends_with("is a file; a folder is expected"), "{faults:?}");
}

#[test]
fn help_and_readme_have_the_whole_table() {
    let (help, readme) = (help(), include_str!("../../README.md"));
    for v in VARIABLES.iter().filter(|v| v.reader == Reader::Program) {
        assert!(help.contains(v.name) && help.contains(v.what), "{}", v.name);
        assert!(v.numbers.is_none_or(|why| help.contains(why)), "{}", v.name);
    }
    for line in markdown().lines() {
        assert!(readme.lines().any(|l| l == line), "README.md wants this line: {line}");
    }
}
