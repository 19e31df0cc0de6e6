//! Masks are of every micro-batch's whole gradient, whatever overflows at the loss scale that a step begins with.

use super::tiny;
use rugosa::adapters::targets::{PerModule, TargetModules, TargetRules, select};
use rugosa::adapters::{AdapterSet, Lost, MaskCollector, Scope, module_shapes};
use rugosa::data::{Batch, ExampleRef};
use rugosa::device::{Device, DeviceOptions};
use rugosa::io::checkpoint::Checkpoint;
use rugosa::nn::Decoder;
use rugosa::nn::loader::{LoadOptions, load};
use rugosa::optim::{AdamW, Group, Rates, Training};
use rugosa::rng::Rng;
use rugosa::train::config::LossNormalisation;
use rugosa::train::step::{Collect, StepOutcome, Stepper, Turn};

struct Collecting {
    model: Decoder,
    set: AdapterSet,
    collector: MaskCollector,
    stepper: Stepper,
}

fn collecting(device: &Device, folder: &std::path::Path, low_rank: bool) -> Collecting {
    collecting_some(device, folder, low_rank, None)
}

/// The same for the targets in `scope`.
fn collecting_some(device: &Device, folder: &std::path::Path, low_rank: bool, scope: Option<Scope>) -> Collecting {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let model = load(device, &checkpoint, LoadOptions { trainable: false, stacked: true, positions: 64 }).unwrap();
    let rules = TargetRules {
        modules: TargetModules::default(),
        rank: 2,
        rank_pattern: PerModule::default(),
        alpha: 16.0,
        alpha_pattern: PerModule::default(),
        rslora: false,
        density: 0.05,
        density_pattern: PerModule::default(),
    };
    let mut set = AdapterSet::new(device, select(&module_shapes(&model), &rules).unwrap(), 0.0).unwrap();
    set.initialise(3, None).unwrap();
    let scope = scope.unwrap_or(Scope::all(set.targets()));
    let collector = MaskCollector::new(device, set.targets(), false, &scope).unwrap();
    set.attach(&model, Training::only(low_rank.then_some(Group::LowRank)), Some(&collector)).unwrap();
    let optimiser =
        AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, max_grad_norm: 1.0, bf16_adapters: false };
    let stepper = Stepper::new(device, optimiser, LossNormalisation::Tokens, 0, 1, false).unwrap();
    Collecting { model, set, collector, stepper }
}

/// Micro-batches of one row each; `third` is the third token of the last.
fn window(third: u32) -> Vec<Batch> {
    let mut rng = Rng::named(1, "window");
    (0..4)
        .map(|i| {
            let mut ids: Vec<u32> = (0..6 + i).map(|_| 3 + rng.below(200) as u32).collect();
            if i == 3 {
                ids[2] = third;
            }
            let labels: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
            Batch::new([ExampleRef { ids: &ids, labels: &labels, line: 1 }], 0)
        })
        .collect()
}

impl Collecting {
    /// A step at a loss scale; the one that it was done at in the end, and what became of it.
    fn step(&mut self, window: &[Batch], rates: Rates, loss_scale: f32) -> (f32, StepOutcome) {
        self.step_until(window, rates, loss_scale, None)
    }

    /// The same, down to the loss scale `until`.
    fn step_until(
        &mut self,
        window: &[Batch],
        rates: Rates,
        loss_scale: f32,
        until: Option<f32>,
    ) -> (f32, StepOutcome) {
        let turn = Turn { step: 0, rates, loss_scale };
        let collect = Collect { to: &self.collector, until };
        let result = self.stepper.run(&self.model, window, self.set.blocks(), turn, Some(collect)).unwrap();
        (result.loss_scale, result.wait().unwrap())
    }

    /// All scores, and the gradients in each.
    fn scores(&self) -> (Vec<Vec<f32>>, Vec<[u32; 2]>) {
        self.collector.scores().map(|(_, t, counts)| (t.read().unwrap(), counts)).unzip()
    }
}

/// But for the order in which the mean's terms came.
#[track_caller]
fn check_near(a: &[Vec<f32>], b: &[Vec<f32>]) {
    for (a, b) in a.iter().zip(b) {
        let largest = b.iter().fold(0f32, |most, b| most.max(b.abs()));
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * largest) && largest.is_finite());
    }
}

/// Powers of two scale without a rounding as long as nothing overflows, so a step that had to be repeated must give the A and B
/// of one that had not to the bit, and its scores.
#[test]
fn a_step_that_collects_is_repeated_until_nothing_overflows() {
    let dir = tempfile::tempdir().unwrap();
    let folder = tiny::write_model(dir.path());
    // large gradients, for f32 has much room above
    super::non_finite::change(dir.path(), |name, data| {
        if name == "lm_head.weight" {
            data.iter_mut().for_each(|w| *w *= 1024.0);
        }
    });
    let device = Device::open(&DeviceOptions::from_env(None)).unwrap();
    let window = window(9);
    let trains = Rates::default().with(Group::LowRank, 1e-3);
    for (low_rank, rates) in [(false, Rates::default()), (true, trains)] {
        let run = |loss_scale: f32| {
            let mut c = collecting(&device, &folder, low_rank);
            let (at, outcome) = c.step(&window, rates, loss_scale);
            let parameters: Vec<Vec<u32>> = c.set.blocks().iter().map(|b| b.value.read().unwrap()).collect();
            (at, outcome, c.scores(), parameters, c.collector.lost())
        };
        let whole = run(1.0);
        assert!(!whole.1.skipped && whole.0 == 1.0 && whole.2.1.iter().all(|n| *n == [4, 0]));
        let again = run(2f32.powi(127));
        assert!(again.0 < 2f32.powi(127) && again.0 > 1.0, "done at {}", again.0);
        assert_eq!((again.1, &again.2.1, &again.3, again.4), (whole.1, &whole.2.1, &whole.3, None));
        check_near(&again.2.0, &whole.2.0);
    }
}

/// What no scale makes finite is left out as a whole, and counted.
#[test]
fn a_row_without_a_finite_gradient_leaves_the_mean_and_the_count() {
    let dir = tempfile::tempdir().unwrap();
    let folder = tiny::write_model(dir.path());
    super::non_finite::break_token(dir.path());
    let device = Device::open(&DeviceOptions::from_env(None)).unwrap();
    let broken = window(super::non_finite::BROKEN as u32);
    let scores = |window: &[Batch]| {
        let mut c = collecting(&device, &folder, false);
        let (_, outcome) = c.step(window, Rates::default(), 1.0);
        (outcome.skipped, c.scores(), c.collector.lost())
    };
    let (skipped, (with, counts), lost) = scores(&broken);
    // a micro-batch's gradient is that of its own mean loss, but for roundings
    let (_, (without, _), none) = scores(&broken[..3]);
    assert!(skipped && none.is_none());
    check_near(&with, &without);
    assert!(counts.iter().all(|n| *n == [3, 1]), "{counts:?}");
    assert_eq!(lost, Some(Lost { matrices: counts.len(), samples: 1 }));
}

/// The loss scale at which a step is done in the end depends on all gradients, so a step for one group of matrices looks at the
/// others' too, and one for another group is repeated as the first one was.
#[test]
fn what_overflows_does_so_in_every_group() {
    let dir = tempfile::tempdir().unwrap();
    let folder = tiny::write_model(dir.path());
    // those of the first layer are larger than the others'
    super::non_finite::change(dir.path(), |name, data| {
        if name == "lm_head.weight" || name.contains("layers.1.input_layernorm") {
            data.iter_mut().for_each(|w| *w *= 64.0);
        }
    });
    let device = Device::open(&DeviceOptions::from_env(None)).unwrap();
    let (window, trains) = (window(9), Rates::default().with(Group::LowRank, 1e-3));
    let run = |scope: Option<Scope>, until: Option<f32>| {
        let mut c = collecting_some(&device, &folder, true, scope);
        let (at, outcome) = c.step_until(&window, trains, 2f32.powi(127), until);
        let parameters: Vec<Vec<u32>> = c.set.blocks().iter().map(|b| b.value.read().unwrap()).collect();
        let (scores, counts) = c.scores();
        let bits: Vec<Vec<u32>> = scores.iter().map(|s| s.iter().map(|v| v.to_bits()).collect()).collect();
        (at, outcome, parameters, bits, counts)
    };
    let whole = run(None, None);
    assert!(whole.0 < 2f32.powi(127) && !whole.1.skipped);
    let n = whole.3.len();
    for split in [1, n / 2, n - 1] {
        let first = run(Some(Scope { scored: 0..split, watches_others: true }), None);
        assert_eq!((first.0, first.1, &first.2), (whole.0, whole.1, &whole.2));
        assert!(first.3 == whole.3[..split] && first.4 == whole.4[..split]);
        let second = run(Some(Scope { scored: split..n, watches_others: false }), Some(whole.0));
        assert_eq!((second.0, second.1, &second.2), (whole.0, whole.1, &whole.2));
        assert!(second.3 == whole.3[split..] && second.4 == whole.4[split..]);
    }
}
