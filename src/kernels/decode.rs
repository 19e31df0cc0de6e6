//! A weight with its sparse adapter in a plain format, for one product: `shaders/decode.wgsl`.
//!
//! A tile of a product decodes its part of W and adds the entries of S that fall into it, and so does each of the tiles that
//! make other tokens' outputs: with 2,048 tokens sixteen times over, for a sixth of the time of the product and more. For many
//! tokens W + S is decoded once instead, to scratch memory of one matrix, which the next product takes over: to f16 for matrix
//! units, else to f32.

use super::in_weight;
use super::sparse::SparseIndex;
use super::{kernel, launch};
use crate::device::spec::{read, write};
use crate::device::{Cost, DeviceClass, Grid, Kernel, KernelSpec};
use crate::error::{Error, Result};
use crate::tensor::{Tensor, Weight, WeightFormat};
use bytemuck::{Pod, Zeroable};

kernel!(
    /// W + S as f16.
    DECODE, "decode", "decode.wgsl", DecodeParams, [read("w"), read("s_index"), read("s_values"), write("out")], needs F16
);
kernel!(
    /// W + S as f32.
    DECODE_F32, "decode_f32", "decode.wgsl", DecodeParams, [read("w"), read("s_index"), read("s_values"), write("out")]
);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct DecodeParams {
    grid: Grid,
    rows: u32,
    cols: u32,
    w_scales: u32,
    bucket_cols: u32,
    s_positions: u32,
}

/// Tokens from which on decoding once is faster, with S and without; see BENCHMARKS.md.
const FROM: usize = 768;
const FROM_ALONE: usize = 2048;
/// Bytes of scratch memory at most: larger matrices are decoded in tiles.
const MOST: u64 = 384 << 20;
/// Threads of a workgroup.
const WG: u32 = 256;

/// S, and its values in the order of buckets.
type Sparse<'a> = (&'a SparseIndex, &'a Tensor);

/// What a product of so many tokens, on matrix units or not, should have W decoded to before it, with S if there is one.
pub(super) fn pays(w: &Weight, sparse: Option<Sparse<'_>>, tokens: usize, units: bool) -> Option<WeightFormat> {
    let to = if units { WeightFormat::F16 } else { WeightFormat::F32 };
    let from = if sparse.is_some() { FROM } else { FROM_ALONE };
    let (caps, bytes) = (w.device().caps(), to.bytes((w.rows() * w.cols()) as u64));
    let fits = bytes <= MOST.min(caps.max_binding).min(caps.max_buffer) && w.cols().is_multiple_of(8);
    // on matrix units f16 weights hold S themselves, and a software renderer makes W + S in its own way
    let costs = w.format().is_quantised() || (!units && sparse.is_some() && w.format() != WeightFormat::F32);
    let takes = units || caps.class != DeviceClass::Software;
    (costs && takes && fits && tokens >= from && !in_weight::stays_apart()).then_some(to)
}

/// [`decode`] to scratch memory.
pub(super) fn decoded(w: &Weight, sparse: Option<Sparse<'_>>, to: WeightFormat) -> Result<Weight> {
    let out = Weight::empty(w.device(), to, w.rows(), w.cols(), "scratch")?;
    decode(w, sparse, &out)?;
    Ok(out)
}

fn kernel_to(out: WeightFormat) -> Option<&'static Kernel> {
    match out {
        WeightFormat::F16 => Some(&DECODE),
        WeightFormat::F32 => Some(&DECODE_F32),
        _ => None,
    }
}

/// W, with S added if there is one, to `out`, a weight of the same shape: one of f32 to any other format, one of f16 to a
/// quantised format. Rows are of a multiple of 8 elements.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit together; those of a launch.
pub fn decode(w: &Weight, sparse: Option<Sparse<'_>>, out: &Weight) -> Result<()> {
    let own = (w.rows(), w.cols());
    let of_s = sparse.map_or(own, |(index, _)| (index.rows(), index.cols()));
    let shapes = [of_s, (out.rows(), out.cols())];
    let all = sparse.is_none_or(|(index, values)| values.len() == index.nnz());
    let formats = formats().any(|f| f == (w.format(), out.format()));
    let kernel = kernel_to(out.format()).filter(|_| formats && all && shapes == [own; 2] && own.1.is_multiple_of(8));
    let Some(kernel) = kernel else {
        let what = format!(
            "{:?} W [{}, {}] and S {:?} to {:?} {:?}",
            w.format(),
            w.rows(),
            w.cols(),
            shapes[0],
            out.format(),
            shapes[1]
        );
        return Err(Error::shape("decode", what));
    };
    let params = DecodeParams {
        rows: w.rows() as u32,
        cols: w.cols() as u32,
        w_scales: w.scales_at(),
        bucket_cols: sparse.map_or(0, |(index, _)| index.bucket_cols() as u32),
        s_positions: sparse.map_or(0, |(index, _)| index.positions_at() as u32),
        ..Default::default()
    };
    let groups = w.rows().div_ceil(32) * w.cols().div_ceil(128);
    let dummy = w.device().dummy()?;
    let s = sparse.map_or([dummy.clone(), dummy], |(index, values)| [index.tensor().slice(), values.slice()]);
    let [s_index, s_values] = s;
    let bindings = [w.slice(), s_index, s_values, out.slice()];
    let bytes = bindings.iter().map(|b| b.len as f64).sum();
    let cost = Cost { flops: (w.rows() * w.cols()) as f64, bytes };
    launch(w.device(), &spec(kernel, w.format(), sparse.is_some()), &bindings, &params, groups as u64, cost)
}

fn spec(kernel: &'static Kernel, format: WeightFormat, sparse: bool) -> KernelSpec {
    let out16 = std::ptr::eq(kernel, &DECODE);
    KernelSpec::new(kernel, [("WFMT", format as u32), ("WG", WG), ("SPARSE", sparse.into()), ("OUT16", out16.into())])
}

/// From which format to which there is a way.
fn formats() -> impl Iterator<Item = (WeightFormat, WeightFormat)> {
    let ways = |to: WeightFormat| WeightFormat::ALL.into_iter().map(move |from| (from, to));
    let to_half = ways(WeightFormat::F16).filter(|(from, _)| from.is_quantised());
    to_half.chain(ways(WeightFormat::F32).filter(|(from, _)| *from != WeightFormat::F32))
}

/// Every specialisation.
pub fn variants() -> Vec<KernelSpec> {
    let kernels = formats().filter_map(|(from, to)| Some((from, kernel_to(to)?)));
    kernels.flat_map(|(from, kernel)| [false, true].map(|sparse| spec(kernel, from, sparse))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::device::dry::DryBackend;
    use crate::kernels::matmul::{Fused, Layout, Out, rosa_linear};

    #[test]
    fn a_product_of_many_tokens_reads_what_is_decoded() {
        let device = Device::new(Box::new(DryBackend::new(DryBackend::caps_for_tests())));
        let w = Weight::empty(&device, WeightFormat::BF16, 256, 128, "test").unwrap();
        let index = SparseIndex::unknown(&device, 256, 128, 8).unwrap();
        let values = Tensor::empty(&device, &[8], "test").unwrap();
        let launched = |tokens| {
            let x = Tensor::empty(&device, &[tokens, 128], "test").unwrap();
            let fused = Fused { sparse: Some((&index, &values)), ..Fused::default() };
            device.note_launches(true);
            rosa_linear(Layout::Nt, &x, &w, fused, Out::default()).unwrap();
            let specs = device.note_launches(false);
            specs.iter().map(|s| (s.kernel.name, s.get("SPARSE").unwrap())).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(launched(FROM), [("decode_f32", 1), ("rosa_linear", 0)].into());
        assert_eq!(launched(FROM - 1), [("rosa_linear", 1)].into());
    }

    #[test]
    fn many_tokens_are_worth_it_where_the_scratch_memory_fits() {
        let caps = DryBackend::caps_for_tests();
        let small = crate::device::Caps { max_binding: 2 << 20, ..caps.clone() };
        let [device, small] = [caps, small].map(|caps| Device::new(Box::new(DryBackend::new(caps))));
        let weight = |device: &Device, format, rows| Weight::empty(device, format, rows, 1024, "test").unwrap();
        let pays = |w: &Weight, tokens| super::pays(w, None, tokens, true) == Some(WeightFormat::F16);
        let q4 = weight(&device, WeightFormat::Q4, 1024);
        assert!(pays(&q4, FROM_ALONE) && !pays(&q4, FROM_ALONE - 1));
        let index = SparseIndex::unknown(&device, 1024, 1024, 8).unwrap();
        let values = Tensor::empty(&device, &[8], "test").unwrap();
        let with_s = |w: &Weight, tokens, units| super::pays(w, Some((&index, &values)), tokens, units);
        for (units, to) in [(true, WeightFormat::F16), (false, WeightFormat::F32)] {
            assert_eq!([FROM, FROM - 1].map(|tokens| with_s(&q4, tokens, units)), [Some(to), None]);
        }
        // without matrix units S alone is reason enough, unless W holds it
        for format in [WeightFormat::BF16, WeightFormat::F16, WeightFormat::F32] {
            let plain = weight(&device, format, 1024);
            let to = (format != WeightFormat::F32).then_some(WeightFormat::F32);
            assert_eq!([true, false].map(|units| with_s(&plain, FROM, units)), [None, to], "{format:?}");
            assert_eq!(super::pays(&plain, None, FROM_ALONE, false), None);
        }
        assert!(!pays(&weight(&device, WeightFormat::F16, 1024), FROM_ALONE));
        // two bytes an element, against what a binding holds and against what is spent at most
        assert!(pays(&weight(&small, WeightFormat::Q4, 1024), FROM_ALONE));
        assert!(!pays(&weight(&small, WeightFormat::Q4, 1056), FROM_ALONE));
        let largest = (MOST / 2048) as usize;
        assert!(pays(&weight(&device, WeightFormat::Q8, largest), FROM_ALONE));
        assert!(!pays(&weight(&device, WeightFormat::Q8, largest + 32), FROM_ALONE));
    }
}
