//! The one place where products learn of tiles that were measured on the device ([`crate::device::tiles`]).

use super::matmul::{Layout, Out};
use super::tile::Tile;
use crate::device::Device;
use crate::device::tiles::{Family, Product, ProductKey, TileId};

impl Tile {
    fn id(&self) -> TileId {
        let Tile { bm, bn, bk, tm, tn, unroll, prefetch } = *self;
        [bm, bn, bk, tm, tn, unroll, prefetch]
    }
}

/// A product whose output is `[m, n]` at `stride_column`; nothing fused.
pub(super) fn product(
    family: Family,
    layout: Layout,
    [m, n, k]: [usize; 3],
    formats: [u32; 2],
    stride_column: (usize, usize),
    out: &Out<'_>,
) -> Product {
    let key = ProductKey { family, layout: layout as u32, m, n, k, formats, sparse: false, low_rank: false }.rounded();
    let (shape, accumulate) = ([m, n, k], out.accumulate);
    Product { key, shape, stride_column, rank: 0, nnz: 0, bias: false, accumulate, tiles: Vec::new(), launches: 1 }
}

/// The tile that was measured to be the fastest of `tiles` for a product, else `own`, which the device's class has for it.
///
/// All of `tiles` can make every product that one of them can. A product whose own tile is none of them (few rows, few
/// columns) keeps that.
pub(super) fn tile(device: &Device, tiles: &[Tile], own: Tile, product: impl FnOnce() -> Product) -> Tile {
    if !device.asks_for_products() || tiles.len() < 2 || !tiles.contains(&own) {
        return own;
    }
    let others = tiles.iter().filter(|t| **t != own);
    let ids = std::iter::once(&own).chain(others).map(Tile::id).collect();
    let found = device.tile_of(Product { tiles: ids, ..product() });
    found.and_then(|id| tiles.iter().find(|t| t.id() == id).copied()).unwrap_or(own)
}

#[cfg(test)]
mod tests {
    use crate::device::dry::DryBackend;
    use crate::device::tiles::TileTable;
    use crate::device::{Caps, Device, Feature, KernelSpec, Precision};
    use crate::dtype::DType;
    use crate::kernels::matmul::{Fused, Layout, Out, matmul, rosa_linear};
    use crate::tensor::{Tensor, Weight, WeightFormat};

    fn device(units: bool) -> Device {
        let caps = DryBackend::caps_for_tests();
        let features = vec![Feature::F16, Feature::Subgroup, Feature::CoopMatrix];
        let device = Device::new(Box::new(DryBackend::new(match units {
            true => Caps { fragment: Some(16), features, max_workgroup_memory: 48 << 10, ..caps },
            false => caps,
        })));
        device.set_precision(if units { Precision::F16 } else { Precision::F32 });
        device
    }

    /// The kernels of a fused linear and of a gradient of its weight, of `m` tokens.
    fn launched(device: &Device, m: usize) -> Vec<KernelSpec> {
        let x = Tensor::empty(device, &[m, 576], "test").unwrap();
        let w = Weight::empty(device, WeightFormat::of(DType::BF16), 1536, 576, "test").unwrap();
        device.note_launches(true);
        let y = rosa_linear(Layout::Nt, &x, &w, Fused::default(), Out::default()).unwrap();
        matmul(Layout::Tn, &y, &x, Out::default()).unwrap();
        device.note_launches(false).into_iter().filter(|s| s.get("BM").is_some()).collect()
    }

    #[test]
    fn a_row_of_the_table_changes_the_tile_of_its_product_alone() {
        for units in [false, true] {
            let device = device(units);
            let lengths = [4096, 4000, 8192];
            let own = lengths.map(|m| launched(&device, m));
            device.note_products(true);
            launched(&device, 4096);
            let products = device.note_products(false);
            assert_eq!(products.len(), 2);
            for product in &products {
                assert!(product.tiles.len() > 1, "{product:?}");
                for (t, id) in product.tiles.iter().enumerate() {
                    let mut table = TileTable::default();
                    table.set(product.key, *id);
                    device.set_tiles(table);
                    for (m, own) in lengths.iter().zip(&own) {
                        let now = launched(&device, *m);
                        let changed: Vec<_> = now.iter().zip(own).filter(|(now, own)| now != own).collect();
                        let is_met = *m <= 4096 && (t > 0 || *m < 4096);
                        assert!(changed.len() <= usize::from(is_met), "{m} {id:?} {changed:?}");
                        let tile = [0, 1, 2].map(|i| Some(id[i]));
                        let got = now.iter().map(|s| ["BM", "BN", "BK"].map(|name| s.get(name)));
                        assert!(*m > 4096 || got.into_iter().any(|got| got == tile), "{m} {id:?} {now:?}");
                        assert!(*m != 4096 || t == 0 || changed.len() == 1, "{m} {id:?} {now:?}");
                    }
                }
            }
            device.set_tiles(TileTable::default());
            assert_eq!(launched(&device, 4096), own[0]);
        }
    }

    #[test]
    fn a_row_with_a_tile_that_does_not_exist_says_nothing() {
        let device = device(true);
        let own = launched(&device, 4096);
        device.note_products(true);
        launched(&device, 4096);
        let mut table = TileTable::default();
        device.note_products(false).iter().for_each(|p| table.set(p.key, [u32::MAX; 7]));
        device.set_tiles(table);
        assert_eq!(launched(&device, 4096), own);
    }

    #[test]
    fn few_rows_keep_their_tile() {
        let device = device(false);
        device.note_products(true);
        launched(&device, 8);
        let noted = device.note_products(false);
        assert!(noted.iter().all(|p| p.key.layout == Layout::Tn as u32), "{noted:?}");
    }
}
