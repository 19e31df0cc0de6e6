//! What the device tests share: a device, random data, f64 references with error bounds, guard words.
#![allow(dead_code)] // each test crate uses its part

use rugosa::device::{Device, DeviceOptions};
use rugosa::rng::Rng;
use rugosa::tensor::Tensor;
use std::sync::OnceLock;

/// One device for the tests of a process, chosen by the environment as the program does it.
pub fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| Device::open(&DeviceOptions::from_env(None)).expect("a device"))
}

/// Random values whose products neither vanish nor explode.
pub fn random(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.normal() as f32).collect()
}

/// A sum in f64 and the sum of its terms' magnitudes, which bounds what rounding in f32 can do to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exact {
    pub value: f64,
    pub magnitude: f64,
    pub terms: usize,
}

impl Exact {
    pub fn add(&mut self, term: f64) {
        self.value += term;
        self.magnitude += term.abs();
        self.terms += 1;
    }

    /// A value that is rounded a handful of times but not summed.
    pub fn of(value: f64) -> Self {
        Exact { value, magnitude: value.abs(), terms: 1 }
    }

    /// Errors of a sum of n terms grow as √n where they are independent; each product and each addition rounds once.
    /// Four standard deviations, and two roundings of the result.
    pub fn bound(&self) -> f64 {
        f64::from(f32::EPSILON) * (4.0 * (self.terms as f64).sqrt() + 2.0) * self.magnitude
            + f64::from(f32::MIN_POSITIVE)
    }
}

/// Compares with the reference element by element.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], want: &[Exact]) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*g) - w.value).abs();
        assert!(error <= w.bound(), "{what}: element {i} is {g}, expected {} ± {}", w.value, w.bound());
    }
}

/// An output tensor with poison in it and guard words around it.
pub struct Guarded {
    whole: Tensor,
    pub tensor: Tensor,
}

/// A quiet NaN with a payload that no computation makes.
const POISON: u32 = 0x7fc0_dead;
/// Words in front and behind; 256 bytes is the strictest alignment of a binding.
const GUARD: usize = 64;

impl Guarded {
    pub fn new(device: &Device, shape: &[usize]) -> Self {
        let len: usize = shape.iter().product();
        let whole =
            Tensor::from_slice(device, &[len + 2 * GUARD], &vec![POISON; len + 2 * GUARD], "test").expect("memory");
        let tensor = whole.view(GUARD, shape).expect("view");
        Guarded { whole, tensor }
    }

    /// With values instead of poison, for kernels that accumulate.
    pub fn holding(device: &Device, shape: &[usize], values: &[f32]) -> Self {
        let g = Guarded::new(device, shape);
        g.tensor.write(values).expect("upload");
        g
    }

    /// The values; fails if a word in the guards was touched or one of the output was not written.
    #[track_caller]
    pub fn read(&self, what: &str) -> Vec<f32> {
        let words: Vec<u32> = self.whole.read().expect("read back");
        let end = words.len() - GUARD;
        for (i, w) in words.iter().enumerate().filter(|(i, _)| *i < GUARD || *i >= end) {
            assert_eq!(*w, POISON, "{what}: wrote outside of its output, at {}", i as i64 - GUARD as i64);
        }
        let inside = &words[GUARD..end];
        if let Some(i) = inside.iter().position(|w| *w == POISON) {
            panic!("{what}: element {i} of {} was not written", inside.len());
        }
        inside.iter().map(|w| f32::from_bits(*w)).collect()
    }
}
