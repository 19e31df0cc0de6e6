//! Attention of single queries over a cache, for generation, and the store into the cache: `shaders/attention_decode.wgsl`,
//! `shaders/kv_store.wgsl`. Dimensions as in [`attention`](super::attention).

use super::attention_plan::{DECODE_THREADS, decode_threads};
use super::attention_shape::{AttentionShape, MAX_HEAD_DIM, Ranges, Sizes, output};
use super::streaming_plan::Rows;
use super::target::Target;
use super::{kernel, launch, plan_log};
use crate::device::spec::{read, write};
use crate::device::{Cost, Grid, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

kernel!(
    /// Single query rows over ranges of a cache.
    DECODE, "attention_decode", "attention_decode.wgsl", DecodeParams,
    [read("q"), read("k"), read("v"), read("kv_start"), read("kv_end"), write("out")]
);
kernel!(
    /// Rows into slots of a cache.
    KV_STORE, "kv_store", "kv_store.wgsl", StoreParams, [read("src"), read("slots"), write("cache")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct DecodeParams {
    grid: Grid,
    cache_rows: u32,
    heads: u32,
    kv_heads: u32,
    group: u32,
    scale: f32,
    cap: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct StoreParams {
    grid: Grid,
    rows: u32,
    width4: u32,
    cache_rows: u32,
}

fn decode_spec(threads: u32, head_dim: usize, softcap: bool) -> KernelSpec {
    KernelSpec::new(&DECODE, [("WG", threads), ("HEAD_DIM", head_dim as u32), ("SOFTCAP", softcap.into())])
}

/// Every specialisation, on every device class.
pub fn variants() -> Vec<KernelSpec> {
    let mut all = vec![KernelSpec::new(&KV_STORE, [])];
    for head_dim in (8..=MAX_HEAD_DIM).step_by(8) {
        for threads in DECODE_THREADS {
            all.extend([false, true].map(|softcap| decode_spec(threads, head_dim, softcap)));
        }
    }
    all
}

/// Attention of a few query rows over a cache, for generation: q `[rows, heads * head_dim]`, `k_cache` and `v_cache`
/// `[cache_rows, kv_heads * head_dim]`, query row r sees the cache rows `keys[r]`; ranges may be disjoint. Returns `out`
/// `[rows, heads * head_dim]`; 0 for an empty range. Cache rows outside of the ranges are not read.
///
/// # Errors
/// As [`attention_forward`].
pub fn attention_decode(
    q: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    keys: Ranges<'_>,
    shape: &AttentionShape,
    to: Option<&Tensor>,
) -> Result<Tensor> {
    const OP: &str = "attention_decode";
    let sizes = Sizes::check(OP, q, k_cache, v_cache, shape)?;
    keys.expect_shape(OP, "keys", sizes.tokens)?;
    let device = q.device();
    let out = output(OP, "out", to, (device, q.shape()))?;
    let params = DecodeParams {
        cache_rows: sizes.kv_rows as u32,
        heads: shape.heads as u32,
        kv_heads: shape.kv_heads as u32,
        group: sizes.group() as u32,
        scale: shape.scale,
        cap: shape.softcap.unwrap_or(1.0),
        ..Default::default()
    };
    let threads = decode_threads(&Target::of(device));
    plan_log::tell(&Rows(OP, sizes.tokens, shape.head_dim), &format_args!("{threads} threads a head"));
    let spec = decode_spec(threads, shape.head_dim, shape.softcap.is_some());
    let bindings = [q, k_cache, v_cache, keys.start, keys.end, &out];
    let groups = (sizes.tokens * shape.heads) as u64;
    // two products, but nothing of a range is masked
    let cost = sizes.cost(2 * 2, &bindings);
    launch(device, &spec, &bindings.map(Tensor::slice), &params, groups, cost)?;
    Ok(out)
}

/// `cache[slots[r], :] = src[r, :]` for src `[rows, width]`, slots u32 `[rows]` and cache `[cache_rows, width]`, width a
/// multiple of 4. Slots must be distinct; a row whose slot is past the cache is not stored.
///
/// # Errors
/// [`Error::Shape`] for tensors that do not fit together.
pub fn kv_store(src: &Tensor, slots: &Tensor, cache: &Tensor) -> Result<()> {
    const OP: &str = "kv_store";
    let (rows, width) = src.dims2(OP)?;
    let (cache_rows, _) = cache.dims2(OP)?;
    cache.expect_shape(OP, "cache", &[cache_rows, width])?;
    slots.expect_shape(OP, "slots", &[rows])?;
    if !width.is_multiple_of(4) || u32::try_from(cache.len().max(src.len())).is_err() {
        return Err(Error::shape(OP, format!("rows of {width} elements, {} in all", cache.len())));
    }
    let params = StoreParams {
        rows: rows as u32,
        width4: width as u32 / 4,
        cache_rows: cache_rows as u32,
        ..Default::default()
    };
    let cost = Cost { flops: 0.0, bytes: 8.0 * src.len() as f64 };
    let groups = (rows * width / 4).div_ceil(64) as u64;
    let bindings = [src.slice(), slots.slice(), cache.slice()];
    launch(src.device(), &KernelSpec::new(&KV_STORE, []), &bindings, &params, groups, cost)
}
