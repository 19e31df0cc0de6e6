//! Tiles that were measured to be the fastest on this very device, for the products for which they were, in place of those of
//! its class. Kernels look them up where they choose theirs; [`file`] keeps them from process to process. Attention and the
//! sparse gradient are products too: theirs are blocks of queries and keys, and the kernel that takes the entries.
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
    /// dS, as entries of a gradient of weights (layout 2).
    Sddmm,
    AttentionForward,
    /// The backward's two passes.
    AttentionQuery,
    AttentionKeyValue,
}

/// A product, as far as its tile is concerned. `m`, `n`, `k` are as in `C[m, n] = Σk …`, and for attention tokens, query heads
/// and elements of a head; the one that counts tokens is rounded up to a power of two, as batches differ in it.
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
    /// Entries of dS's mask; key-value heads of attention; else 0.
    #[serde(default)]
    pub count: usize,
    /// Keys that a query of attention sees at most; else 0.
    #[serde(default)]
    pub span: usize,
}

impl ProductKey {
    /// Rounds up what batches and masks differ in.
    pub fn rounded(self) -> ProductKey {
        let up = |n: usize| if n == 0 { 0 } else { n.checked_next_power_of_two().unwrap_or(n) };
        let count = if self.family == Family::Sddmm { up(self.count) } else { self.count };
        ProductKey { count, ..self.with_lengths(up) }
    }

    /// The key without lengths in tokens: what all batches of a model have in common.
    fn of_any_length(self) -> ProductKey {
        self.with_lengths(|_| 0)
    }

    /// With other lengths in tokens: k of a gradient of weights (layout 2), else m; and what attention sees of them.
    fn with_lengths(self, of: impl Fn(usize) -> usize) -> ProductKey {
        let span = of(self.span);
        match self.layout {
            2 => ProductKey { k: of(self.k), span, ..self },
            _ => ProductKey { m: of(self.m), span, ..self },
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
    /// Entries of S, or of dS.
    pub nnz: usize,
    pub bias: bool,
    pub accumulate: bool,
    /// The tiles that it can have; that of the device's class first.
    pub tiles: Vec<TileId>,
    /// Times that it was asked for, at any length that the key stands for.
    pub launches: usize,
}

impl Product {
    /// Multiplications and additions of all launches, about.
    pub fn flops(&self) -> f64 {
        let each = self.shape.iter().map(|&l| l as f64).product::<f64>();
        2.0 * each * self.key.span.max(1) as f64 * self.launches as f64
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
    by_thread: Mutex<HashMap<ThreadId, OfThread>>,
}

/// What a thread that measures or counts has asked for.
#[derive(Default)]
struct OfThread {
    /// The products that it has launched so far, if it notes them.
    noted: Option<BTreeMap<ProductKey, Product>>,
    /// The tile that a product has for it, whatever the table says.
    tried: Option<(ProductKey, TileId)>,
}

impl Tiles {
    fn by_thread(&self) -> MutexGuard<'_, HashMap<ThreadId, OfThread>> {
        self.by_thread.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Changes what this thread asks for, and forgets threads that ask for nothing any more.
    fn change<T>(&self, change: impl FnOnce(&mut OfThread) -> T) -> T {
        let id = std::thread::current().id();
        let mut threads = self.by_thread();
        let own = threads.entry(id).or_default();
        let result = change(own);
        if own.noted.is_none() && own.tried.is_none() {
            threads.remove(&id);
        }
        self.look(&threads);
        result
    }

    fn look(&self, threads: &HashMap<ThreadId, OfThread>) {
        let has_rows = !self.table.read().unwrap_or_else(|e| e.into_inner()).is_empty();
        self.is_asked.store(has_rows || !threads.is_empty(), Ordering::Relaxed);
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
        tiles.look(&tiles.by_thread());
    }

    /// What this thread launches has this tile for this product from now on; `None` ends that. A tile that the product
    /// cannot have says nothing.
    pub fn try_tile(&self, tile: Option<(ProductKey, TileId)>) {
        self.0.tiles.change(|own| own.tried = tile);
    }

    /// Starts (true) or ends (false) a list of the products that this thread launches, each key once, with its largest
    /// shape; returns the list so far.
    pub fn note_products(&self, on: bool) -> Vec<Product> {
        let before = self.0.tiles.change(|own| std::mem::replace(&mut own.noted, on.then(BTreeMap::new)));
        before.unwrap_or_default().into_values().collect()
    }

    /// Whether products are to be told to [`Device::tile_of`].
    pub(crate) fn asks_for_products(&self) -> bool {
        self.0.tiles.is_asked.load(Ordering::Relaxed)
    }

    /// Notes `product` where that is wanted; its measured tile, if it can have it.
    pub(crate) fn tile_of(&self, product: Product) -> Option<TileId> {
        let mut found = self.tiles().get(&product.key);
        if let Some(own) = self.0.tiles.by_thread().get_mut(&std::thread::current().id()) {
            found = own.tried.filter(|(key, _)| *key == product.key).map(|(_, tile)| tile).or(found);
            if let Some(noted) = &mut own.noted {
                note(noted, &product);
            }
        }
        found.filter(|tile| product.tiles.contains(tile))
    }
}

/// Counts `product`, and keeps it where it is the largest of its key.
fn note(noted: &mut BTreeMap<ProductKey, Product>, product: &Product) {
    let launches = noted.get(&product.key).map_or(0, |p| p.launches) + 1;
    match noted.get_mut(&product.key) {
        Some(known) if known.shape >= product.shape => known.launches = launches,
        _ => drop(noted.insert(product.key, Product { launches, ..product.clone() })),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::device::dry::DryBackend;

    pub(crate) fn key(m: usize, layout: u32) -> ProductKey {
        let family = Family::RosaLinearCoop;
        ProductKey {
            family,
            layout,
            m,
            n: 576,
            k: 1536,
            formats: [0, 1],
            sparse: false,
            low_rank: true,
            count: 0,
            span: 0,
        }
        .rounded()
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
