//! Gated short convolutions.

use super::{Speed, SpeedSizes, moved, speed};
use crate::kernels::To;
use crate::kernels::short_conv::{
    ConvCache, Segments, short_conv, short_conv_backward, short_conv_cached, short_conv_store, short_conv_weight,
};

/// Tokens that a filter sees.
const TAPS: usize = 3;

pub(super) fn speeds(sizes: &SpeedSizes) -> Vec<Speed> {
    sizes.models.iter().flat_map(|(model, c)| rows(model, sizes.tokens, c.hidden_size)).collect()
}

/// `channels` of one segment of so many tokens.
fn rows(model: &str, tokens: usize, channels: usize) -> [Speed; 3] {
    let what = format!("{model} [{tokens}, {channels}], {TAPS} taps");
    let n = tokens * channels;
    let (rows, one, filters) = ([tokens, 3 * channels], [tokens, channels], [channels, 1, TAPS]);
    [
        speed("short_conv", &what, moved(4 * n), move |f| {
            let (bgx, w, y) = (f.tensor(&rows)?, f.tensor(&filters)?, f.tensor(&one)?);
            let start = f.indices(tokens, |_| 0)?;
            Ok(Box::new(move || short_conv(&bgx, &w, &start, To::Into(&y)).map(drop)))
        }),
        speed("short_conv_backward", format!("{what}, and dw"), moved(7 * n), move |f| {
            let (bgx, w, dw) = (f.tensor(&rows)?, f.tensor(&filters)?, f.tensor(&filters)?);
            let (dy, d) = (f.tensor(&one)?, f.tensor(&rows)?);
            let (start, end) = (f.indices(tokens, |_| 0)?, f.indices(tokens, |_| tokens)?);
            Ok(Box::new(move || {
                short_conv_backward(&bgx, &w, Segments { start: &start, end: &end }, &dy, To::Into(&d))?;
                short_conv_weight(&bgx, &start, &dy, &dw)
            }))
        }),
        speed("short_conv_cached", what, moved(5 * n), move |f| {
            let (bgx, w, y) = (f.tensor(&rows)?, f.tensor(&filters)?, f.tensor(&one)?);
            let (cache, start, slots) = (f.tensor(&one)?, f.indices(tokens, |_| 0)?, f.indices(tokens, |t| t)?);
            Ok(Box::new(move || {
                let at = ConvCache { cache: &cache, start: &start, slots: &slots };
                short_conv_store(&bgx, &w, at)?;
                short_conv_cached(&bgx, &w, at, To::Into(&y)).map(drop)
            }))
        }),
    ]
}
