//! The specialisations that tests render, validate and translate. All that there are, are the product of many constants; a fault is
//! nearly always of one value or of two together, so a set is enough in which each pair of values occurs that can occur at all.

use crate::device::KernelSpec;
use std::collections::{BTreeMap, HashMap};

/// Some of `all`: of each kernel, each value of each constant, and each two values of two constants that occur together, occur
/// together in one of them.
pub fn covering(all: &[KernelSpec]) -> Vec<KernelSpec> {
    let mut kernels: BTreeMap<&str, Vec<&KernelSpec>> = BTreeMap::new();
    all.iter().for_each(|spec| kernels.entry(spec.kernel.name).or_default().push(spec));
    kernels.into_values().flat_map(|specs| of_kernel(&specs)).collect()
}

fn of_kernel(specs: &[&KernelSpec]) -> Vec<KernelSpec> {
    let mut numbers: HashMap<(&str, u32), usize> = HashMap::new();
    let mut values = Vec::with_capacity(specs.len());
    for spec in specs {
        let of_spec: Vec<usize> =
            spec.consts.iter().map(|&(name, value)| number(&mut numbers, (name, value))).collect();
        values.push(of_spec);
    }
    let count = numbers.len();
    let mut is_covered = vec![false; count * count];
    let mut taken = vec![false; specs.len()];
    // first those that bring as many new pairs as there can be, then those that bring fewer and fewer
    let most = values.iter().map(|v| v.len() * (v.len() + 1) / 2).max().unwrap_or(0);
    let mut least = most;
    while least > 0 {
        for (values, taken) in values.iter().zip(&mut taken).filter(|(_, taken)| !**taken) {
            let pairs = || values.iter().enumerate().flat_map(|(i, a)| values[i..].iter().map(move |b| a * count + b));
            if pairs().filter(|pair| !is_covered[*pair]).count() >= least {
                pairs().for_each(|pair| is_covered[pair] = true);
                *taken = true;
            }
        }
        least = least * 3 / 4;
    }
    // a kernel without constants has one
    taken[0] |= most == 0;
    specs.iter().zip(&taken).filter(|(_, taken)| **taken).map(|(spec, _)| (*spec).clone()).collect()
}

/// Numbers values as they come.
fn number<'a>(numbers: &mut HashMap<(&'a str, u32), usize>, value: (&'a str, u32)) -> usize {
    let next = numbers.len();
    *numbers.entry(value).or_insert(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::variants;
    use std::collections::{BTreeSet, HashSet};

    type Pairs = BTreeSet<(&'static str, (&'static str, u32), (&'static str, u32))>;

    fn pairs(specs: &[KernelSpec]) -> Pairs {
        let of = |s: &KernelSpec| {
            let (name, consts) = (s.kernel.name, s.consts.clone());
            let second = consts.clone();
            consts
                .into_iter()
                .flat_map(move |a| second.clone().into_iter().map(move |b| (name, a, b)))
                .collect::<Vec<_>>()
        };
        specs.iter().flat_map(of).collect()
    }

    #[test]
    fn every_pair_that_can_occur_is_in_the_set() {
        let all = variants();
        let some = covering(&all);
        let known: HashSet<&KernelSpec> = all.iter().collect();
        assert!(some.iter().all(|spec| known.contains(spec)));
        assert_eq!(pairs(&some), pairs(&all));
        let names = |specs: &[KernelSpec]| specs.iter().map(|s| s.kernel.name).collect::<BTreeSet<_>>();
        assert_eq!(names(&some), names(&all));
        assert!(some.len() * 2 < all.len(), "{} of {}", some.len(), all.len());
    }
}
