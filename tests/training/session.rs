//! Conversations: what is kept between answers changes no answer.

use crate::common::{device, tiny};
use rugosa::generate::{Ended, Request, Sampling, Session};
use rugosa::io::checkpoint::Checkpoint;
use rugosa::nn::Decoder;
use rugosa::nn::loader::{LoadOptions, load};

fn model() -> Decoder {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(&tiny::write_model(folder.path())).unwrap();
    load(device(), &checkpoint, LoadOptions { trainable: false, stacked: true, positions: tiny::POSITIONS }).unwrap()
}

const REQUEST: Request<'static> = Request { max_new_tokens: 5, stop: &[], sampling: Sampling::GREEDY };

#[test]
fn a_kept_cache_answers_as_a_fresh_one() {
    let model = model();
    let mut session = Session::new(device());
    let mut text: Vec<u32> = (3..40).collect();
    let mut kept = Vec::new();
    for turn in 0..3u32 {
        let fresh = Session::new(device()).answer(&model, &text, &REQUEST, |_| true).unwrap();
        let answer = session.answer(&model, &text, &REQUEST, |_| true).unwrap();
        assert_eq!((&answer.ids, answer.ended), (&fresh.ids, Ended::Length), "turn {turn}");
        kept.push(answer.kept);
        text.extend(answer.ids);
        text.extend([50 + turn, 60, 70]);
    }
    // all but an answer's last token, which was never computed with
    assert_eq!(kept, [0, 37 + 4, 37 + 8 + 4]);
    // an edit far back costs what is behind it, and another adapter everything
    text[40] += 1;
    assert_eq!(session.answer(&model, &text, &REQUEST, |_| true).unwrap().kept, 40);
    session.forget();
    assert_eq!(session.answer(&model, &text, &REQUEST, |_| true).unwrap().kept, 0);
}

#[test]
fn answers_end_for_a_reason() {
    let model = model();
    let mut session = Session::new(device());
    let prompt: Vec<u32> = (3..3 + tiny::POSITIONS as u32 - 4).collect();
    let long = Request { max_new_tokens: 100, ..REQUEST };
    let full = session.answer(&model, &prompt, &long, |_| true).unwrap();
    assert_eq!((full.ids.len(), full.ended), (5, Ended::Context));
    let mut seen = 0;
    let stopped = session.answer(&model, &prompt[..50], &long, |_| {
        seen += 1;
        seen < 3
    });
    let stopped = stopped.unwrap();
    assert_eq!((stopped.ids.len(), stopped.ended), (3, Ended::Interrupted));
    let stop = [stopped.ids[1]];
    let ended = session.answer(&model, &prompt[..50], &Request { stop: &stop, ..long }, |_| true).unwrap();
    assert!(ended.ended == Ended::Stop && ended.ids.len() <= 1, "{ended:?}");
    let whole: Vec<u32> = vec![3; tiny::POSITIONS];
    let said = session.answer(&model, &whole, &long, |_| true).unwrap_err().to_string();
    assert!(said.contains("128 positions"), "{said}");
}
