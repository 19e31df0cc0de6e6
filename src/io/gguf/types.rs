//! The numbers by which GGUF files name tensor types and value types.

use crate::dtype::DType;

/// The supported type with ggml's number `id`.
pub(super) fn dtype_of(id: u32) -> Option<DType> {
    DType::ALL.iter().copied().find(|d| d.gguf_type() == Some(id))
}

/// The supported tensor types, for messages.
pub fn supported_types() -> String {
    let names: Vec<&str> = DType::ALL.iter().filter(|d| d.gguf_type().is_some()).map(|d| d.name()).collect();
    names.join(", ")
}

/// The name that ggml gives to tensor type `id`.
pub fn ggml_type_name(id: u32) -> String {
    if let Some(dtype) = dtype_of(id) {
        return dtype.to_string();
    }
    let name = match id {
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("number {id}"),
    };
    name.to_string()
}

/// The numbers of value types in metadata.
pub(super) mod value_type {
    pub const U8: u32 = 0;
    pub const I8: u32 = 1;
    pub const U16: u32 = 2;
    pub const I16: u32 = 3;
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const U64: u32 = 10;
    pub const I64: u32 = 11;
    pub const F64: u32 = 12;
}
