//! The density of masks that are there already: the number from which the original code computes how many entries each
//! mask has, int(d · out · in), with one d for all modules.

use super::targets::{PerModule, Target, last_part, nnz};

/// Density, and that of the modules that have another, with which each of `targets` has as many entries as its mask has.
/// `given` are the two as they stand: where they do, they stay.
pub fn densities(targets: &[Target], given: (f64, &PerModule<f64>)) -> (f64, PerModule<f64>) {
    let all: Vec<&Target> = targets.iter().collect();
    if all.iter().all(|t| fits(t, given.1.get(&t.module.name).unwrap_or(given.0))) {
        return (given.0, given.1.clone());
    }
    if all.iter().all(|t| fits(t, given.0)) {
        return (given.0, PerModule::default());
    }
    if let Some(density) = common(&all) {
        return (density, PerModule::default());
    }
    // the one that serves most modules, and the rest by name
    let own = |t: &&Target| common(&[t]).unwrap_or(0.0);
    let candidates = all.iter().map(own).filter(|d| *d > 0.0);
    let serves = |d: f64| all.iter().filter(|t| fits(t, d)).count();
    let density = candidates.fold(given.0, |best, d| if serves(d) > serves(best) { d } else { best });
    let value = |t: &&Target| {
        if fits(t, density) {
            return density;
        }
        // modules of one kind have one number where they can, so that one key names them all
        let part = last_part(&t.module.name);
        let alike: Vec<&Target> = all.iter().copied().filter(|o| last_part(&o.module.name) == part).collect();
        common(&alike).unwrap_or_else(|| own(t))
    };
    let values: Vec<(&str, f64)> = all.iter().map(|t| (t.module.name.as_str(), value(t))).collect();
    (density, PerModule::of(&values, density))
}

/// Whether density `d` gives `target` as many entries as it has.
fn fits(target: &Target, d: f64) -> bool {
    (0.0..=1.0).contains(&d) && nnz(d, target.module.out_features, target.module.in_features) == target.nnz
}

/// The shortest decimal number that fits all of `targets`, if one does.
fn common(targets: &[&Target]) -> Option<f64> {
    let numel = |t: &Target| t.module.out_features as f64 * t.module.in_features as f64;
    let least = targets.iter().map(|t| t.nnz as f64 / numel(t)).fold(0.0, f64::max);
    let fits_all = |d: &f64| targets.iter().all(|t| fits(t, *d));
    let rounded = (1..=17).map(|digits| {
        let unit = 10f64.powi(digits);
        (least * unit).ceil() / unit
    });
    rounded.chain([least, least.next_up(), least.next_up().next_up()]).find(fits_all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::targets::LinearShape;

    fn target(name: &str, out_features: usize, in_features: usize, nnz: usize) -> Target {
        let module = LinearShape { name: name.into(), out_features, in_features, ..LinearShape::default() };
        Target { index: 0, module, rank: 0, alpha: 1.0, scale: 1.0, nnz }
    }

    /// Targets with as many entries as `density` gives them.
    fn with(density: f64) -> Vec<Target> {
        let shapes =
            [("l.0.q_proj", 64, 64), ("l.0.k_proj", 32, 64), ("l.0.down_proj", 64, 176), ("l.1.q_proj", 64, 64)];
        shapes.map(|(name, n, k)| target(name, n, k, nnz(density, n, k))).into()
    }

    fn none() -> PerModule<f64> {
        PerModule::default()
    }

    #[test]
    fn one_density_is_found_where_there_is_one() {
        for d in [0.02, 0.006, 0.018, 0.0045, 1.0, 0.5, 0.1234567, 1.0 / 3.0] {
            let (found, pattern) = densities(&with(d), (0.003, &none()));
            assert!(pattern.0.is_empty(), "{d}: {pattern:?}");
            assert!(with(d).iter().all(|t| fits(t, found)), "{d}: {found}");
        }
        // the number that somebody typed, not the lower end of those that would do
        assert_eq!(densities(&with(0.02), (0.006, &none())).0, 0.02);
        // large matrices leave next to no room
        let wide = [target("q", 4096, 4096, 100_663), target("up", 11_008, 4096, nnz(0.006, 11_008, 4096))];
        assert_eq!(densities(&wide, (0.003, &none())).0, 0.006);
    }

    #[test]
    fn what_is_said_already_stays_where_it_is_right() {
        let pattern: PerModule<f64> = "down_proj=0.5".parse().unwrap();
        let mut targets = with(0.0201);
        assert_eq!(densities(&targets, (0.0201, &none())), (0.0201, none()));
        assert_eq!(densities(&targets, (0.0201, &pattern)), (0.0201, none()), "a pattern that is not so goes");
        targets[2].nnz = nnz(0.5, 64, 176);
        assert_eq!(densities(&targets, (0.0201, &pattern)), (0.0201, pattern));
    }

    #[test]
    fn modules_that_differ_are_named() {
        let mut targets = with(0.02);
        targets[1].nnz = 0;
        let (d, pattern) = densities(&targets, (0.006, &none()));
        assert_eq!((d, pattern), (0.02, "k_proj=0".parse().unwrap()));
        let mut targets = with(0.02);
        targets[3].nnz = 7;
        let (d, pattern) = densities(&targets, (0.006, &none()));
        assert_eq!((d, pattern.0.len()), (0.02, 1));
        assert!(targets.iter().all(|t| fits(t, pattern.get(&t.module.name).unwrap_or(d))), "{pattern:?}");
        assert!(pattern.0.contains_key("l.1.q_proj"));
    }
}
