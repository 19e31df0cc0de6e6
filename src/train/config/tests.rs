use super::*;
use proptest::prelude::*;

/// The three options that have no default.
fn paths() -> PartialConfig {
    PartialConfig {
        model: Some("model dir/m.gguf".into()),
        data: Some("rows.jsonl".into()),
        out: Some("run".into()),
        ..PartialConfig::default()
    }
}

fn from_text(text: &str) -> Result<PartialConfig> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, text).unwrap();
    PartialConfig::from_toml(&path)
}

/// What `text` as a file, with the three paths as flags, resolves to.
fn resolve(text: &str) -> Result<TrainConfig> {
    TrainConfig::resolve(from_text(text)?, paths())
}

fn message(text: &str) -> String {
    let m = resolve(text).expect_err(text).to_string();
    assert!(!m.contains('\n'), "{m}");
    m
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let c = resolve("").unwrap();
    assert_eq!((c.method, c.rank, c.alpha, c.density, c.dropout), (Method::Rosa, 8, 16.0, 0.006, 0.0));
    assert_eq!((c.lr, c.lora_lr, c.lr_schedule, c.max_grad_norm), (2e-4, 7e-4, LrSchedule::Linear, 0.0));
    assert_eq!((c.schedule, c.restart, c.mask_grads), (None, true, None), "the schedule follows from the data");
    assert_eq!((c.epochs, c.steps, c.warmup_steps, c.gradient_accumulation_steps), (None, None, None, None));
    assert_eq!(c.target_modules.0, ["all-linear"]);
}

#[test]
fn flags_win_over_the_file_and_the_file_over_the_defaults() {
    let file = from_text("rank = 4\nlr = 1\nsteps = 7\npacking = false\ntarget_modules = 'q_proj,v_proj'").unwrap();
    let flags = PartialConfig { rank: Some(2), epochs: Some(0.5), ..paths() };
    let c = TrainConfig::resolve(file, flags).unwrap();
    assert_eq!((c.rank, c.lr, c.packing, c.lora_lr), (2, 1.0, false, 7e-4));
    assert_eq!((c.steps, c.epochs), (None, Some(0.5)), "a flag's epochs replace the file's steps");
    assert_eq!(c.target_modules.0, ["q_proj", "v_proj"]);
}

#[test]
fn a_schedule_follows_the_method() {
    let of = |text: &str| resolve(text).unwrap().schedule.unwrap().to_string();
    assert_eq!(of("method = 'lora'"), "lora_only");
    assert_eq!(of("method = 'spa'"), "spa_only");
    assert_eq!(of("method = 'full'"), "default");
    assert_eq!(of("mask = 'm.safetensors'"), "default");
    // another method's schedule in the file is not in the way of a flag
    let file = from_text(&resolve("").unwrap().for_data(9).unwrap().to_toml().unwrap()).unwrap();
    let flags = PartialConfig { method: Some(Method::Lora), ..PartialConfig::default() };
    assert_eq!(TrainConfig::resolve(file, flags).unwrap().schedule, Some(Schedule::LoraOnly));
}

#[test]
fn one_rate_is_enough_for_lora() {
    assert_eq!(resolve("method = 'lora'\nlr = 0.5").unwrap().lora_lr, 0.5);
    assert_eq!(resolve("method = 'lora'\nlr = 0.5\nlora_lr = 0.1").unwrap().lora_lr, 0.1);
    assert_eq!(resolve("lr = 0.5").unwrap().lora_lr, 7e-4);
    // a run's own file has both; the flag wins over both
    let file = || from_text("method = 'lora'\nlr = 0.5\nlora_lr = 0.1").unwrap();
    let of = |flags: PartialConfig| TrainConfig::resolve(file(), flags.or(paths())).unwrap().lora_lr;
    assert_eq!(of(PartialConfig { lr: Some(0.3), ..PartialConfig::default() }), 0.3);
    assert_eq!(of(PartialConfig { lr: Some(0.3), lora_lr: Some(0.2), ..PartialConfig::default() }), 0.2);
}

#[test]
fn masks_have_a_place_to_go() {
    let of = |text: &str| resolve(text).unwrap().mask_file();
    assert_eq!(of(""), None);
    assert_eq!(of("mask_only = true"), Some(Path::new("run").join("masks.safetensors")));
    assert_eq!(of("mask_only = true\nsave_mask = 'a'"), Some("a".into()));
    assert_eq!(of("save_mask = 'a'"), Some("a".into()));
}

#[test]
fn unknown_keys_are_named_with_the_nearest_one() {
    let m = message("rank = 4\nlora-lr = 1e-3");
    assert!(m.contains("c.toml: lora-lr: unknown key; the nearest known one is lora_lr"), "{m}");
    assert!(message("dropuot = 0.1").ends_with("dropout"));
}

#[test]
fn wrong_types_and_broken_files_are_placed() {
    assert!(message("rank = 'four'").contains("c.toml: rank: invalid type: string \"four\", expected usize"));
    assert!(message("rank = -1").contains("c.toml: rank: invalid value"), "{}", message("rank = -1"));
    assert!(message("method = 'dora'").contains("c.toml: method: unknown variant `dora`"));
    assert!(message("schedule = 'wlx'").contains("wlN"));
    assert!(message("rank_pattern = 3").contains("c.toml: rank_pattern:"));
    assert!(message("rank = 4\n\nlr = = 3").contains("c.toml:3: "), "{}", message("rank = 4\n\nlr = = 3"));
    assert!(message("rank = 4\nrank = 5").contains("c.toml:2: "), "{}", message("rank = 4\nrank = 5"));
    let err = PartialConfig::from_toml(Path::new("no/such.toml")).unwrap_err();
    assert!(matches!(&err, Error::Io { .. }) && err.to_string().starts_with("no/such.toml: "), "{err}");
}

#[test]
fn what_is_needed_is_asked_for() {
    for (key, partial) in [
        ("⟨model⟩", PartialConfig { model: None, ..paths() }),
        ("⟨data⟩", PartialConfig { data: None, ..paths() }),
        ("⟨out⟩", PartialConfig { out: None, ..paths() }),
    ] {
        let err = TrainConfig::resolve(PartialConfig::default(), partial).unwrap_err();
        assert!(matches!(&err, Error::Invalid { what, .. } if what == key), "{err}");
    }
}

#[test]
fn values_and_combinations_without_meaning_are_refused() {
    // configuration, option named, a part of the reason or the way out
    let table = [
        ("rank = 0", "⟨rank⟩", "⟨method⟩ spa"),
        ("density = 0", "⟨density⟩", "⟨method⟩ lora"),
        ("method = 'lora'\nrank = 0", "⟨rank⟩", "⟨rank⟩ 8"),
        ("method = 'spa'\ndensity = 0", "⟨density⟩", "⟨density⟩ 0.006"),
        ("density = 1.5", "⟨density⟩", "0.006 for 0.6 %"),
        ("density = nan", "⟨density⟩", "NaN"),
        ("density_pattern = { q_proj = -0.1 }", "⟨density_pattern⟩", "q_proj=-0.1"),
        ("alpha = 0", "⟨alpha⟩", "over 0"),
        ("alpha_pattern = { q_proj = inf }", "⟨alpha_pattern⟩", "q_proj=inf"),
        ("dropout = 1", "⟨dropout⟩", "outside of 0"),
        ("beta2 = 1.0", "⟨beta2⟩", "outside of 0"),
        ("lr = -1e-4", "⟨lr⟩", "0 or more"),
        ("lora_lr = inf", "⟨lora_lr⟩", "0 or more"),
        ("weight_decay = nan", "⟨weight_decay⟩", "0 or more"),
        ("max_grad_norm = -1", "⟨max_grad_norm⟩", "0 or more"),
        ("eps = 0", "⟨eps⟩", "1e-8"),
        ("batch_size = 0", "⟨batch_size⟩", "at least 1"),
        ("gradient_accumulation_steps = 0", "⟨gradient_accumulation_steps⟩", "at least 1"),
        ("seq_len = 1", "⟨seq_len⟩", "at least 2"),
        ("mask_grads = 0", "⟨mask_grads⟩", "⟨mask⟩ FILE"),
        ("log_steps = 0", "⟨log_steps⟩", "at least 1"),
        ("steps = 0", "⟨steps⟩", "at least 1"),
        ("epochs = 0.0", "⟨epochs⟩", "over 0"),
        ("steps = 5\nepochs = 1", "⟨steps⟩", "one of them"),
        ("steps = 5\nwarmup_steps = 6", "⟨warmup_steps⟩", "more ⟨steps⟩"),
        ("schedule = 'lora_only'", "⟨schedule⟩", "⟨method⟩ lora"),
        ("method = 'lora'\nschedule = 'wl64'", "⟨schedule⟩", "lora_only"),
        ("method = 'lora'\nschedule = 'spa_only'", "⟨schedule⟩", "lora_only"),
        ("method = 'spa'\nschedule = 'wl1'", "⟨schedule⟩", "spa_only"),
        ("method = 'spa'\nschedule = 'lora_only'", "⟨schedule⟩", "spa_only"),
        ("method = 'full'\nschedule = 'wl1'", "⟨schedule⟩", "method full"),
        ("method = 'lora'\nmask = 'm'", "⟨mask⟩", "no masks"),
        ("method = 'full'\nsave_mask = 'm'", "⟨save_mask⟩", "no masks"),
        ("method = 'lora'\nmask_only = true", "⟨mask_only⟩", "no masks"),
        ("mask_only = true\nsave_mask = 'a'\nmask = 'b'", "⟨mask_only⟩", "⟨mask⟩ already"),
        ("method = 'full'\ninit_adapter = 'a'", "⟨init_adapter⟩", "trains no adapter"),
        ("prompt_field = ''", "⟨prompt_field⟩", "empty"),
        ("prompt_field = 'response'", "⟨response_field⟩", "prompt's field"),
    ];
    for (text, option, reason) in table {
        let m = message(text);
        assert!(m.starts_with(&format!("{option}: ")) && m.contains(reason), "{text}: {m}");
    }
    let flags = PartialConfig { seed: Some(u64::MAX), ..paths() };
    let m = TrainConfig::resolve(PartialConfig::default(), flags).unwrap_err().to_string();
    assert!(m.starts_with("⟨seed⟩: "), "{m}");
}

#[test]
fn patterns_can_give_what_the_common_value_leaves_out() {
    let c = resolve("density = 0\ndensity_pattern = { 'mlp.down_proj' = 0.01 }").unwrap();
    assert_eq!(c.density_pattern.get("model.layers.3.mlp.down_proj"), Some(0.01));
    assert!(resolve("rank = 0\nrank_pattern = { q_proj = 2 }").is_ok());
}

#[test]
fn a_method_has_only_its_own_half() {
    let rules = |method: &str| {
        let text =
            format!("method = '{method}'\nrank_pattern = {{ q_proj = 2 }}\ndensity_pattern = {{ q_proj = 0.5 }}");
        let r = resolve(&text).unwrap().target_rules();
        (r.rank, r.rank_pattern.0.len(), r.density, r.density_pattern.0.len())
    };
    assert_eq!(rules("rosa"), (8, 1, 0.006, 1));
    assert_eq!(rules("lora"), (8, 1, 0.0, 0));
    assert_eq!(rules("spa"), (0, 0, 0.006, 1));
    assert_eq!(rules("full"), (0, 0, 0.0, 0));
}

#[test]
fn lengths_follow_from_the_data() {
    let of = |text: &str| resolve(text).unwrap();
    assert_eq!(of("epochs = 2.5").total_steps(5), 13);
    assert_eq!(of("").total_steps(5), 5);
    assert_eq!(of("steps = 9").total_steps(5), 9);
    assert_eq!(of("epochs = 1e300").total_steps(5), i64::MAX as u64);
    assert_eq!((of("").warmup(1000), of("").warmup(50), of("").warmup(9)), (20, 5, 0));
    assert_eq!(of("warmup_steps = 3").warmup(1000), 3);
}

/// The configuration of `text` for a number of sequences.
fn derived(text: &str, sequences: usize) -> TrainConfig {
    let c = resolve(text).unwrap().for_data(sequences).unwrap();
    assert_eq!(c.clone().for_data(sequences).unwrap(), c, "nothing is left to follow");
    c
}

#[test]
fn what_comes_before_the_masks_is_a_share_of_the_run_up_to_the_paper_s() {
    // steps, schedule, steps that choose the masks, steps over which the rates rise
    let of = |c: TrainConfig| (c.schedule.unwrap().to_string(), c.mask_grads.unwrap(), c.warmup_steps.unwrap());
    let table = [
        (1, "default", 1, 0),
        (3, "default", 1, 0),
        (8, "wl1", 1, 0),
        (86, "wl20", 1, 8),
        (259, "wl63", 1, 20),
        (260, "wl64", 1, 20),
        (9999, "wl64", 1, 20),
    ];
    for (steps, schedule, grads, rise) in table {
        assert_eq!(of(derived(&format!("steps = {steps}"), 650)), (schedule.to_owned(), grads, rise), "{steps}");
    }
    assert_eq!(of(derived("", 8 * 260)), ("wl64".into(), 1, 20));
    assert_eq!(of(derived("schedule = 'wl64'\nwarmup_steps = 1\nmask_grads = 3", 8)), ("wl64".into(), 3, 1));
    assert_eq!(of(derived("schedule = 'wl2'\nsteps = 99\ngradient_accumulation_steps = 1", 8)), ("wl2".into(), 1, 9));
    // masks come from as many micro-batches however few a step has
    assert_eq!(of(derived("steps = 100\ngradient_accumulation_steps = 1", 650)), ("wl17".into(), 8, 10));
    assert_eq!(of(derived("steps = 9\ngradient_accumulation_steps = 1", 650)), ("default".into(), 2, 0));
}

#[test]
fn few_rows_make_smaller_steps_and_then_more_epochs() {
    let of = |text: &str, sequences: usize| {
        let c = derived(text, sequences);
        (c.micro_batches(), c.epochs.unwrap(), c.total_steps(sequences.div_ceil(c.micro_batches()) as u64))
    };
    let table = [
        (1, (1, 10.0, 10)),
        (8, (1, 10.0, 80)),
        (35, (1, 3.0, 105)),
        (125, (1, 1.0, 125)),
        (200, (2, 1.0, 100)),
        (799, (7, 1.0, 115)),
        (800, (8, 1.0, 100)),
        (99_999, (8, 1.0, 12_500)),
    ];
    for (sequences, expected) in table {
        assert_eq!(of("", sequences), expected, "{sequences}");
        assert_eq!(of("method = 'lora'", sequences), expected, "the other methods' too: {sequences}");
    }
    assert_eq!(of("epochs = 2.0", 24), (1, 2.0, 48), "what is given stays");
    assert_eq!(of("gradient_accumulation_steps = 8", 24), (8, 10.0, 30));
    assert_eq!(of("like_paper = true", 24), (32, 1.0, 1));
    let c = derived("steps = 3", 24);
    assert_eq!((c.micro_batches(), c.epochs), (8, None));
}

#[test]
fn a_warm_up_longer_than_the_run_is_refused() {
    let m = resolve("warmup_steps = 4\nepochs = 1.0").unwrap().for_data(3).unwrap_err().to_string();
    assert!(m.starts_with("⟨warmup_steps⟩: 4 is more than the 3 steps of the run") && m.contains("⟨epochs⟩"), "{m}");
    assert!(resolve("warmup_steps = 3\nepochs = 1.0").unwrap().for_data(3).is_ok());
}

#[test]
fn like_the_paper_is_one_flag_that_other_flags_win_over() {
    let check = |c: &TrainConfig| {
        assert_eq!((c.rank, c.alpha, c.density, c.dropout), (16, 16.0, 0.006, 0.05));
        assert_eq!(
            (c.schedule, c.mask_grads, c.mask_mode, c.restart),
            (Some(Schedule::WarmLora(64)), Some(1), MaskMode::MeanSquared, true)
        );
        assert_eq!((c.batch_size, c.gradient_accumulation_steps, c.packing, c.seq_len), (1, Some(32), false, 512));
        assert_eq!(
            (c.lr, c.lora_lr, c.warmup_steps, c.max_grad_norm, c.weight_decay),
            (2e-4, 7e-4, Some(20), 0.0, 0.0)
        );
        assert_eq!((c.loss_normalisation, c.too_long), (LossNormalisation::MicroBatch, TooLong::KeepEnd));
        assert!(c.bos_before_response && c.like_paper);
        assert_eq!(c.adapter_dtype, AdapterDtype::Bf16);
    };
    let flags = || PartialConfig { like_paper: Some(true), ..PartialConfig::default() };
    let paper = resolve("like_paper = true").unwrap().for_data(2000).unwrap();
    check(&paper);
    assert_eq!((paper.epochs, paper.steps), (Some(1.0), None));
    // a run that is shorter than the paper's warm-up goes on, with a line about it
    check(&resolve("like_paper = true\nsteps = 3").unwrap().for_data(2000).unwrap());
    // the flag wins over a file, whose keys win over its own
    let file = || from_text("rank = 4\ndropout = 0.0\npacking = true\nsteps = 7\nschedule = 'wl3'").unwrap();
    let over = TrainConfig::resolve(file(), flags().or(paths())).unwrap();
    check(&over);
    assert_eq!((over.epochs, over.steps), (None, None));
    let own = TrainConfig::resolve(PartialConfig { like_paper: Some(true), ..file() }, paths()).unwrap();
    assert_eq!(
        (own.rank, own.dropout, own.packing, own.alpha, own.gradient_accumulation_steps),
        (4, 0.0, true, 16.0, Some(32))
    );
    // flags win over the flag
    let flags =
        PartialConfig { rank: Some(2), steps: Some(9), schedule: Some(Schedule::WarmLora(1)), ..flags().or(paths()) };
    let c = TrainConfig::resolve(PartialConfig::default(), flags).unwrap();
    assert_eq!((c.rank, c.steps, c.schedule, c.dropout), (2, Some(9), Some(Schedule::WarmLora(1)), 0.05));
    // weights that train as a whole are not rounded
    let full = |more: &str| resolve(&format!("method = 'full'\n{more}"));
    assert_eq!(full("like_paper = true").unwrap().adapter_dtype, AdapterDtype::F32);
    let refused = full("adapter_dtype = 'bf16'").unwrap_err().to_string();
    assert!(refused.starts_with("⟨adapter_dtype⟩: method full") && refused.contains("⟨method⟩ rosa"), "{refused}");
    // another method keeps its own schedule
    assert_eq!(resolve("like_paper = true\nmethod = 'lora'").unwrap().schedule, Some(Schedule::LoraOnly));
    assert_eq!(resolve("like_paper = true\nmethod = 'lora'\nlr = 0.5").unwrap().lora_lr, 0.5);
}

#[test]
fn every_default_is_shown_as_it_would_be_typed() {
    let shown: std::collections::BTreeMap<_, _> = defaults().into_iter().collect();
    assert_eq!(shown["target_modules"], "all-linear");
    assert_eq!((&*shown["lr"], &*shown["eps"], &*shown["alpha"]), ("0.0002", "1e-8", "16"));
    assert_eq!(shown["rank_pattern"], "");
    assert_eq!(shown["loss_normalisation"], "tokens");
}

prop_compose! {
    /// Any configuration of the methods rosa and spa that passes the checks, with awkward numbers and names.
    fn any_config()(
        (spa, rank, alpha, density) in (any::<bool>(), 1usize..999, 1e-30f64..1e30, 1e-9f64..=1.0),
        (lr, lora_lr, eps, dropout) in (0f64..1.0, 0f64..1e9, 1e-30f64..1.0, 0f64..1.0),
        (seed, steps, warmup) in (0u64..=i64::MAX as u64, prop::option::of(1u64..1000), prop::option::of(0u64..1)),
        epochs in 1e-9f64..1e9,
        names in prop::collection::btree_map("[a-z_.* \"=]{1,12}", 0usize..99, 0..4),
        field in "\\PC{1,9}",
        (wl, restart, packing, rslora, device) in
            (0u32..100, any::<bool>(), any::<bool>(), any::<bool>(), prop::option::of("\\PC{0,9}")),
    ) -> TrainConfig {
        let method = if spa { Method::Spa } else { Method::Rosa };
        let flags = PartialConfig {
            method: Some(method),
            schedule: Some(if spa { Schedule::SpaOnly } else { Schedule::WarmLora(wl) }),
            rank: Some(rank), alpha: Some(alpha), density: Some(density), lr: Some(lr), lora_lr: Some(lora_lr),
            eps: Some(eps), dropout: Some(dropout), seed: Some(seed), steps, warmup_steps: warmup,
            epochs: steps.is_none().then_some(epochs),
            target_modules: Some(TargetModules(vec!["q_proj".into(), field.clone()])),
            rank_pattern: Some(PerModule(names)),
            prompt_field: Some(format!("p{field}")),
            response_field: Some(format!("r{field}")),
            restart: Some(restart), packing: Some(packing), rslora: Some(rslora), device,
            ..paths()
        };
        TrainConfig::resolve(PartialConfig::default(), flags).unwrap()
    }
}

proptest! {
    #[test]
    fn a_written_configuration_resolves_to_itself(config in any_config()) {
        let text = config.to_toml().unwrap();
        let again = TrainConfig::resolve(from_text(&text).unwrap(), PartialConfig::default()).unwrap();
        prop_assert_eq!(again, config);
    }
}

#[test]
fn every_method_writes_a_configuration_that_can_be_read() {
    for method in ["rosa", "lora", "spa", "full"] {
        let config = resolve(&format!("method = '{method}'")).unwrap().for_data(100).unwrap();
        let text = config.to_toml().unwrap();
        assert!(text.starts_with("model = \"model dir/m.gguf\"\n"), "{text}");
        for key in ["schedule", "warmup_steps", "epochs", "lora_lr", "mask_grads", "gradient_accumulation_steps"] {
            assert!(text.contains(&format!("\n{key} = ")), "{key} is missing in {text}");
        }
        let again = TrainConfig::resolve(from_text(&text).unwrap(), PartialConfig::default()).unwrap();
        assert_eq!(again, config);
    }
}
