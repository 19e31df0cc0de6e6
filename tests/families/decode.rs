//! Generation: a prompt and then token by token through the cache gives what a whole pass gives.

use super::golden::*;
use super::model::{capped, logits};
use crate::common::device;
use rugosa::autograd::Tape;
use rugosa::generate::{Request, Sampling, generate};
use rugosa::nn::{Cached, Decoder, DeviceBatch, Input, Pass};
use rugosa::tensor::Tensor;

fn up(values: &[u32]) -> Tensor {
    Tensor::from_slice(device(), &[values.len()], values, "test").unwrap()
}

/// The logits of the last `ids.len() - prompt` tokens, each decoded behind those before it.
fn decoded(model: &Decoder, ids: &[u32], prompt: usize) -> Vec<f32> {
    let c = &model.config;
    let window = c.sliding_window.unwrap_or(usize::MAX);
    let layers: Vec<_> = model.layers.iter().map(|l| l.mixer.cache(device(), ids.len()).unwrap()).collect();
    let cached = |from: usize, to: usize| {
        let of = |f: &dyn Fn(usize) -> usize| up(&(from..to).map(|p| f(p) as u32).collect::<Vec<_>>());
        Cached {
            layers: layers.clone(),
            slots: of(&|p| p),
            kv_start: of(&|_| 0),
            windowed_start: of(&|p| (p + 1).saturating_sub(window)),
            kv_end: of(&|p| p + 1),
            length: ids.len(),
        }
    };
    let rows = [ids[..prompt].to_vec()];
    let mut input = DeviceBatch::upload(device(), &unlabelled(&rows), c.sliding_window).unwrap().input;
    let Pass::Segments(sight) = input.pass else { panic!("a batch is of segments") };
    input.pass = Pass::Prefill(sight, Box::new(cached(0, prompt)));
    model.hidden(&mut Tape::inference(), &input, 0).unwrap();
    let one = |p: usize| {
        let pass = Pass::Decode(cached(p, p + 1));
        let input = Input { tokens: up(&ids[p..p + 1]), positions: up(&[p as u32]), pass };
        let hidden = model.hidden(&mut Tape::inference(), &input, 0).unwrap();
        capped(model, model.head.logits(&hidden.value).unwrap().read().unwrap())
    };
    (prompt..ids.len()).flat_map(one).collect()
}

#[test]
fn decoded_logits_are_those_of_a_whole_pass() {
    for family in FAMILIES {
        let (golden, model) = (Golden::open(family), decoder(family, false));
        let (ids, _) = golden.rows().swap_remove(0);
        let whole = logits(&model, &unlabelled(std::slice::from_ref(&ids)));
        let got = decoded(&model, &ids, 13);
        // both are f32 results of one sum, so twice the distance from the exact one
        let error = max_abs(&got, &whole[13 * VOCAB..]);
        assert!(error <= 2.0 * golden.tolerance("logits"), "{family}: logits differ by {error}");
    }
}

#[test]
fn greedy_tokens_are_those_of_whole_passes() {
    // the rotary frequencies of Phi-4-mini go by the longest sequence of a pass, which here are of two lengths
    for family in FAMILIES.into_iter().filter(|family| *family != "phi4mini") {
        let (golden, model) = (Golden::open(family), decoder(family, false));
        // two prompts, one of them shorter than any window
        let (first, _) = golden.rows().swap_remove(0);
        let prompts = vec![first[..14].to_vec(), first[3..6].to_vec()];
        let request = Request { max_new_tokens: 9, stop: &[], sampling: Sampling::GREEDY };
        let got = generate(device(), &model, &prompts, &request, |_, _| true).unwrap();
        for (prompt, new) in prompts.iter().zip(&got) {
            assert_eq!(new.len(), 9, "{family}");
            let all = [prompt.as_slice(), new].concat();
            let whole = logits(&model, &unlabelled(&[all]));
            for (i, token) in new.iter().enumerate() {
                let row = &whole[(prompt.len() + i - 1) * VOCAB..][..VOCAB];
                let best = row.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
                let behind = f64::from(best - row[*token as usize]);
                assert!(behind <= 2.0 * golden.tolerance("logits"), "{family}: token {i} is {behind} behind the best");
            }
        }
    }
}
