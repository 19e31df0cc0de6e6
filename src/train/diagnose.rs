//! Why a step had no finite loss or gradient: it is repeated with a look at what every kernel writes.

use super::report::{Broken, Recorded};
use super::step::Stepper;
use super::trainable::Trainable;
use crate::device::Precision;
use crate::error::{Error, Result};
use crate::nn::Decoder;

/// Repeats the step and says which module's kernel was the first to give a number that is not finite. What is attached
/// to the model is that step's afterwards.
///
/// # Errors
/// [`Error::NonFinite`], if such steps have come too often in a row; those of the device.
pub fn diagnose(broken: &Broken, stepper: &Stepper, model: &Decoder, trainable: &mut Trainable) -> Result<String> {
    let step = &broken.step;
    let cause = cause(step, stepper, model, trainable)?;
    if !broken.last {
        return Ok(format!("step {} is skipped, its loss or gradient is not finite: {cause}", step.turn.step));
    }
    let way_out = match (broken.after_sound, stepper.precision()) {
        // the weights themselves are finite: loading them has looked
        (true, Precision::F32) => "lower ⟨lr⟩ and ⟨lora_lr⟩",
        (true, Precision::F16) => "lower ⟨lr⟩ and ⟨lora_lr⟩, or use ⟨precision⟩ f32",
        (false, Precision::F32) => "look at the rows in ⟨data⟩, and at the device with rugosa selftest",
        (false, Precision::F16) => "f16 may be too small for this model: use ⟨precision⟩ f32",
    };
    Err(Error::NonFinite {
        what: format!("step {}", step.turn.step),
        reason: format!("no finite loss and gradient in {} steps in a row: {cause}; {way_out}", broken.in_a_row),
    })
}

/// `error`, with the cause behind it where it is about numbers that are not finite. `step` was the last one.
pub fn explained(
    error: Error,
    step: &Recorded,
    stepper: &Stepper,
    model: &Decoder,
    trainable: &mut Trainable,
) -> Error {
    match error {
        Error::NonFinite { what, reason } => match cause(step, stepper, model, trainable) {
            Ok(cause) => {
                let way_out = match stepper.precision() {
                    Precision::F16 => "f16 may be too small for this model: use ⟨precision⟩ f32",
                    Precision::F32 => "look at the rows in ⟨data⟩",
                };
                Error::NonFinite { what, reason: format!("{reason}; {cause}; {way_out}") }
            }
            Err(other) => other,
        },
        other => other,
    }
}

fn cause(step: &Recorded, stepper: &Stepper, model: &Decoder, trainable: &mut Trainable) -> Result<String> {
    trainable.attach(model, &step.plan, None)?;
    match stepper.look(model, &step.window, trainable.blocks(), step.turn) {
        Err(Error::NonFinite { what, reason }) => Ok(format!("{what} {reason}")),
        Err(other) => Err(other),
        Ok(()) => Ok("every kernel gave finite numbers when the step was repeated".into()),
    }
}
