//! What a run's numbers depend on beside its configuration and files, and what changes when a run is resumed elsewhere.

use super::state::Platform;
use crate::device::{Caps, Device, Precision};
use crate::env;
use crate::error::{Error, Result};
use std::collections::BTreeSet;

impl Platform {
    /// That of this process.
    pub fn of(device: &Device) -> Platform {
        Platform::with(device.caps(), device.precision(), env::settings().switches())
    }

    fn with(caps: &Caps, precision: Precision, switches: Vec<(&'static str, String)>) -> Platform {
        let Caps { name, driver, api, .. } = caps;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let parts = [("rugosa", version), ("device", name.clone()), ("driver", driver.clone()), ("API", api.clone())];
        let other = parts.into_iter().chain(switches).map(|(key, value)| (key.to_owned(), value)).collect();
        Platform { precision, other }
    }

    /// A line about what is not as it was in `then`, where a run was saved that goes on here: sums in another order round
    /// otherwise, so it does not end with the same bits.
    pub fn line(&self, then: &Platform) -> Option<String> {
        let keys: BTreeSet<&String> = then.other.keys().chain(self.other.keys()).collect();
        let shown =
            |platform: &Platform, key: &str| platform.other.get(key).map_or("not set".to_owned(), String::clone);
        let change = |key: &&String| format!("{key} was {} and is {}", shown(then, key), shown(self, key));
        let changes: Vec<String> =
            keys.iter().filter(|key| self.other.get(**key) != then.other.get(**key)).map(change).collect();
        (!changes.is_empty())
            .then(|| format!("the run goes on, but not bit for bit: {}; numbers round otherwise", changes.join(", ")))
    }
}

/// Refuses to go on with a run whose products had f16 operands where they would have f32 ones: that is more than rounding.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_precision(then: &Platform, device: &Device) -> Result<()> {
    if (then.precision, device.precision()) != (Precision::F16, Precision::F32) {
        return Ok(());
    }
    let reason = format!(
        "the run computes in f16 on matrix units, and {} has none that can be used; go on where it began, or without \
         RUGOSA_DISABLE if that is set",
        device.caps().name
    );
    Err(Error::option("device", reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::dry::DryBackend;

    #[test]
    fn what_is_not_as_it_was_is_named_with_both_values() {
        let caps = DryBackend::caps_for_tests();
        let platform = |caps: &Caps, switches: &[(&'static str, &str)]| {
            let switches = switches.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            Platform::with(caps, Precision::F32, switches)
        };
        let here = platform(&caps, &[]);
        assert_eq!(here.line(&here), None);
        let line = platform(&caps, &[(env::SPARSE, "apart")]).line(&here).unwrap();
        let expected =
            "the run goes on, but not bit for bit: RUGOSA_SPARSE was not set and is apart; numbers round otherwise";
        assert_eq!(line, expected);
        let other = Caps { name: "B".into(), driver: "next".into(), ..caps.clone() };
        let line = here.line(&platform(&other, &[(env::CLASS, "discrete")])).unwrap();
        let name = &caps.name;
        assert!(line.contains(&format!("device was B and is {name}, driver was next and is ")), "{line}");
        assert!(line.contains("RUGOSA_CLASS was discrete and is not set"), "{line}");
    }

    #[test]
    fn f16_does_not_go_on_in_f32() {
        let device = Device::new(Box::new(DryBackend::new(DryBackend::caps_for_tests())));
        let then = |precision| Platform { precision, ..Platform::default() };
        let error = check_precision(&then(Precision::F16), &device).unwrap_err().to_string();
        assert!(error.starts_with("⟨device⟩: the run computes in f16 on matrix units, and "), "{error}");
        assert!(check_precision(&then(Precision::F32), &device).is_ok());
    }
}
