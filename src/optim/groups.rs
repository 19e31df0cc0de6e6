//! Groups of parameters, and what belongs to each of them in one map.

use serde::{Deserialize, Serialize};

/// Parameters of one kind. A learning rate is a group's, and a step trains a group or leaves it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// A and B of low-rank adapters: `lora_lr`.
    LowRank,
    /// Values of sparse adapters: `lr`.
    Sparse,
    /// All weights, with the method `full`: `lr`.
    Weights,
}

impl Group {
    pub const ALL: [Group; 3] = [Group::LowRank, Group::Sparse, Group::Weights];
}

/// A value for each group that has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerGroup<T>([Option<T>; Group::ALL.len()]);

/// Learning rates of a step; groups without one do not train in it.
pub type Rates = PerGroup<f64>;
/// The groups that train.
pub type Training = PerGroup<()>;

impl<T> Default for PerGroup<T> {
    /// Nothing for any.
    fn default() -> Self {
        PerGroup(Group::ALL.map(|_| None))
    }
}

impl<T: Copy> PerGroup<T> {
    pub fn get(&self, group: Group) -> Option<T> {
        self.0[group as usize]
    }

    pub fn has(&self, group: Group) -> bool {
        self.get(group).is_some()
    }

    #[must_use]
    pub fn with(mut self, group: Group, value: T) -> Self {
        self.0[group as usize] = Some(value);
        self
    }

    #[must_use]
    pub fn without(mut self, group: Group) -> Self {
        self.0[group as usize] = None;
        self
    }

    /// Another value for the same groups.
    pub fn map<U>(&self, of: impl Fn(Group, T) -> U) -> PerGroup<U> {
        PerGroup(Group::ALL.map(|group| Some(of(group, self.get(group)?))))
    }

    /// The groups that have a value.
    pub fn groups(&self) -> Training {
        self.map(|_, _| ())
    }
}

impl Training {
    /// These groups and no others.
    pub fn only(groups: impl IntoIterator<Item = Group>) -> Training {
        groups.into_iter().fold(Training::default(), |all, group| all.with(group, ()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_a_value_of_its_own() {
        for (at, group) in Group::ALL.into_iter().enumerate() {
            assert_eq!(at, group as usize);
            let one = Rates::default().with(group, 0.5);
            assert!(Group::ALL.iter().all(|g| one.get(*g) == (*g == group).then_some(0.5)));
            assert_eq!((one.groups(), one.without(group)), (Training::only([group]), Rates::default()));
        }
    }
}
