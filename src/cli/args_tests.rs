use super::*;
use crate::optim::schedule::LrSchedule;
use crate::train::config::{MaskMode, Method};
use crate::train::phase::Schedule;
use clap::error::ErrorKind;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    let words = std::iter::once("rugosa").chain(line.split_whitespace());
    command().try_get_matches_from(words).and_then(|mut m| Cli::from_arg_matches_mut(&mut m))
}

fn train(line: &str) -> TrainArgs {
    match parse(&format!("train {line}")).unwrap_or_else(|e| panic!("{e}")).command {
        Command::Train(args) => *args,
        other => panic!("{other:?}"),
    }
}

const PATHS: &str = "--model m --data d.jsonl --out o";

#[test]
fn the_definitions_are_consistent() {
    command().debug_assert();
}

#[test]
fn every_flag_of_training_arrives() {
    let c = train(&format!(
        "{PATHS} --method rosa --rank 4 --alpha 8 --density 0.02 --dropout 0.05 --target-modules q_proj,v_proj \
         --schedule wl7 --mask-grads 2 --mask-mode mean --no-restart --save-mask s --lr 2e-3 --lora-lr 7e-3 \
         --lr-schedule cosine --warmup-steps 3 --weight-decay 0.1 --max-grad-norm 1 --steps 10 --batch-size 2 \
         --gradient-accumulation-steps 3 --seq-len 24 --no-packing --no-shuffle --seed 5 --device 1 --rslora \
         --rank-pattern q_proj=2,v_proj=3 --loss-normalisation micro_batch"
    ))
    .resolve()
    .unwrap();
    assert_eq!((c.method, c.rank, c.alpha, c.density, c.dropout), (Method::Rosa, 4, 8.0, 0.02, 0.05));
    assert_eq!(c.target_modules.0, ["q_proj", "v_proj"]);
    assert_eq!(
        (c.schedule, c.mask_grads, c.mask_mode, c.restart),
        (Some(Schedule::WarmLora(7)), Some(2), MaskMode::Mean, false)
    );
    assert_eq!((c.lr, c.lora_lr, c.lr_schedule, c.warmup_steps), (2e-3, 7e-3, LrSchedule::Cosine, Some(3)));
    assert_eq!((c.weight_decay, c.max_grad_norm, c.steps, c.epochs), (0.1, 1.0, Some(10), None));
    assert_eq!((c.batch_size, c.gradient_accumulation_steps, c.seq_len), (2, Some(3), 24));
    assert_eq!((c.packing, c.shuffle, c.seed, c.device.as_deref()), (false, false, 5, Some("1")));
    assert_eq!((c.rslora, c.rank_pattern.get("v_proj")), (true, Some(3)));
    let c = train(&format!("{PATHS} --mask-only --save-mask s --epochs 3")).resolve().unwrap();
    assert!(c.mask_only && c.epochs == Some(3.0));
    assert_eq!(train(&format!("{PATHS} --init-adapter a")).options.init_adapter, Some("a".into()));
    let c = train(&format!("{PATHS} --mask m --packing=false")).resolve().unwrap();
    assert!(c.mask == Some("m".into()) && !c.packing);
}

#[test]
fn flags_win_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, "model = 'm'\ndata = 'd'\nout = 'o'\nrank = 4\nalpha = 2\npacking = false\nepochs = 2")
        .unwrap();
    let c = train(&format!("--config {} --rank 2 --packing --steps 9", path.display())).resolve().unwrap();
    assert_eq!((c.rank, c.alpha, c.packing, c.steps, c.epochs), (2, 2.0, true, Some(9), None));
    assert_eq!(c.model, PathBuf::from("m"));
}

#[test]
fn resuming_takes_the_configuration_of_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let first = train("--model m --data d --out unused --rank 3").resolve().unwrap();
    std::fs::write(dir.path().join("config.toml"), first.to_toml().unwrap()).unwrap();
    let c = train(&format!("--resume --out {}", dir.path().display())).resolve().unwrap();
    assert_eq!((c.rank, c.model, c.out), (3, "m".into(), dir.path().to_path_buf()));
    let err = train("--resume --out no/such/run").resolve().unwrap_err().to_string();
    assert!(err.contains("config.toml"), "{err}");
}

#[test]
fn wrong_usage_ends_with_code_2() {
    let table = [
        ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("tran", ErrorKind::InvalidSubcommand),
        ("train --rnk 3", ErrorKind::UnknownArgument),
        ("train --rank four", ErrorKind::ValueValidation),
        ("train --method dora", ErrorKind::InvalidValue),
        ("train --schedule wl", ErrorKind::ValueValidation),
        ("train --rank-pattern q_proj", ErrorKind::ValueValidation),
        ("train --epochs 1 --steps 2", ErrorKind::ArgumentConflict),
        ("train --packing --no-packing", ErrorKind::ArgumentConflict),
        ("eval --model m", ErrorKind::MissingRequiredArgument),
        ("eval --model m --data d --metric f1", ErrorKind::InvalidValue),
        ("eval --model m --data d --batch-size 0", ErrorKind::ValueValidation),
        ("generate --model m", ErrorKind::MissingRequiredArgument),
        ("generate --model m --prompt a --chat b", ErrorKind::ArgumentConflict),
        ("generate --model m --prompt a --temperature=-1", ErrorKind::ValueValidation),
        ("generate --model m --prompt a --top-p 0", ErrorKind::ValueValidation),
        ("preview --model m --data d --rows 0", ErrorKind::ValueValidation),
    ];
    for (line, kind) in table {
        let err = parse(line).expect_err(line);
        assert_eq!((err.kind(), err.exit_code()), (kind, 2), "{line}: {err}");
    }
}

#[test]
fn the_other_commands_have_their_defaults() {
    let Command::Eval(e) = parse("eval --model m --data d --metric exact-match,loss --adapter a").unwrap().command
    else {
        panic!()
    };
    assert_eq!(
        (e.metric, e.rows.seq_len, e.model.adapter),
        (vec![Metric::ExactMatch, Metric::Loss], 512, Some("a".into()))
    );
    let Command::Eval(e) = parse("eval --model m --data d --limit 3 --json").unwrap().command else { panic!() };
    assert_eq!((e.metric, e.limit, e.json, e.batch_size), (vec![Metric::Loss], Some(3), true, 8));
    let Command::Generate(g) = parse("generate --model m --chat -hello --temperature 0").unwrap().command else {
        panic!()
    };
    assert_eq!(
        (g.input.chat.as_deref(), g.sampling.temperature, g.sampling.top_p, g.sampling.seed),
        (Some("-hello"), 0.0, 1.0, 42)
    );
    let Command::Preview(p) = parse("preview --model m --data d --rows 2").unwrap().command else { panic!() };
    assert_eq!((p.count, p.rows.data_format), (2, DataFormat::Auto));
    assert!(matches!(parse("devices --json").unwrap().command, Command::Devices(DevicesArgs { json: true })));
    assert!(matches!(parse("demo --seed 1").unwrap().command, Command::Demo(DemoArgs { seed: 1, .. })));
}

#[test]
fn help_shows_the_defaults_of_training_once() {
    let mut root = command();
    let help = root.find_subcommand_mut("train").unwrap().render_help().to_string();
    let flat = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("Rank of the low-rank adapters [default: 8]"), "{help}");
    assert!(
        flat.contains("--mask-grads are a quarter of the steps, N at most 64") && flat.contains("[default: 0.0007]"),
        "{help}"
    );
    assert_eq!(flat.matches("[default: 512]").count(), 1);
}
