//! Short convolutions.

use crate::common::*;

#[test]
fn forward_backward_and_through_a_cache() {
    run_rows(&["short_conv", "short_conv_backward", "short_conv_cached"]);
}
