//! What a device must prove before a run is entrusted to it: that it computes rightly what the run will launch.
//!
//! Of each specialisation that a run, an evaluation or a generation is known to launch, a row of the table is run that launches
//! it, with the reference and the bound that the row has in the tests. What a device has proved is kept in the user's cache
//! folder ([`proved`]) by the text of the specialisation as the driver gets it, and by device, driver and features: a second
//! run proves nothing again, and a shader that has changed is proved anew. `RUGOSA_SELFTEST=off` leaves it out.

mod proved;

use super::cover::{Cover, cover};
use crate::device::{Device, KernelSpec, shader};
use crate::env;
use crate::error::{Error, Result};
use crate::io::cache_folder;
use crate::io::digest::Digest;
use rayon::prelude::*;
use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

/// How a device came to be trusted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trust {
    /// The user wants no proof.
    pub switched_off: bool,
    /// Specialisations that it had proved before, and that it proved now.
    pub remembered: usize,
    pub proved: usize,
    /// Those that no row of the table launches on this device: they are taken on trust.
    pub unproved: Vec<KernelSpec>,
    /// Rows that were run, and seconds of all of it.
    pub rows: usize,
    pub seconds: f64,
}

impl Trust {
    /// A line for people; none where everything was proved before.
    pub fn line(&self) -> Option<String> {
        let Trust { proved, rows, seconds, unproved, .. } = self;
        let others = (!unproved.is_empty()).then(|| format!("{} have no case and are taken on trust", unproved.len()));
        let right = (*rows > 0).then(|| format!("{proved} kernels right in {rows} cases, {seconds:.1} s"));
        match (right, others) {
            (None, None) => None,
            (Some(right), None) => Some(format!("self-test: {right}")),
            (None, Some(others)) => Some(format!("self-test: of the kernels {others}")),
            (Some(right), Some(others)) => Some(format!("self-test: {right}; of the others {others}")),
        }
    }
}

/// Lets `device` prove `kernels`, but for those that it has proved before. The ledger's peaks do not know of it.
///
/// # Errors
/// [`Error::Kernel`] that names the device, the kernels, the row and the numbers, where it computes wrongly; those of the
/// device.
pub fn prove(device: &Device, kernels: &[KernelSpec]) -> Result<Trust> {
    if env::settings().skip_selftest {
        return Ok(Trust { switched_off: true, ..Trust::default() });
    }
    prove_in(device, kernels, cache_folder().as_deref())
}

/// [`prove`] with the folder where notes are kept, if there is one.
///
/// # Errors
/// As [`prove`].
pub fn prove_in(device: &Device, kernels: &[KernelSpec], cache: Option<&Path>) -> Result<Trust> {
    let start = Instant::now();
    let known = cache.map(|folder| proved::read(folder, device.caps())).unwrap_or_default();
    let all = kernels.par_iter().map(digest).collect::<Result<Vec<String>>>()?;
    let fresh = kernels.iter().zip(all).filter(|(_, digest)| !known.contains(digest));
    let (wanted, digests): (Vec<KernelSpec>, Vec<String>) = fresh.map(|(spec, digest)| (spec.clone(), digest)).unzip();
    let mut trust = Trust { remembered: kernels.len() - wanted.len(), ..Trust::default() };
    if wanted.is_empty() {
        return Ok(trust);
    }
    let Cover { checks, missing } = cover(device, &wanted);
    let launched = device.aside(|| {
        let mut launched = HashSet::new();
        for check in &checks {
            let (outcome, specs) = check.run(device)?;
            if let Some(fault) = &outcome.fault {
                return Err(wrong(device, check.row.suspects(&outcome), &format!("{}: {fault}", check.name())));
            }
            launched.extend(specs);
        }
        Ok(launched)
    })?;
    let (right, unproved): (Vec<_>, Vec<_>) =
        wanted.into_iter().zip(digests).partition(|(spec, _)| launched.contains(spec));
    trust.unproved = unproved.into_iter().map(|(spec, _)| spec).collect();
    debug_assert!(missing.iter().all(|spec| trust.unproved.contains(spec)));
    for spec in &trust.unproved {
        tracing::debug!("no case proves {spec:?} on {}", device.caps().name);
    }
    if let Some(folder) = cache {
        proved::add(folder, device.caps(), right.iter().map(|(_, digest)| digest.clone()));
    }
    (trust.proved, trust.rows, trust.seconds) = (right.len(), checks.len(), start.elapsed().as_secs_f64());
    tracing::debug!("proved {} kernels in {} cases, {:.2} s", trust.proved, trust.rows, trust.seconds);
    Ok(trust)
}

fn wrong(device: &Device, name: String, what: &str) -> Error {
    let caps = device.caps();
    Error::Kernel {
        name,
        reason: format!(
            "{} ({}) computes wrongly: {what}; update its driver, choose another ⟨device⟩, or go on at your own risk \
             with {}=off",
            caps.name,
            caps.driver,
            env::SELFTEST
        ),
    }
}

/// Of a specialisation's text, as the driver gets it.
fn digest(spec: &KernelSpec) -> Result<String> {
    Ok(Digest::of(shader::render(spec)?.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::variants;

    #[test]
    fn what_is_taken_on_trust_is_said_each_time() {
        let unproved = variants()[..2].to_vec();
        let line = |rows, unproved: &[KernelSpec]| {
            Trust { proved: 3 * rows, rows, unproved: unproved.to_vec(), ..Trust::default() }.line()
        };
        assert_eq!(line(0, &[]), None);
        assert_eq!(line(2, &[]).unwrap(), "self-test: 6 kernels right in 2 cases, 0.0 s");
        assert_eq!(line(0, &unproved).unwrap(), "self-test: of the kernels 2 have no case and are taken on trust");
        assert!(line(2, &unproved).unwrap().ends_with("0.0 s; of the others 2 have no case and are taken on trust"));
    }
}
