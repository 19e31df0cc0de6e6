//! Cosines and sines of every kind of rotary positions against those of transformers (`tests/golden/make_rope.py`).

use super::*;

#[test]
fn angles_are_those_of_transformers_at_short_and_long_positions() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/rope.json");
    let golden: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 15);
    for case in cases {
        let name = &case["name"];
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), case["config"].to_string()).unwrap();
        let c = ModelConfig::from_hf(dir.path()).unwrap();
        let (theta, scaling) = match case["layer"].as_str() {
            Some("sliding_attention") => (c.rope_local_theta.unwrap(), &RopeScaling::None),
            _ => (c.rope_theta, &c.rope_scaling),
        };
        for length in ["short", "long"] {
            let golden = &case[length];
            let numbers =
                |v: &Json| -> Vec<f64> { v.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect() };
            let positions = numbers(&golden["positions"]);
            let tokens = positions[positions.len() - 1] as usize + 1;
            let is_long = scaling.short_positions().is_some_and(|short| tokens > short);
            let frequencies = scaling.frequencies(theta, c.rotary_dim, is_long);
            for (i, position) in positions.iter().enumerate() {
                let (cos, sin) = (numbers(&golden["cos"][i]), numbers(&golden["sin"][i]));
                assert_eq!((cos.len(), sin.len()), (frequencies.len(), frequencies.len()), "{name}");
                for ((w, cos), sin) in frequencies.iter().zip(cos).zip(sin) {
                    let own = (position * w).sin_cos();
                    let off = (own.1 * scaling.attention_factor() - cos)
                        .abs()
                        .max((own.0 * scaling.attention_factor() - sin).abs());
                    // f64 on both sides: the angle is off by its own rounding
                    assert!(off <= 1e-9, "{name}, {length}, position {position}: off by {off}");
                }
            }
        }
    }
}

/// transformers multiplies by `1 + beta · ln(1 + ⌊position / original⌋)`.
#[test]
fn queries_of_ministral_3_grow_behind_the_length_of_pretraining() {
    let growth = QueryGrowth { beta: 0.1, original: 16384 };
    assert_eq!([growth.at(0), growth.at(16383)], [1.0, 1.0]);
    assert!((growth.at(16384) - 1.069_314_718_055_994_5).abs() < 1e-15);
    assert!((growth.at(131_071) - (1.0 + 0.1 * 8f64.ln())).abs() < 1e-15);
}
