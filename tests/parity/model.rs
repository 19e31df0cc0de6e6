//! tiny-llama: logits, loss and every gradient.

use super::golden::*;
use crate::common::device;
use rugosa::adapters::AdapterSet;
use rugosa::autograd::ops::{Attachment, GradientSink, HeadLoss, RowSink, head_loss};
use rugosa::autograd::{Tape, Var};
use rugosa::data::Batch;
use rugosa::device::DeviceOptions;
use rugosa::error::Result;
use rugosa::io::checkpoint::Checkpoint;
use rugosa::nn::loader::{LoadOptions, load};
use rugosa::nn::{Decoder, DeviceBatch, Module};
use rugosa::optim::{Group, Training};
use rugosa::tensor::Tensor;
use rugosa::train::trainable_weights;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// tiny-llama on the tests' device.
pub fn decoder(trainable: bool) -> Decoder {
    let checkpoint = Checkpoint::open(&tiny_llama()).unwrap();
    load(device(), &checkpoint, LoadOptions { trainable, stacked: true, positions: 128 }).unwrap()
}

/// The logits `[tokens, vocab]` of a batch.
pub fn logits(model: &Decoder, batch: &Batch) -> Vec<f32> {
    let on_device = DeviceBatch::upload(device(), batch, None).unwrap();
    let hidden = model.hidden(&mut Tape::inference(), &on_device.input, 0).unwrap();
    model.head.logits(&hidden.value).unwrap().read().unwrap()
}

/// Forward and backward over micro-batches as one step; the mean loss of their supervised tokens.
pub fn loss_and_gradients(model: &Decoder, window: &[Batch], checkpointing: usize) -> f32 {
    let sum = Tensor::zeros(device(), &[1], "test").unwrap();
    let supervised: usize = window.iter().map(Batch::supervised).sum();
    for batch in window {
        let on_device = DeviceBatch::upload(device(), batch, None).unwrap();
        let mut tape = Tape::new(None);
        let hidden = model.hidden(&mut tape, &on_device.input, checkpointing).unwrap();
        let loss = HeadLoss { scale: (1.0 / supervised as f64) as f32, sum: &sum, gradient: 1.0 };
        head_loss(&mut tape, &hidden, &model.head, &on_device.targets, loss).unwrap();
        tape.backward().unwrap();
    }
    sum.read().unwrap()[0]
}

/// Makes all weights train; the gradient of each by its Hugging Face name, without `.weight`.
fn gradients_of_all(model: &mut Decoder) -> BTreeMap<String, Tensor> {
    let blocks = trainable_weights(model).unwrap();
    let mut names = vec!["model.embed_tokens".to_owned(), "lm_head".to_owned()];
    names.extend(model.linears().flat_map(|l| l.modules()).map(|m| m.name.clone()));
    names.push("model.norm".to_owned());
    for i in 0..model.layers.len() {
        names.push(format!("model.layers.{i}.input_layernorm"));
        names.push(format!("model.layers.{i}.post_attention_layernorm"));
    }
    assert_eq!(names.len(), blocks.len());
    names.into_iter().zip(blocks).map(|(name, b)| (name, b.grad)).collect()
}

/// Compares the rows of `kept` tokens with golden logits.
#[track_caller]
fn assert_logits(got: &[f32], want: &[f32], kept: &[usize], tolerance: f64) {
    let want: Vec<f32> = kept.iter().flat_map(|&t| &want[300 * t..][..300]).copied().collect();
    let error = max_abs(got, &want);
    assert!(error <= tolerance, "logits differ by {error}, tolerance {tolerance}");
}

#[test]
fn logits_agree_whichever_side_is_padded() {
    let golden = Tensors::open("model_llama");
    let model = decoder(false);
    for prefix in ["", "left."] {
        let got = logits(&model, &golden.batch(prefix));
        let want = golden.f32(&format!("{prefix}logits"));
        assert_logits(&got, &want, &golden.kept(prefix), tolerance("model.logits.max_abs/tiny-llama"));
    }
    // positions are relative and padding is dropped, so both are the same batch
    assert_eq!(golden.batch(""), golden.batch("left."));
}

#[test]
fn loss_and_every_gradient_agree() {
    let tensors = Tensors::open("model_llama");
    let mut model = decoder(true);
    let gradients = gradients_of_all(&mut model);
    let loss = loss_and_gradients(&model, &[tensors.batch("")], 0);
    let error = (f64::from(loss) - golden("models/tiny-llama/loss_f64").as_f64().unwrap()).abs();
    assert!(error <= tolerance("model.loss.abs/tiny-llama"), "the loss differs by {error}");

    let (relative, absolute) = (tolerance("model.grad.rel_l2/tiny-llama"), tolerance("model.grad.max_abs/tiny-llama"));
    for (name, gradient) in &gradients {
        let (got, want) = (gradient.read().unwrap(), tensors.f32(&format!("grad.{name}.weight")));
        let (l2, most) = (rel_l2(&got, &want), max_abs(&got, &want));
        assert!(l2 <= relative && most <= absolute, "d {name}: relative {l2}, absolute {most}");
    }
    assert_eq!(gradients.len(), tensors.names().filter(|n| n.starts_with("grad.")).count());
}

#[test]
fn gradients_are_the_same_bits_from_checkpointed_layers() {
    let tensors = Tensors::open("model_llama");
    let run = |checkpointing: usize| {
        let mut model = decoder(true);
        let gradients = gradients_of_all(&mut model);
        let loss = loss_and_gradients(&model, &[tensors.batch("")], checkpointing);
        let read = |t: &Tensor| t.read::<u32>().unwrap();
        (loss.to_bits(), gradients.iter().map(|(n, t)| (n.clone(), read(t))).collect::<BTreeMap<_, _>>())
    };
    let all_kept = run(0);
    // groups that hold a layer, some, all, and a last one that is not full
    for layers in [1, 2, 3, 100] {
        assert!(run(layers) == all_kept, "checkpointing of {layers} layers changes the loss or a gradient");
    }
}

#[test]
fn a_step_in_parts_or_packed_is_the_step_as_a_whole() {
    let rosa = Tensors::open("rosa_llama");
    let lines: String = (0..4).map(|i| rosa.rows(&format!("batch.train{i}."))).collect();
    let run = |window: &[Batch]| {
        let mut model = decoder(true);
        let gradients = gradients_of_all(&mut model);
        let loss = loss_and_gradients(&model, window, 0);
        (loss, gradients.iter().map(|(n, t)| (n.clone(), t.read().unwrap())).collect::<BTreeMap<_, Vec<f32>>>())
    };
    let (loss, whole) = run(&batches(&lines, 8));
    let packed = batches_of(&lines, 1, true);
    assert!(packed.len() < 8 && packed.iter().any(|b| b.rows > 1), "nothing is packed");
    for (what, window) in
        [1, 2, 4].map(|rows| ("in parts", batches(&lines, rows))).into_iter().chain([("packed", packed)])
    {
        assert!(window.len() > 1, "{what}");
        let (l, parts) = run(&window);
        let tolerance = tolerance("model.grad.rel_l2/tiny-llama");
        let what = format!("{what}, {} micro-batches", window.len());
        assert!(f64::from((l - loss).abs()) <= 1e-6 * f64::from(loss), "{what}: loss {l}, not {loss}");
        for (name, want) in &whole {
            let l2 = rel_l2(&parts[name], want);
            assert!(l2 <= tolerance, "{what}: d {name} differs by {l2}");
        }
    }
}

/// Keeps a copy of what it gets.
#[derive(Default)]
struct Keep(Mutex<Vec<Tensor>>);

impl GradientSink for Keep {
    fn collect(&self, gradient: &Tensor) -> Result<()> {
        self.0.lock().unwrap().push(gradient.duplicate("test")?);
        Ok(())
    }
}

#[test]
fn mask_gradients_agree() {
    let rosa = Tensors::open("rosa_llama");
    let model = decoder(false);
    let set = AdapterSet::from_folder(device(), &model, &low_rank(&rosa, "warm")).unwrap();
    set.attach(&model, Training::only([Group::LowRank]), None).unwrap();
    let mut sinks = Vec::new();
    for linear in model.linears() {
        let keeps: Vec<_> = linear.modules().iter().map(|m| (m.clone(), Arc::new(Keep::default()))).collect();
        let rows = |(m, keep): &(Module, Arc<Keep>)| RowSink { first_row: m.first_row, rows: m.rows, to: keep.clone() };
        linear.attach(Attachment { sinks: keeps.iter().map(rows).collect(), ..(*linear.attached()).clone() }).unwrap();
        sinks.extend(keeps);
    }
    assert_eq!(sinks.len(), 21);
    let loss = loss_and_gradients(&model, &[rosa.batch("batch.grad.")], 0);
    let error = (f64::from(loss) - numbers("rosa/loss_f64/collect")[0]).abs();
    assert!(error <= tolerance("rosa.loss.abs/warmup"), "the loss differs by {error}");
    for (Module { name, .. }, sink) in &sinks {
        let kept = sink.0.lock().unwrap();
        let [gradient] = kept.as_slice() else { panic!("{} gradients of {name}", kept.len()) };
        let l2 = rel_l2(&gradient.read().unwrap(), &rosa.f32(&format!("maskgrad.{name}")));
        assert!(l2 <= tolerance("rosa.maskgrad.rel_l2"), "{name}: {l2}");
    }
}

#[test]
fn logits_of_the_final_adapter_agree() {
    let (model_golden, rosa) = (Tensors::open("model_llama"), Tensors::open("rosa_llama"));
    let model = decoder(false);
    let plain = logits(&model, &model_golden.batch(""));
    let set = AdapterSet::from_folder(device(), &model, &read_adapter(&fixture("adapter-rosa"))).unwrap();
    set.attach(&model, Training::default(), None).unwrap();
    let got = logits(&model, &model_golden.batch(""));
    let want = rosa.f32("rosa.eval_logits");
    assert_logits(&got, &want, &model_golden.kept(""), tolerance("rosa.eval_logits.max_abs"));
    assert!(max_abs(&got, &plain) > 0.1, "the adapter does nothing");
}

/// No gradient travels below the lowest adapter: the work of a backward pass grows with the layers above it.
#[test]
fn nothing_is_computed_below_the_lowest_adapter() {
    let rosa = Tensors::open("rosa_llama");
    // a device of its own: other tests launch on the shared one
    let device = &rugosa::device::Device::open(&DeviceOptions::from_env(None)).unwrap();
    let model = load(
        device,
        &Checkpoint::open(&tiny_llama()).unwrap(),
        LoadOptions { trainable: false, stacked: true, positions: 128 },
    );
    let model = model.unwrap();
    let batch = DeviceBatch::upload(device, &rosa.batch("batch.grad."), None).unwrap();
    let backward_launches = |modules: &[&str]| {
        let mut adapter = low_rank(&rosa, "warm");
        adapter.modules.retain(|name, _| modules.iter().any(|m| name.ends_with(m)));
        let set = AdapterSet::from_folder(device, &model, &adapter).unwrap();
        set.attach(&model, Training::only([Group::LowRank]), None).unwrap();
        let sum = Tensor::zeros(device, &[1], "test").unwrap();
        let mut tape = Tape::new(None);
        let hidden: Var = model.hidden(&mut tape, &batch.input, 0).unwrap();
        let loss = HeadLoss { scale: 1.0, sum: &sum, gradient: 1.0 };
        head_loss(&mut tape, &hidden, &model.head, &batch.targets, loss).unwrap();
        let before = device.counters().launches;
        tape.backward().unwrap();
        let launches = device.counters().launches - before;
        model.linears().for_each(|l| l.attach(Attachment::default()).unwrap());
        (hidden.is_tracked(), launches)
    };
    // the final norm, d(U·Bᵀ), the gradients of A and B and where those are split the sums of their parts
    let (tracked, top) = backward_launches(&["layers.2.mlp.down_proj"]);
    assert!(tracked && top <= 7, "{top} launches behind the last linear");
    let (_, last) = backward_launches(&["layers.2.self_attn.q_proj"]);
    let (_, middle) = backward_launches(&["layers.1.self_attn.q_proj"]);
    let (_, first) = backward_launches(&["layers.0.self_attn.q_proj"]);
    assert!(top < last && last < middle && middle < first, "{top} {last} {middle} {first}");
    assert_eq!(first - middle, middle - last, "each layer more costs the same");
    let (tracked, none) = backward_launches(&[]);
    assert!(!tracked && none == 0, "{none} launches without anything that trains");
}
