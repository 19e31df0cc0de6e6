//! Attention on software renderers: `shaders/attention_simd.wgsl`. As with their products, a subgroup works out of
//! registers, and tiles in workgroup memory with their barriers are what it does without; see docs/notes/software-renderer.md.
//!
//! [`attention_forward`](super::attention::attention_forward) and
//! [`attention_backward`](super::attention::attention_backward) come here by themselves.

use super::attention_shape::{Pass, TileParams};
use super::{kernel, target};
use crate::device::spec::{read, write};
use crate::device::{Binding, Device, Kernel, KernelSpec, Slice};

/// What may come as images, all of it or none.
const IMAGES: [Binding; 4] = [image("q"), image("k"), image("v"), image("d_out")];

const fn image(name: &'static str) -> Binding {
    read(name).image_if("IMAGES")
}

kernel!(
    /// [`super::attention::FORWARD`] in registers.
    FORWARD_SIMD, "attention_forward_simd", "attention_simd.wgsl", TileParams,
    [IMAGES[0], IMAGES[1], IMAGES[2], read("kv_start"), read("kv_end"), write("out"), write("lse")],
    needs Subgroup Int64
);
kernel!(
    /// [`super::attention::BACKWARD_Q`] in registers.
    BACKWARD_Q_SIMD, "attention_backward_q_simd", "attention_simd.wgsl", TileParams,
    [IMAGES[0], IMAGES[1], IMAGES[2], IMAGES[3], read("stats"), write("dq")],
    needs Subgroup Int64
);
kernel!(
    /// [`super::attention::BACKWARD_KV`] in registers.
    BACKWARD_KV_SIMD, "attention_backward_kv_simd", "attention_simd.wgsl", TileParams,
    [IMAGES[0], IMAGES[1], IMAGES[2], IMAGES[3], read("stats"), write("dk"), write("dv")],
    needs Subgroup Int64
);

/// What a workgroup does at a time: `rows` rows a lane, and as many columns as there are lanes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    lanes: u32,
    rows: u32,
}

/// Elements of the largest head whose rows a lane holds: the text, and with it the time to compile, grows with them.
pub(super) const WIDEST: usize = 128;

impl Block {
    /// What is loaded of a column serves all rows of a lane; what a lane holds of them has to stay in the nearest cache.
    pub const fn of(lanes: u32, head_dim: usize) -> Block {
        let rows = match head_dim {
            0..=32 => 4,
            33..=64 => 2,
            _ => 1,
        };
        Block { lanes, rows }
    }

    /// Rows of a workgroup.
    pub fn rows(&self) -> usize {
        (self.lanes * self.rows) as usize
    }

    /// Columns at a time.
    pub fn columns(&self) -> usize {
        self.lanes as usize
    }
}

fn kernel(pass: Pass) -> &'static Kernel {
    match pass {
        Pass::Forward => &FORWARD_SIMD,
        Pass::Query => &BACKWARD_Q_SIMD,
        Pass::KeyValue => &BACKWARD_KV_SIMD,
    }
}

/// Whether a pass reads its operands as images; `bindings` are its kernel's.
pub(super) fn loads_images(device: &Device, pass: Pass, bindings: &[Slice]) -> bool {
    let count = kernel(pass).bindings.iter().filter(|b| b.image.is_some()).count();
    bindings.iter().take(count).all(|operand| device.loads_image(operand))
}

pub(super) fn spec(block: Block, pass: Pass, head_dim: usize, softcap: bool, images: bool) -> KernelSpec {
    KernelSpec::new(
        kernel(pass),
        [
            ("PASS", pass as u32),
            ("HEAD_DIM", head_dim as u32),
            ("SOFTCAP", softcap.into()),
            ("SG", block.lanes),
            ("ROWS", block.rows),
            ("IMAGES", images.into()),
            ("PAIRS", 1),
        ],
    )
}

/// Every specialisation, for all sizes of subgroups.
pub fn variants() -> Vec<KernelSpec> {
    let mut all = Vec::new();
    for head_dim in (8..=WIDEST).step_by(8) {
        for (lanes, pass) in target::LANES.iter().flat_map(|&l| Pass::ALL.map(|p| (l, p))) {
            let block = Block::of(lanes, head_dim);
            let flags = [(false, false), (false, true), (true, false), (true, true)];
            all.extend(flags.map(|(softcap, images)| spec(block, pass, head_dim, softcap, images)));
        }
    }
    all
}
