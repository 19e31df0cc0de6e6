//! The one place where plans learn of tiles that were measured on the device ([`crate::device::tiles`]).

use crate::device::Device;
use crate::device::tiles::{Family, Product, ProductKey, TileId};

/// One of several tiles (or blocks, or algorithms) that a product can have.
pub(super) trait Choice: Copy {
    /// Tells it from the others of its product.
    fn id(&self) -> TileId;
}

/// What was measured on a device; nothing where a plan is made without one.
#[derive(Clone, Copy)]
pub struct Measured<'a>(Option<&'a Device>);

impl<'a> Measured<'a> {
    pub fn on(device: &'a Device) -> Self {
        Measured(Some(device))
    }

    #[cfg(test)]
    pub fn nothing() -> Self {
        Measured(None)
    }

    /// What was measured to be the fastest of `all` for a product, else `own`, which the device's class has for it.
    ///
    /// All of them can make every product that one of them can. A product whose own is none of them (few rows, few columns) keeps
    /// that.
    pub(super) fn choose<C: Choice, All: AsRef<[C]>>(
        self,
        own: C,
        all: impl FnOnce() -> All,
        product: impl FnOnce() -> Product,
    ) -> C {
        let Some(device) = self.0.filter(|device| device.asks_for_products()) else { return own };
        let all = all();
        let all = all.as_ref();
        let (mut tiles, others): (Vec<TileId>, Vec<_>) = all.iter().map(C::id).partition(|id| *id == own.id());
        if tiles.is_empty() || others.is_empty() {
            return own;
        }
        tiles.extend(others);
        let found = device.tile_of(Product { tiles, ..product() });
        found.and_then(|id| all.iter().find(|c| c.id() == id).copied()).unwrap_or(own)
    }
}

/// A product whose output is `[m, n]` by itself; nothing fused.
pub(super) fn product(family: Family, layout: u32, [m, n, k]: [usize; 3], formats: [u32; 2]) -> Product {
    let (sparse, low_rank, count, span) = (false, false, 0, 0);
    let key = ProductKey { family, layout, m, n, k, formats, sparse, low_rank, count, span }.rounded();
    let (shape, stride_column) = ([m, n, k], (n, 0));
    let (bias, accumulate) = (false, false);
    Product { key, shape, stride_column, rank: 0, nnz: 0, bias, accumulate, tiles: Vec::new(), launches: 1 }
}

#[cfg(test)]
mod tests {
    use crate::csr::CsrPattern;
    use crate::device::dry::DryBackend;
    use crate::device::tiles::TileTable;
    use crate::device::{Caps, Device, Feature, KernelSpec, Precision};
    use crate::dtype::DType;
    use crate::kernels::To;
    use crate::kernels::attention::{AttentionShape, Ranges, Saved, attention_backward, attention_forward};
    use crate::kernels::product::{Fused, Layout, Out, matmul, rosa_linear};
    use crate::kernels::sparse::{SparseIndex, sddmm};
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

    /// Attention over 4 heads of 64 in both directions, and dS.
    fn launched_otherwise(device: &Device) -> Vec<KernelSpec> {
        let (heads, head_dim, tokens) = (4, 64, 1024);
        let shape = AttentionShape { heads, kv_heads: heads, head_dim, scale: 1.0, softcap: None, span: None };
        let wide = || Tensor::empty(device, &[tokens, heads * head_dim], "test").unwrap();
        let index = || Tensor::empty(device, &[tokens], "test").unwrap();
        let (q, k, v, d_out, start, end) = (wide(), wide(), wide(), wide(), index(), index());
        let seen = Ranges { start: &start, end: &end };
        let flat: Vec<u64> = (0..600).map(|e| e * 100).collect();
        let mask = SparseIndex::new(device, &CsrPattern::from_flat(256, 256, &flat).unwrap()).unwrap();
        let ds = Tensor::empty(device, &[flat.len()], "test").unwrap();
        device.note_launches(true);
        let (out, lse) = attention_forward(&q, &k, &v, seen, &shape, To::default(), To::default()).unwrap();
        let saved = Saved { q: &q, k: &k, v: &v, out: &out, lse: &lse };
        attention_backward(saved, &d_out, seen, seen, &shape, None).unwrap();
        sddmm(&d_out, &q, &mask, &ds).unwrap();
        device.note_launches(false)
    }

    #[test]
    fn attention_and_the_sparse_gradient_have_a_choice_too() {
        for units in [false, true] {
            let device = device(units);
            device.note_products(true);
            let own = launched_otherwise(&device);
            let products = device.note_products(false);
            assert_eq!(products.len(), 4, "{products:?}");
            for product in &products {
                let mut seen = vec![own.clone()];
                for tile in &product.tiles[1..] {
                    device.try_tile(Some((product.key, *tile)));
                    let now = launched_otherwise(&device);
                    assert!(!seen.contains(&now), "{product:?} {tile:?}");
                    seen.push(now);
                }
                assert_eq!(seen.len(), product.tiles.len());
                assert!(seen.len() > 2, "{product:?}");
            }
            device.try_tile(None);
            assert_eq!(launched_otherwise(&device), own);
        }
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
