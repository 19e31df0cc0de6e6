//! The plans of products as tables: what is chosen for which problem on which kind of device.

use super::plan::{
    Execution, MERGED_PER_ENTRY, ProductPlan, SCRATCH_BYTES, SCRATCH_TOKENS, SCRATCH_TOKENS_DEAR,
    SCRATCH_TOKENS_SPARSE, SparseAt,
};
use super::problem::{Kind, Linear, LowRank, Problem};
use super::target::Target;
use super::tile::Layout;
use super::tuned::Measured;
use crate::device::dry::DryBackend;
use crate::device::{Caps, DeviceClass, Feature, Precision};
use crate::tensor::WeightFormat;

/// Counting devices of every kind that plans know.
fn target(name: &str) -> Target {
    let caps = DryBackend::caps_for_tests();
    let features = vec![Feature::F16, Feature::Subgroup, Feature::CoopMatrix];
    let units = |class, fragment| Caps {
        class,
        fragment: Some(fragment),
        features: features.clone(),
        max_workgroup_memory: 48 << 10,
        ..caps.clone()
    };
    let software = Caps { class: DeviceClass::Software, subgroup_min: 8, subgroup_max: 8, ..caps.clone() };
    let library = |caps: Caps| Caps { features: [caps.features, vec![Feature::Gemm]].concat(), ..caps };
    let (caps, precision) = match name {
        "discrete" => (caps, Precision::F32),
        "integrated" => (Caps { class: DeviceClass::Integrated, ..caps }, Precision::F32),
        "software" => (Caps { features: vec![Feature::Subgroup, Feature::Int64], ..software }, Precision::F32),
        "software without subgroups" => (software, Precision::F32),
        "nvidia" => (units(DeviceClass::Discrete, 16), Precision::F16),
        "cuda" => (library(units(DeviceClass::Discrete, 16)), Precision::F16),
        "cuda in f32" => (library(units(DeviceClass::Discrete, 16)), Precision::F32),
        "nvidia in f32" => (units(DeviceClass::Discrete, 16), Precision::F32),
        "apple" => (units(DeviceClass::Integrated, 8), Precision::F16),
        _ => unreachable!("{name}"),
    };
    Target::new(&caps, precision, false)
}

/// A linear's forward of `m` tokens.
fn linear(m: usize, [n, k]: [usize; 2], format: WeightFormat, sparse: bool) -> Problem {
    let linear = Linear {
        sparse: sparse.then_some(n * k / 160),
        low_rank: Some(LowRank { rank: 8, stride: 8, column: 0 }),
        bias: false,
    };
    Problem {
        layout: Layout::Nt,
        shape: [m, n, k],
        row_lengths: [k, k],
        formats: [WeightFormat::F32, format],
        stride_column: (n, 0),
        accumulate: false,
        kind: Kind::Linear(linear),
    }
}

fn plan(device: &str, problem: &Problem) -> ProductPlan {
    ProductPlan::choose(&target(device), problem, Measured::nothing())
}

fn dense(layout: Layout, [m, n, k]: [usize; 3]) -> Problem {
    let row_lengths = match layout {
        Layout::Nt => [k, k],
        Layout::Nn => [k, n],
        Layout::Tn => [m, n],
    };
    let kind = Kind::Dense;
    Problem { layout, shape: [m, n, k], row_lengths, kind, ..linear(m, [n, k], WeightFormat::F32, false) }
}

#[test]
fn plans_of_linears_are_as_they_were_measured_to_be_best() {
    use WeightFormat::{BF16, F16, F32, Q4};
    let [small, square] = [[1536, 576], [4096, 4096]];
    for (device, tokens, shape, format, sparse, line) in [
        ("discrete", 4096, square, BF16, false, "workgroup memory, tile 128x128x16, W in the tile"),
        ("discrete", 4096, square, F32, true, "workgroup memory, tile 128x128x16, W in the tile, S in the tile"),
        (
            "discrete",
            4096,
            square,
            BF16,
            true,
            "workgroup memory, tile 128x128x16, W to scratch F32, S in the scratch copy",
        ),
        (
            "discrete",
            100,
            small,
            Q4,
            true,
            "workgroup memory, tile 64x64x16, k in 4 parts of 144, W in the tile, S in the tile",
        ),
        (
            "discrete",
            8,
            small,
            BF16,
            true,
            "workgroup memory, tile 16x64x16, k in 4 parts of 144, W in the tile, S in the tile",
        ),
        ("integrated", 2048, square, Q4, false, "workgroup memory, tile 128x128x16, W to scratch F32"),
        ("nvidia", 4096, square, F16, false, "matrix units 16x16, tile 128x128x32, W in the tile"),
        (
            "nvidia",
            1024,
            square,
            Q4,
            true,
            "matrix units 16x16, tile 128x128x32, W to scratch F16, S in the scratch copy",
        ),
        (
            "nvidia",
            16,
            square,
            Q4,
            true,
            "workgroup memory, tile 16x64x16, k in 4 parts of 1024, W in the tile, S in the tile",
        ),
        ("nvidia in f32", 4096, square, F16, false, "workgroup memory, tile 128x128x16, W in the tile"),
        ("apple", 512, square, BF16, false, "matrix units 8x8, tile 128x128x32, W in the tile"),
        ("software", 256, small, BF16, false, "registers of 8 lanes, tile 32x32x16, W in the tile"),
        (
            "software",
            256,
            small,
            BF16,
            true,
            "registers of 8 lanes, tile 32x32x16, W to scratch F32, S in the scratch copy",
        ),
        (
            "software",
            1,
            small,
            BF16,
            true,
            "registers of 8 lanes, tile 8x64x16, W in the tile, S by a product of its own",
        ),
        ("software", 1, small, Q4, false, "registers of 8 lanes, tile 8x64x16, W in the tile"),
        (
            "software without subgroups",
            256,
            small,
            BF16,
            true,
            "workgroup memory, tile 64x64x16, W in the tile, S in the tile",
        ),
    ] {
        let problem = linear(tokens, shape, format, sparse);
        let whole = format!("{line}, low rank fused by 4, loads vec4");
        assert_eq!(plan(device, &problem).to_string(), whole, "{problem} on {device}");
    }
}

#[test]
fn plans_of_dense_products_are_as_they_were_measured_to_be_best() {
    for (device, layout, shape, line) in [
        ("discrete", Layout::Tn, [576, 576, 4096], "workgroup memory, tile 128x128x16, k in 11 parts of 384"),
        ("discrete", Layout::Nt, [4096, 8, 4096], "workgroup memory, tile 64x16x16, k in 4 parts of 1024"),
        ("nvidia", Layout::Tn, [4096, 4096, 512], "matrix units 16x16, tile 128x128x32"),
        ("nvidia", Layout::Nn, [4096, 8, 576], "workgroup memory, tile 64x16x16, k in 4 parts of 144"),
        ("software", Layout::Tn, [576, 576, 256], "registers of 8 lanes, tile 32x32x16"),
        ("software", Layout::Tn, [32, 32, 40_000], "registers of 8 lanes, tile 16x32x16, k in 3 parts of 13344"),
    ] {
        let problem = dense(layout, shape);
        assert_eq!(
            plan(device, &problem).to_string(),
            format!("{line}, W in the tile, loads vec4"),
            "{problem} on {device}"
        );
    }
}

/// What a plan in registers costs per token, in multiplications of the weight's product. An element that is merged costs as much as 13
/// of them (5 % of a product with 256 tokens).
fn software_cost(problem: &Problem, nnz: usize) -> f64 {
    let [m, n, k] = problem.shape.map(|l| l as f64);
    let plan = plan("software", problem);
    assert!(matches!(plan.execution, Execution::Registers { .. }), "{problem}: {plan}");
    let sparse = match plan.sparse {
        SparseAt::Nowhere => 0.0,
        SparseAt::Scratch => n * k,
        SparseAt::Separate => MERGED_PER_ENTRY * nnz as f64 * m,
        SparseAt::Tile => panic!("{problem}: S cannot be added to what is in registers only"),
    };
    n * k + 13.0 * sparse / m
}

#[test]
fn no_number_of_tokens_falls_off_a_cliff_on_a_software_renderer() {
    use WeightFormat::{BF16, Q4, Q8};
    for (shape, format) in
        [[576, 576], [1536, 576], [576, 1536], [192, 576]].iter().flat_map(|s| [BF16, Q8, Q4].map(|f| (*s, f)))
    {
        for density in [0.001, 0.006, 0.02] {
            let nnz = (density * (shape[0] * shape[1]) as f64) as usize;
            let cost = |tokens: usize, sparse: bool| {
                let mut problem = linear(tokens, shape, format, sparse);
                if let Kind::Linear(linear) = &mut problem.kind {
                    linear.sparse = sparse.then_some(nnz);
                }
                software_cost(&problem, nnz)
            };
            for tokens in 1..=1100 {
                let (own, next, lora) = (cost(tokens, true), cost(tokens + 1, true), cost(tokens, false));
                let worst = (own / lora).max(own / next).max(next / own);
                assert!(worst <= 1.5, "{tokens} tokens, {shape:?} {format:?}, {density}: {worst:.2}");
            }
        }
    }
}

#[test]
fn rows_that_do_not_suit_matrix_units_take_another_way() {
    let problem = linear(4096, [4096, 4096], WeightFormat::BF16, false);
    let odd = Problem { row_lengths: [4100, 4100], shape: [4096, 4096, 4100], ..problem };
    let narrow = Problem { stride_column: (4098, 0), ..problem };
    for (problem, vec4) in [(odd, 2), (narrow, 1)] {
        let plan = plan("nvidia", &problem);
        assert_eq!((plan.execution, plan.vec4), (Execution::Tiled, vec4), "{problem:?}");
    }
    assert_eq!(plan("nvidia", &narrow).parts, 1, "a part of a wider output has no copies");
}

#[test]
fn a_weight_is_decoded_once_where_tokens_are_many_and_the_copy_fits() {
    use WeightFormat::{BF16, F16, F32, Q4, Q8};
    let scratch =
        |device, tokens, rows, format, sparse| plan(device, &linear(tokens, [rows, 1024], format, sparse)).scratch;
    for (device, to) in [("nvidia", F16), ("discrete", F32)] {
        let of = |tokens, sparse| scratch(device, tokens, 1024, Q4, sparse);
        assert_eq!([of(SCRATCH_TOKENS, false), of(SCRATCH_TOKENS - 1, false)], [Some(to), None]);
        assert_eq!([of(SCRATCH_TOKENS_SPARSE, true), of(SCRATCH_TOKENS_SPARSE - 1, true)], [Some(to), None]);
    }
    for (sparse, tokens) in
        [false, true].into_iter().flat_map(|s| [SCRATCH_TOKENS_DEAR, SCRATCH_TOKENS_DEAR - 1].map(|t| (s, t)))
    {
        let to = (tokens == SCRATCH_TOKENS_DEAR).then_some(F16);
        assert_eq!(scratch("nvidia", tokens, 1024, WeightFormat::NF4, sparse), to);
    }
    // without matrix units S alone is reason enough, unless W holds it
    for format in [BF16, F16, F32] {
        let to = (format != F32).then_some(F32);
        let with_s = ["nvidia", "discrete"].map(|device| scratch(device, SCRATCH_TOKENS, 1024, format, true));
        assert_eq!(with_s, [None, to], "{format:?}");
        assert_eq!(scratch("discrete", SCRATCH_TOKENS, 1024, format, false), None);
    }
    // two bytes an element, against what is spent at most and what a binding holds
    let largest = (SCRATCH_BYTES / 2048) as usize;
    assert_eq!(scratch("nvidia", SCRATCH_TOKENS, largest, Q8, false), Some(F16));
    assert_eq!(scratch("nvidia", SCRATCH_TOKENS, largest + 32, Q8, false), None);
    let small = Target { max_bytes: 2 << 20, ..target("nvidia") };
    let on_small = |rows| {
        let problem = linear(SCRATCH_TOKENS, [rows, 1024], Q4, false);
        ProductPlan::choose(&small, &problem, Measured::nothing()).scratch
    };
    assert_eq!([on_small(1024), on_small(1056)], [Some(F16), None]);
}

#[test]
fn a_library_takes_what_is_stored_as_the_precision_wants_it() {
    use WeightFormat::{BF16, F16, F32, Q4};
    let square = [4096, 4096];
    let library = "a library, low rank before it";
    for (device, tokens, operand, format, sparse, line) in [
        ("cuda", 4096, F16, F16, false, library),
        ("cuda", 32, F16, F16, false, library),
        ("cuda", 4096, F32, F16, false, library),
        ("cuda in f32", 4096, F32, F32, false, library),
        ("cuda", 4096, F16, Q4, false, "a library, W to scratch F16, low rank before it"),
        ("cuda", 4096, F16, Q4, true, "a library, W to scratch F16, S in the scratch copy, low rank before it"),
        ("cuda in f32", 256, F32, BF16, true, "a library, W to scratch F32, S in the scratch copy, low rank before it"),
        // kernels of our own: few tokens, formats that scratch memory does not take, S that would be added to the weight
        ("cuda", 31, F16, F16, false, "workgroup memory"),
        ("cuda", 255, F16, Q4, false, "matrix units 16x16"),
        ("cuda", 4096, F16, BF16, false, "matrix units 16x16"),
        ("cuda", 4096, F16, F16, true, "matrix units 16x16"),
        ("nvidia", 4096, F16, F16, false, "matrix units 16x16"),
    ] {
        let problem = linear(tokens, square, format, sparse);
        let problem = Problem { formats: [operand, format], ..problem };
        let plan = plan(device, &problem);
        assert!(plan.to_string().starts_with(line), "{device} {problem}: {plan}");
        assert_eq!(plan.parts, if line.starts_with("a library") { 1 } else { plan.parts });
    }
    let dense = Problem { formats: [F16; 2], ..dense(Layout::Tn, [4096, 4096, 2048]) };
    assert_eq!(plan("cuda", &dense).execution, Execution::Library);
    let few = linear(4096, [256, 4096], F16, false);
    assert_ne!(plan("cuda", &few).execution, Execution::Library, "rounding the operand would take as long");
    let masked = Problem { kind: Kind::Masked, ..dense };
    assert_ne!(plan("cuda", &masked).execution, Execution::Library);
}
