//! A curve in text.

/// Dots of a braille character, by row and column.
const DOTS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

/// `values` from left to right as lines of text: at most `width` by `height` characters of 2 by 4 dots each, behind a scale, over
/// a line with the numbers of the first and the last value. Where there are more values than columns of dots, a dot is the
/// mean of its share. Values that are not finite are left out; without any other there is no line.
pub fn curve(values: &[f64], width: usize, height: usize) -> Vec<String> {
    // no wider than there are dots for: a curve has no holes
    let (width, height) = (width.min(values.len().div_ceil(2)).max(1), height.max(1));
    let finite = || values.iter().copied().filter(|v| v.is_finite());
    let (low, high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return Vec::new();
    }
    let (rows, columns) = (4 * height, 2 * width);
    let row = |v: f64| match high - low {
        span if span > 0.0 => ((high - v) / span * (rows - 1) as f64).round() as usize,
        _ => rows - 1,
    };
    let mut cells = vec![vec![0u32; width]; height];
    let mut previous: Option<usize> = None;
    for column in 0..columns {
        let Some(mean) = share(values, column, columns) else { continue };
        let row = row(mean);
        // a steep line stays a line
        let (from, to) = match previous.replace(row) {
            Some(p) if p + 1 < row => (p + 1, row),
            Some(p) if row + 1 < p => (row, p - 1),
            _ => (row, row),
        };
        for r in from..=to {
            cells[r / 4][column / 2] |= DOTS[r % 4][column % 2];
        }
    }
    let scale = |r: usize| match r {
        0 => format!("{high:.2}"),
        r if r + 1 == height => format!("{low:.2}"),
        _ => String::new(),
    };
    let margin = scale(0).len().max(scale(height - 1).len());
    let mut lines: Vec<String> = (cells.iter().enumerate())
        .map(|(r, line)| {
            let text: String = line.iter().filter_map(|dots| char::from_u32(0x2800 + dots)).collect();
            format!("{:>margin$} ┤{text}", scale(r)).trim_end_matches('\u{2800}').to_owned()
        })
        .collect();
    let last = values.len().to_string();
    lines.push(format!("{:margin$} └1{last:─>1$}", "", width.saturating_sub(1)));
    lines
}

/// The mean of what falls into `column` of `columns`; `None` where nothing does.
fn share(values: &[f64], column: usize, columns: usize) -> Option<f64> {
    let at = |c: usize| (c * values.len()).div_ceil(columns);
    let part = values[at(column)..at(column + 1)].iter().filter(|v| v.is_finite());
    let (sum, count) = part.fold((0.0, 0usize), |(s, n), v| (s + v, n + 1));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_line() {
        let values: Vec<f64> = (0..8).map(|i| f64::from(7 - i)).collect();
        assert_eq!(curve(&values, 4, 2), ["7.00 ┤⠑⢄", "0.00 ┤\u{2800}\u{2800}⠑⢄", "     └1──8"]);
    }

    #[test]
    fn steep_lines_have_no_gaps() {
        assert_eq!(curve(&[1.0, 0.0], 1, 2), ["1.00 ┤⢱", "0.00 ┤⢸", "     └12"]);
    }

    #[test]
    fn few_many_and_no_values() {
        assert_eq!(curve(&[2.0], 3, 1), ["2.00 ┤⡀", "     └11"]);
        assert!(curve(&[], 3, 3).is_empty());
        assert!(curve(&[f64::NAN, f64::INFINITY], 3, 3).is_empty());
        let many: Vec<f64> = (0..1000).map(|i| f64::from(i % 10)).collect();
        let lines = curve(&many, 10, 3);
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|l| l.chars().count() <= 16), "{lines:?}");
    }
}
