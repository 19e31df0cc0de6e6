//! Who holds how many bytes. No API tells, so the project counts.

use std::collections::BTreeMap;

/// Bytes by purpose, now and at the peak.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    rows: BTreeMap<&'static str, LedgerRow>,
    in_use: u64,
    peak: u64,
    reserved: u64,
    peak_reserved: u64,
}

/// One purpose. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerRow {
    pub in_use: u64,
    pub peak: u64,
    /// Held when all rows together held the most.
    pub at_peak: u64,
}

impl Ledger {
    pub(super) fn add(&mut self, what: &'static str, bytes: u64) {
        let row = self.rows.entry(what).or_default();
        row.in_use += bytes;
        row.peak = row.peak.max(row.in_use);
        self.in_use += bytes;
        if self.in_use > self.peak {
            self.peak = self.in_use;
            self.rows.values_mut().for_each(|row| row.at_peak = row.in_use);
        }
    }

    pub(super) fn remove(&mut self, what: &'static str, bytes: u64) {
        if let Some(row) = self.rows.get_mut(what) {
            row.in_use -= bytes;
        }
        self.in_use -= bytes;
    }

    pub(super) fn reserve(&mut self, bytes: u64) {
        self.reserved += bytes;
        self.peak_reserved = self.peak_reserved.max(self.reserved);
    }

    pub(super) fn release(&mut self, bytes: u64) {
        self.reserved -= bytes;
    }

    /// Forgets the peaks of before.
    pub(super) fn restart(&mut self) {
        (self.peak, self.peak_reserved) = (self.in_use, self.reserved);
        self.rows.values_mut().for_each(|row| (row.peak, row.at_peak) = (row.in_use, row.in_use));
    }

    /// Has the peaks of `before` again, as if nothing had happened since.
    pub(super) fn restore_peaks(&mut self, before: &Ledger) {
        (self.peak, self.peak_reserved) = (before.peak, before.peak_reserved);
        for (what, row) in &mut self.rows {
            let known = before.rows.get(what).copied().unwrap_or_default();
            (row.peak, row.at_peak) = (known.peak, known.at_peak);
        }
    }

    /// Bytes held by live buffers.
    pub fn in_use(&self) -> u64 {
        self.in_use
    }

    /// The most bytes that live buffers ever held at once.
    pub fn peak(&self) -> u64 {
        self.peak
    }

    /// Bytes taken from the device: live buffers and those kept for reuse.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// The most bytes ever taken from the device at once.
    pub fn peak_reserved(&self) -> u64 {
        self.peak_reserved
    }

    /// By purpose, in alphabetical order.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, LedgerRow)> + '_ {
        self.rows.iter().map(|(k, v)| (*k, *v))
    }
}
