//! Tiles that were measured to be the fastest on this very device, for the products for which they were, in place of those of
//! its class. Kernels look them up where they choose theirs; [`file`] keeps them from process to process.
//!
//! Another tile sums in another order, so a run repeats bit for bit with the same table only.

pub mod file;

use super::Device;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::thread::ThreadId;

/// The kernels that make products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    Matmul,
    RosaLinear,
    MatmulCoop,
    RosaLinearCoop,
}

/// A product, as far as its tile is concerned. `m`, `n`, `k` are as in `C[m, n] = Σk …`, but for the one that counts tokens,
/// which is rounded up to a power of two: batches differ in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProductKey {
    pub family: Family,
    /// The number that shaders know the layout by.
    pub layout: u32,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Of both operands, by the numbers that shaders know them by.
    pub formats: [u32; 2],
    pub sparse: bool,
    pub low_rank: bool,
}

impl ProductKey {
    /// Rounds the length that counts tokens: k of a gradient of weights (layout 2), else m.
    pub fn rounded(self) -> ProductKey {
        let up = |n: usize| n.checked_next_power_of_two().unwrap_or(n);
        match self.layout {
            2 => ProductKey { k: up(self.k), ..self },
            _ => ProductKey { m: up(self.m), ..self },
        }
    }

    /// The key without that length: what all batches of a model have in common.
    fn of_any_length(self) -> ProductKey {
        match self.layout {
            2 => ProductKey { k: 0, ..self },
            _ => ProductKey { m: 0, ..self },
        }
    }
}

/// What tells a tile from the others that a product could have.
pub type TileId = [u32; 7];

/// A product as it was asked for, with all that it takes to ask for it again.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    pub key: ProductKey,
    /// `[m, n, k]` as they are.
    pub shape: [usize; 3],
    /// Elements between rows of the output, and its first column.
    pub stride_column: (usize, usize),
    pub rank: usize,
    /// Entries of S.
    pub nnz: usize,
    pub bias: bool,
    pub accumulate: bool,
    /// The tiles that it can have; that of the device's class first.
    pub tiles: Vec<TileId>,
    /// Times that it was asked for, at any length that the key stands for.
    pub launches: usize,
}

impl Product {
    /// Multiplications and additions of all launches.
    pub fn flops(&self) -> f64 {
        2.0 * self.shape.iter().map(|&l| l as f64).product::<f64>() * self.launches as f64
    }
}

/// Tiles by product.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Row>", into = "Vec<Row>")]
pub struct TileTable(BTreeMap<ProductKey, TileId>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    product: ProductKey,
    tile: TileId,
}

impl From<Vec<Row>> for TileTable {
    fn from(rows: Vec<Row>) -> Self {
        TileTable(rows.into_iter().map(|r| (r.product, r.tile)).collect())
    }
}

impl From<TileTable> for Vec<Row> {
    fn from(table: TileTable) -> Self {
        table.0.into_iter().map(|(product, tile)| Row { product, tile }).collect()
    }
}

impl TileTable {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, key: &ProductKey) -> Option<TileId> {
        self.0.get(key).copied()
    }

    pub fn set(&mut self, key: ProductKey, tile: TileId) {
        self.0.insert(key, tile);
    }

    /// Takes over what `other` has.
    pub fn extend(&mut self, other: &TileTable) {
        self.0.extend(&other.0);
    }

    /// The rows that a run of `products` can meet, at whatever length of its batches.
    pub fn of(&self, products: &[Product]) -> TileTable {
        let met = |key: &ProductKey| products.iter().any(|p| p.key.of_any_length() == key.of_any_length());
        TileTable(self.0.iter().filter(|(key, _)| met(key)).map(|(k, t)| (*k, *t)).collect())
    }
}

/// What a device knows about tiles.
#[derive(Default)]
pub(super) struct Tiles {
    /// Whether a product must look here at all: asked for each, so without a lock.
    is_asked: AtomicBool,
    table: RwLock<Arc<TileTable>>,
    /// The products that threads which ask for them have launched so far.
    noted: Mutex<HashMap<ThreadId, BTreeMap<ProductKey, Product>>>,
}

impl Tiles {
    fn noted(&self) -> MutexGuard<'_, HashMap<ThreadId, BTreeMap<ProductKey, Product>>> {
        self.noted.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn look(&self, noted: bool) {
        let has_rows = !self.table.read().unwrap_or_else(|e| e.into_inner()).is_empty();
        self.is_asked.store(has_rows || noted, Ordering::Relaxed);
    }
}

impl Device {
    /// The measured tiles in use.
    pub fn tiles(&self) -> Arc<TileTable> {
        self.0.tiles.table.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Puts others in their place. A row that names no tile which its product can have says nothing.
    pub fn set_tiles(&self, table: impl Into<Arc<TileTable>>) {
        let tiles = &self.0.tiles;
        *tiles.table.write().unwrap_or_else(|e| e.into_inner()) = table.into();
        let noted = !tiles.noted().is_empty();
        tiles.look(noted);
    }

    /// Starts (true) or ends (false) a list of the products that this thread launches, each key once, with its largest
    /// shape; returns the list so far.
    pub fn note_products(&self, on: bool) -> Vec<Product> {
        let (tiles, id) = (&self.0.tiles, std::thread::current().id());
        let mut noted = tiles.noted();
        let before = noted.remove(&id).unwrap_or_default();
        if on {
            noted.insert(id, BTreeMap::new());
        }
        tiles.look(!noted.is_empty());
        before.into_values().collect()
    }

    /// Whether products are to be told to [`Device::tile_of`].
    pub(crate) fn asks_for_products(&self) -> bool {
        self.0.tiles.is_asked.load(Ordering::Relaxed)
    }

    /// Notes `product` where that is wanted; its measured tile, if it can have it.
    pub(crate) fn tile_of(&self, product: Product) -> Option<TileId> {
        let found = self.tiles().get(&product.key).filter(|tile| product.tiles.contains(tile));
        if let Some(noted) = self.0.tiles.noted().get_mut(&std::thread::current().id()) {
            let launches = noted.get(&product.key).map_or(0, |p| p.launches) + 1;
            match noted.get_mut(&product.key) {
                Some(known) if known.shape >= product.shape => known.launches = launches,
                _ => drop(noted.insert(product.key, Product { launches, ..product })),
            }
        }
        found
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::device::dry::DryBackend;

    pub(crate) fn key(m: usize, layout: u32) -> ProductKey {
        let family = Family::RosaLinearCoop;
        ProductKey { family, layout, m, n: 576, k: 1536, formats: [0, 1], sparse: false, low_rank: true }.rounded()
    }

    fn product(m: usize) -> Product {
        let tiles = vec![[1; 7], [2; 7]];
        let (stride_column, launches) = ((576, 0), 1);
        let shape = [m, 576, 1536];
        Product {
            key: key(m, 0),
            shape,
            stride_column,
            rank: 8,
            nnz: 0,
            bias: false,
            accumulate: false,
            tiles,
            launches,
        }
    }

    #[test]
    fn lengths_in_tokens_are_rounded_up_and_others_are_not() {
        let rounded = |m| key(m, 0).m;
        assert_eq!([1, 2, 3, 1000, 1024, 1025].map(rounded), [1, 2, 4, 1024, 1024, 2048]);
        assert_eq!(rounded(usize::MAX), usize::MAX);
        assert_eq!((key(5, 0).n, key(5, 0).k), (576, 1536));
        // a gradient of weights sums over tokens
        assert_eq!((key(576, 2).m, key(576, 2).k), (576, 2048));
    }

    #[test]
    fn a_run_meets_the_rows_of_its_shapes_at_any_length() {
        let mut table = TileTable::default();
        [64, 128].iter().for_each(|&m| table.set(key(m, 0), [2; 7]));
        table.set(key(64, 1), [2; 7]);
        let met = table.of(&[product(4096)]);
        assert_eq!((met.len(), met.get(&key(128, 0)), met.get(&key(64, 1))), (2, Some([2; 7]), None));
    }

    #[test]
    fn products_are_noted_once_and_get_a_tile_only_if_they_can_have_it() {
        let device = Device::new(Box::new(DryBackend::new(DryBackend::caps_for_tests())));
        assert!(!device.asks_for_products());
        device.note_products(true);
        assert!(device.asks_for_products());
        for m in [100, 128, 65, 7] {
            assert_eq!(device.tile_of(product(m)), None);
        }
        let noted = device.note_products(false);
        let seen: Vec<_> = noted.iter().map(|p| (p.key.m, p.shape[0], p.launches)).collect();
        assert_eq!(seen, [(8, 7, 1), (128, 128, 3)]);
        assert!(!device.asks_for_products());

        let mut table = TileTable::default();
        table.set(key(128, 0), [2; 7]);
        table.set(key(8, 0), [3; 7]);
        device.set_tiles(table);
        assert!(device.asks_for_products());
        assert_eq!((device.tile_of(product(100)), device.tile_of(product(7))), (Some([2; 7]), None));
        assert!(device.note_products(false).is_empty());
        device.set_tiles(TileTable::default());
        assert!(!device.asks_for_products());
    }
}
