//! Central differences, and how close a gradient must come.

use crate::common::units;
use half::f16;
use rugosa::autograd::{Param, Tape, Var};
use rugosa::device::Device;
use rugosa::tensor::{Element, Tensor};
use std::cell::Cell;

thread_local! {
    /// Whether this thread computes on matrix units.
    static ON_UNITS: Cell<bool> = const { Cell::new(false) };
}

/// What this thread computes on.
pub fn device() -> &'static Device {
    if ON_UNITS.get() { units().expect("matrix units") } else { crate::common::device() }
}

/// Whether this thread computes on matrix units.
pub fn is_on_units() -> bool {
    ON_UNITS.get()
}

/// Lets `f` compute on matrix units.
pub fn on_units(f: impl FnOnce()) {
    ON_UNITS.set(true);
    f();
    ON_UNITS.set(false);
}

/// What a forward pass in f64 is given: one list of numbers for each input.
pub type Inputs = Vec<Vec<f64>>;

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// The gradient of `Σ weights · f(inputs)` with respect to each number of each input. The step h = 1e-5 leaves an error of
/// h² times the third derivative and of 2⁻⁵³ / h times the objective: together some 1e-10, far below a rounding in f32.
pub fn differences(inputs: &Inputs, weights: &[f32], f: impl Fn(&Inputs) -> Vec<f64>) -> Inputs {
    const H: f64 = 1e-5;
    let weights = wide(weights);
    let objective = |inputs: &Inputs| -> f64 {
        let y = f(inputs);
        assert_eq!(y.len(), weights.len(), "outputs");
        y.iter().zip(&weights).map(|(y, w)| y * w).sum()
    };
    let mut at = inputs.clone();
    let slope = |at: &mut Inputs, i: usize, j: usize| {
        let mut moved = |by: f64| {
            at[i][j] = inputs[i][j] + by;
            objective(at)
        };
        let slope = (moved(H) - moved(-H)) / (2.0 * H);
        at[i][j] = inputs[i][j];
        slope
    };
    (0..inputs.len()).map(|i| (0..inputs[i].len()).map(|j| slope(&mut at, i, j)).collect()).collect()
}

/// Compares a result with its reference. `terms` is the length of the longest chain of sums behind an element, `ulp` what
/// functions like exp add, in units of the last place of the tensor's largest element. On matrix units operands are rounded
/// to f16, 2⁻¹¹ of them at most: a product's error is some 2⁻¹¹ of the largest element, several times that behind a chain
/// of them, and functions magnify it as they magnify roundings in f32.
#[track_caller]
pub fn assert_near(what: &str, got: &[f32], want: &[f64], terms: usize, ulp: f64) {
    assert_near_of(Element::F32, what, got, want, terms, ulp);
}

/// The same of a result that is stored as `element`.
#[track_caller]
pub fn assert_near_of(element: Element, what: &str, got: &[f32], want: &[f64], terms: usize, ulp: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let most = want.iter().fold(0.0f64, |m, w| m.max(w.abs()));
    // rounding errors of a sum of independent terms grow as √n; four standard deviations, and the differences' own error
    let operands = if ON_UNITS.get() { (8.0 + ulp / 2.0) / 2048.0 * most } else { 0.0 };
    let halves = operands + if element == Element::F16 { most / 1024.0 + 2f64.powi(-24) } else { 0.0 };
    let bound = f64::from(f32::EPSILON) * (4.0 * (terms as f64).sqrt() + ulp) * most + 1e-9 + halves;
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*g) - w).abs();
        assert!(error <= bound, "{what}: element {i} is {g}, expected {w} ± {bound}");
    }
}

pub fn up(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_slice(device(), shape, values, "test").unwrap()
}

/// The values of a tensor of floats.
pub fn read(tensor: &Tensor) -> Vec<f32> {
    match tensor.element() {
        Element::F32 => tensor.read().unwrap(),
        Element::F16 => tensor.read::<f16>().unwrap().into_iter().map(f32::from).collect(),
    }
}

/// An activation of such elements.
pub fn up_of(element: Element, shape: &[usize], values: &[f32]) -> Tensor {
    match element {
        Element::F32 => up(shape, values),
        Element::F16 => {
            let halves: Vec<f16> = values.iter().map(|v| f16::from_f32(*v)).collect();
            Tensor::from_slice(device(), shape, &halves, "test").unwrap()
        }
    }
}

/// What gradients start from: a backward adds to what is there.
pub const START: f32 = 0.5;

/// A gradient buffer that holds [`START`] everywhere.
pub fn started(shape: &[usize]) -> Tensor {
    up(shape, &vec![START; shape.iter().product()])
}

/// A parameter, with a gradient buffer if it trains.
pub fn param(shape: &[usize], values: &[f32], trains: bool) -> Param {
    Param { value: up(shape, values), grad: trains.then(|| started(shape)) }
}

/// What was added to a gradient buffer of [`started`].
pub fn added(gradient: &Tensor) -> Vec<f32> {
    gradient.read::<f32>().unwrap().iter().map(|g| g - START).collect()
}

/// An input: a leaf of the tape, or a constant.
pub fn input(tape: &mut Tape, shape: &[usize], values: &[f32], tracked: bool) -> Var {
    let value = up(shape, values);
    if tracked { tape.leaf(value) } else { Var::constant(value) }
}

/// The gradient that arrived at a leaf.
#[track_caller]
pub fn arrived(tape: &mut Tape, var: &Var) -> Vec<f32> {
    read(&tape.take(var).expect("a gradient"))
}
