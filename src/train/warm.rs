//! Compiling a run's kernels ahead: all at once on all cores, while the weights are read, instead of one by one in the
//! first step.

use crate::device::{Device, KernelSpec};
use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Instant;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compiled {
    pub done: usize,
    pub of: usize,
}

impl Compiled {
    /// `compiling 96 kernels: 40 %`
    pub fn line(&self) -> String {
        format!("compiling {} kernels: {} %", self.of, 100 * self.done / self.of.max(1))
    }
}

/// What it took. Seconds.
#[derive(Clone, Copy, Debug)]
pub struct Compilation {
    pub kernels: usize,
    /// From the start to the last kernel.
    pub seconds: f64,
    /// Of these those beside the other work.
    pub waited: f64,
}

impl Compilation {
    /// A line for people.
    pub fn line(&self) -> String {
        format!("kernels: {} ready in {:.1} s", self.kernels, self.seconds)
    }
}

/// Compiles `kernels` on other threads while `work` runs on this one, then waits for the rest and tells `progress` about it.
///
/// # Errors
/// That of `work`, and then nothing more is compiled; [`Error::Kernel`] where the driver refuses a kernel.
pub fn compile_while<T>(
    device: &Device,
    kernels: &[KernelSpec],
    work: impl FnOnce() -> Result<T>,
    progress: &mut dyn FnMut(Compiled),
) -> Result<(T, Compilation)> {
    let start = Instant::now();
    let wanted = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let (send, done) = mpsc::channel();
        let wanted = &wanted;
        let compiler = scope.spawn(move || {
            let compiled = || {
                let _ = send.send(()); // nobody listens once the work has failed
                wanted.load(Ordering::Relaxed)
            };
            device.prepare(kernels, &compiled).map(|()| start.elapsed().as_secs_f64())
        });
        let result = work();
        let worked = start.elapsed().as_secs_f64();
        if result.is_err() {
            wanted.store(false, Ordering::Relaxed);
        }
        if result.is_ok() {
            // the channel closes when the compiler is through
            let counted = done.iter().zip(1..).map(|((), done)| Compiled { done, of: kernels.len() });
            counted.for_each(&mut *progress);
        }
        let failed = || Error::Kernel { name: "(compiler)".into(), reason: "the driver failed".into() };
        let compiled = compiler.join().unwrap_or_else(|_| Err(failed()));
        let (result, seconds) = (result?, compiled?);
        Ok((result, Compilation { kernels: kernels.len(), seconds, waited: (seconds - worked).max(0.0) }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::dry::DryBackend;
    use crate::kernels;

    #[test]
    fn progress_ends_with_all_and_an_error_of_the_work_comes_first() {
        let device = Device::new(Box::new(DryBackend::new(DryBackend::caps_for_tests())));
        let specs: Vec<_> = kernels::variants().into_iter().take(7).collect();
        let mut seen = Vec::new();
        let (three, compiled) = compile_while(&device, &specs, || Ok(3), &mut |c| seen.push(c)).unwrap();
        assert_eq!((three, compiled.kernels, seen.len()), (3, 7, 7));
        assert_eq!(seen[6], Compiled { done: 7, of: 7 });
        assert_eq!(seen[2].line(), "compiling 7 kernels: 42 %");
        let failed = compile_while(&device, &specs, || Err::<(), _>(Error::Interrupted), &mut |c| seen.push(c));
        assert!(matches!(failed, Err(Error::Interrupted)));
        assert_eq!(seen.len(), 7);
    }
}
