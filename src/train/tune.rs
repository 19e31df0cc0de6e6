//! Tiles by measurement: each product of a run, attention and the sparse gradient among them, with random operands of its shapes
//! and formats, in each tile that it can have. The fastest is used from now on, and kept for later runs.
//!
//! Tiles may differ in the order of sums, so one is only taken that makes the same numbers but for rounding, and only if it
//! is faster by more than measurements differ.

mod jobs;

use crate::cases::Filler;
use crate::cases::speeds::Job;
use crate::device::dry::DryBackend;
use crate::device::tiles::{Family, Product, TileId, TileTable, file};
use crate::device::{Device, Feature, KernelSpec, Slice};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use jobs::prepare;
use std::path::Path;
use std::time::{Duration, Instant};

/// Products whose kernels are compiled at once.
const TOGETHER: usize = 4;
/// Times that each tile is measured; they take turns, so that a clock that changes changes for all.
const ROUNDS: usize = 5;
/// Seconds of a measurement, about.
const MEASUREMENT: f64 = 0.004;
/// Of the time of the class's own tile: one that needs more is no better.
const BETTER: f64 = 0.97;
/// Elements at both ends of an output that are compared.
const COMPARED: u64 = 64 << 10;
/// Of the largest number: what another order of sums may change.
const ROUNDING: f32 = 1e-3;

/// What came of it. Numbers of products.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tuning {
    pub measured: usize,
    /// Of these those for which another tile than that of the device's class is faster.
    pub changed: usize,
    /// From before.
    pub known: usize,
    /// For which the time was too short, or the memory.
    pub left: usize,
    pub seconds: f64,
}

impl Tuning {
    /// A line for people.
    pub fn line(&self) -> String {
        let Tuning { measured, changed, known, left, seconds } = *self;
        if measured + known + left == 0 {
            return "tiles: no product of this run has a choice on this device".into();
        }
        let mut line =
            format!("tiles: {measured} products measured in {seconds:.1} s, {changed} run faster in another tile");
        if known > 0 {
            line += &format!("; {known} were known");
        }
        if left > 0 {
            line += &format!("; {left} are left for the next ⟨tune⟩, or a longer one");
        }
        line
    }
}

/// Measures those of `products` that no table has yet, the most work first, for at most `limit` but for what is under way then.
/// The device has the tiles that were found; they are kept in `cache`, if there is one. Memory is free again at the end, and
/// the ledger's peaks do not know of it.
///
/// # Errors
/// Those of the device, but for a kernel that it refuses and memory that it has not: such a product keeps its tile.
pub fn tune(device: &Device, products: &[Product], limit: Duration, cache: Option<&Path>) -> Result<Tuning> {
    let start = Instant::now();
    let before = device.tiles();
    let is_known = |p: &&Product| before.get(&p.key).is_some_and(|tile| p.tiles.contains(&tile));
    let (known, mut wanted): (Vec<_>, Vec<_>) = products.iter().partition(is_known);
    wanted.sort_by(|a, b| b.flops().total_cmp(&a.flops()));
    let mut fresh = TileTable::default();
    let measured = measure_all(device, &wanted, start + limit, &mut fresh);
    device.try_tile(None);

    let mut all = TileTable::clone(&before);
    all.extend(&fresh);
    device.set_tiles(all);
    device.trim()?;
    device.restart_peaks();
    measured?;
    if let (Some(folder), false) = (cache, fresh.is_empty())
        && let Err(e) = file::add(folder, device.caps(), &fresh)
    {
        tracing::warn!("the tiles cannot be kept for later runs: {e}");
    }
    let changed = wanted.iter().filter(|p| fresh.get(&p.key).is_some_and(|tile| tile != p.tiles[0])).count();
    let (measured, left) = (fresh.len(), wanted.len() - fresh.len());
    Ok(Tuning { measured, changed, known: known.len(), left, seconds: start.elapsed().as_secs_f64() })
}

fn measure_all(device: &Device, wanted: &[&Product], until: Instant, fresh: &mut TileTable) -> Result<()> {
    let dry = Device::new(Box::new(DryBackend::new(device.caps().clone())));
    dry.set_precision(device.precision());
    let (mut filler, mut dry_filler) = (Filler::new(device), Filler::new(&dry));
    for some in wanted.chunks(TOGETHER) {
        if Instant::now() >= until {
            break;
        }
        let specs = kernels(&mut dry_filler, some);
        match specs.and_then(|specs| device.prepare(&specs, &|| Instant::now() < until)) {
            // the product or tile that wants it will be left out
            Err(Error::Kernel { .. } | Error::TooLarge { .. }) | Ok(()) => {}
            Err(e) => return Err(e),
        }
        for product in some {
            match fastest(device, &mut filler, product, until) {
                Ok(Some(tile)) => fresh.set(product.key, tile),
                Ok(None) => {}
                Err(e @ (Error::Kernel { .. } | Error::OutOfMemory { .. } | Error::TooLarge { .. })) => {
                    tracing::debug!("{:?} keeps its tile: {e}", product.key);
                }
                Err(e) => return Err(e),
            }
            // the next one's operands have other sizes
            device.trim()?;
        }
    }
    Ok(())
}

/// The specialisations of `products` in all their tiles, found on a device that only counts.
fn kernels(dry: &mut Filler, products: &[&Product]) -> Result<Vec<KernelSpec>> {
    let device = dry.device().clone();
    device.note_launches(true);
    for product in products {
        // entries of S make no other kernel; those of dS are part of its key
        let nnz = if product.key.family == Family::Sddmm { product.nnz } else { product.nnz.min(1) };
        let (job, _) = prepare(dry, &Product { nnz, ..(*product).clone() })?;
        for tile in &product.tiles {
            device.try_tile(Some((product.key, *tile)));
            job()?;
        }
    }
    Ok(device.launched_kernels())
}

/// The fastest tile of `product`; `None` where there was no time to find out.
fn fastest(device: &Device, filler: &mut Filler, product: &Product, until: Instant) -> Result<Option<TileId>> {
    let own = product.tiles[0];
    let (job, out) = prepare(filler, product)?;
    let mut want: Option<Vec<f32>> = None;
    let mut times: Vec<(TileId, Vec<f64>)> = Vec::new();
    for &tile in &product.tiles {
        if Instant::now() >= until {
            return Ok(None);
        }
        device.try_tile(Some((product.key, tile)));
        device.clear(&out.slice())?;
        let got = match job().and_then(|()| sample(&out)) {
            Err(e @ Error::Kernel { .. }) if tile != own => {
                tracing::debug!("{:?} does without tile {tile:?}: {e}", product.key);
                continue;
            }
            got => got?,
        };
        match &want {
            Some(want) if !is_near(&got, want) => {
                tracing::warn!("{:?} comes out otherwise in tile {tile:?}, which is left out", product.key);
                continue;
            }
            Some(_) => {}
            None => want = Some(got),
        }
        times.push((tile, Vec::new()));
    }
    if times.len() < 2 {
        return Ok(Some(own));
    }
    device.try_tile(Some((product.key, own)));
    let once = timed(device, &job, 1)?;
    let left = until.saturating_duration_since(Instant::now()).as_secs_f64();
    if once * times.len() as f64 > left {
        return Ok(None);
    }
    let together = (MEASUREMENT / once.max(1e-7)).ceil().clamp(1.0, 64.0) as usize;
    for round in 0..ROUNDS {
        for (tile, seconds) in &mut times {
            if Instant::now() >= until {
                // an unfinished round favours nobody: those who had it have one number more
                return Ok((round > 0).then(|| best(own, &times)));
            }
            device.try_tile(Some((product.key, *tile)));
            seconds.push(timed(device, &job, together)?);
        }
    }
    for (tile, seconds) in &times {
        let (family, layout, shape) = (product.key.family, product.key.layout, product.shape);
        tracing::debug!("{family:?} {layout} {shape:?} in {tile:?}: {:.1} us", 1e6 * median(seconds));
    }
    Ok(Some(best(own, &times)))
}

/// The tile with the least median, if that is less by enough than that of `own`.
fn best(own: TileId, times: &[(TileId, Vec<f64>)]) -> TileId {
    let of_own = times.iter().find(|(tile, _)| *tile == own).map_or(f64::INFINITY, |t| median(&t.1));
    let least = times.iter().map(|(tile, seconds)| (*tile, median(seconds))).min_by(|a, b| a.1.total_cmp(&b.1));
    least.filter(|(_, seconds)| *seconds < BETTER * of_own).map_or(own, |(tile, _)| tile)
}

fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::INFINITY)
}

/// Seconds of one of `n` runs: in kernels where the device has a clock, else by ours, with a wait at the end of all.
fn timed(device: &Device, job: &Job, n: usize) -> Result<f64> {
    let by_device = device.caps().has(Feature::Timestamps);
    if by_device {
        device.profile(true)?;
    } else {
        device.wait()?;
    }
    let start = Instant::now();
    let done = (0..n).try_for_each(|_| job());
    if by_device {
        let times = device.profile(false)?;
        done?;
        return Ok(times.iter().map(|t| t.time.as_secs_f64()).sum::<f64>() / n as f64);
    }
    done?;
    device.wait()?;
    Ok(start.elapsed().as_secs_f64() / n as f64)
}

/// Numbers from both ends of an output.
fn sample(out: &Tensor) -> Result<Vec<f32>> {
    let all = out.slice();
    let len = all.len.min(4 * COMPARED);
    let ends = [all.offset, all.offset + all.len - len];
    let read = |offset: u64| out.device().download(&Slice { offset, len, ..all.clone() });
    Ok([read(ends[0])?, read(ends[1])?].iter().flat_map(|b| bytemuck::pod_collect_to_vec::<u8, f32>(b)).collect())
}

fn is_near(got: &[f32], want: &[f32]) -> bool {
    let largest = want.iter().fold(0f32, |most, w| most.max(w.abs()));
    got.iter().zip(want).all(|(g, w)| (g - w).abs() <= ROUNDING * largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_tile_must_be_faster_by_more_than_measurements_differ() {
        let [own, a, b] = [[1; 7], [2; 7], [3; 7]];
        let of = |own_s: f64, a_s: f64, b_s: f64| {
            let three = |s: f64| vec![s, 9.0 * s, 0.99 * s];
            best(own, &[(own, three(own_s)), (a, three(a_s)), (b, three(b_s))])
        };
        assert_eq!([of(1.0, 0.5, 0.6), of(1.0, 0.7, 0.6), of(1.0, 0.99, 1.2)], [a, b, own]);
        assert_eq!(best(own, &[(own, vec![1.0])]), own);
        assert_eq!(best(own, &[(own, vec![2.0]), (a, vec![1.0, 1.5])]), a);
    }

    #[test]
    fn numbers_that_are_wrong_or_none_are_not_near() {
        assert!(is_near(&[100.0, 0.05], &[100.05, 0.0]));
        assert!(!is_near(&[100.0, 0.0], &[100.0, 1.0]) && !is_near(&[f32::NAN], &[1.0]));
        assert!(is_near(&[0.0], &[0.0]));
    }

    #[test]
    fn the_line_says_what_is_left() {
        let tuning = Tuning { measured: 9, changed: 2, known: 3, left: 1, seconds: 4.25 };
        let line = tuning.line();
        assert!(line.starts_with(
            "tiles: 9 products measured in 4.2 s, 2 run faster in another tile; 3 were known; 1 are left"
        ));
        assert!(Tuning::default().line().contains("no product"), "{line}");
    }
}
