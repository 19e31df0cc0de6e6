// Parameters of the products, in all three forms (matmul.wgsl, matmul_simd.wgsl, matmul_coop.wgsl).
struct Params {
    base: u32, groups: u32,
    m: u32, n: u32, k: u32,
    // elements from one row of C to the next, and the column where this product starts
    c_stride: u32, c_column: u32,
    splits: u32, k_per_split: u32,
    scale: f32,
    rank: u32, w_scales: u32,
    // columns of buckets of the sparse adapter's index, and the word where its positions start
    bucket_cols: u32, s_positions: u32,
    w_cols: u32,
    // columns of U or V, and the first one of this linear: linears with one input share a stacked product
    u_stride: u32, u_column: u32,
    nnz: u32,
}
