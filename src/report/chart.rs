//! Curves as SVG that is as wide as the page. Text around them is HTML, so that it has the same size at any width.

use super::html::{escape, number};
use std::fmt::Write as _;

/// Points of a curve that are drawn, at most: each stands for the lowest or the highest of its share.
const POINTS: usize = 800;
/// Height and width in units of the drawing, which is stretched.
const SIZE: (f64, f64) = (1000.0, 300.0);

/// One curve.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    /// Which of the colours, from 0.
    pub colour: usize,
    /// Those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    pub look: Look,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Line,
    /// What a line is the mean of.
    Faint,
    /// A line through points that are marked.
    Marked,
    Dashed,
}

/// A stretch of the x axis.
#[derive(Clone, Debug)]
pub struct Band {
    pub name: String,
    pub from: f64,
    pub to: f64,
}

/// A chart, with curves over the same axis.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    pub title: String,
    pub x: String,
    pub series: Vec<Series>,
    pub bands: Vec<Band>,
    /// The y axis begins at 0.
    pub from_zero: bool,
    pub is_tall: bool,
}

/// What is shown of an axis.
struct Axis {
    from: f64,
    to: f64,
    ticks: Vec<f64>,
}

impl Axis {
    /// Round numbers between `from` and `to`, about `count` of them.
    fn new(from: f64, to: f64, count: f64) -> Axis {
        let span = if to > from { to - from } else { from.abs().max(1.0) };
        let rough = span / count;
        let unit = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * unit).find(|step| *step >= rough).unwrap_or(rough);
        let (first, last) = ((from / step).ceil() as i64, (to / step).floor() as i64);
        // a multiple of a power of ten is not exactly itself: 3 * 0.1
        let tick = |i: i64| (i as f64 * step * 1e12).round() / 1e12;
        let ticks = (first..=last.min(first + 50)).map(tick).collect();
        Axis { from, to: if to > from { to } else { from + span }, ticks }
    }

    /// Where `value` lies, 0 to 1.
    fn at(&self, value: f64) -> f64 {
        ((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }
}

impl Chart {
    /// Its HTML; nothing where no curve has a point.
    pub fn html(&self) -> String {
        let finite = |p: &&(f64, f64)| p.0.is_finite() && p.1.is_finite();
        let all = || self.series.iter().flat_map(|s| s.points.iter().filter(finite));
        if all().next().is_none() {
            return String::new();
        }
        let range = |of: fn(&(f64, f64)) -> f64| {
            all().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)))
        };
        let ((x0, x1), (low, high)) = (range(|p| p.0), range(|p| p.1));
        let low = if self.from_zero { low.min(0.0) } else { low };
        let margin = 0.04 * (high - low);
        let (x, y) =
            (Axis::new(x0, x1, 5.0), Axis::new(if self.from_zero { low } else { low - margin }, high + margin, 4.0));
        let mut out = String::new();
        let _ = write!(out, "<figure class=\"chart\"><figcaption>{}</figcaption>", escape(&self.title));
        self.legend(&mut out);
        let _ = write!(out, "<div class=\"plot{}\">", if self.is_tall { " tall" } else { "" });
        self.svg(&x, &y, &mut out);
        for tick in &y.ticks {
            let _ = write!(
                out,
                "<span class=\"y\" style=\"top:{:.2}%\">{}</span>",
                100.0 * (1.0 - y.at(*tick)),
                number(*tick)
            );
        }
        for tick in &x.ticks {
            let _ =
                write!(out, "<span class=\"x\" style=\"left:{:.2}%\">{}</span>", 100.0 * x.at(*tick), number(*tick));
        }
        for band in &self.bands {
            let (from, to) = (100.0 * x.at(band.from), 100.0 * x.at(band.to));
            let _ = write!(
                out,
                "<span class=\"band\" style=\"left:{from:.2}%;width:{:.2}%\" title=\"{name}\">{name}</span>",
                to - from,
                name = escape(&band.name)
            );
        }
        let _ = write!(out, "</div><p class=\"axis\">{}</p></figure>", escape(&self.x));
        out
    }

    fn legend(&self, out: &mut String) {
        let named = || self.series.iter().filter(|s| s.look != Look::Faint && !s.points.is_empty());
        if named().count() < 2 {
            return;
        }
        *out += "<ul class=\"legend\">";
        for s in named() {
            let look = match s.look {
                Look::Dashed => " dashed",
                Look::Marked => " marked",
                Look::Line | Look::Faint => "",
            };
            let _ = write!(out, "<li class=\"c{}{look}\">{}</li>", s.colour, escape(&s.name));
        }
        *out += "</ul>";
    }

    fn svg(&self, x: &Axis, y: &Axis, out: &mut String) {
        let (width, height) = SIZE;
        let at = |p: &(f64, f64)| (width * x.at(p.0), height * (1.0 - y.at(p.1)));
        let _ = write!(
            out,
            "<svg viewBox=\"0 0 {width} {height}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">",
            escape(&self.title)
        );
        for (i, band) in self.bands.iter().enumerate() {
            let (from, to) = (width * x.at(band.from), width * x.at(band.to));
            let _ = write!(
                out,
                "<rect class=\"band{}\" x=\"{from:.1}\" y=\"0\" width=\"{:.1}\" height=\"{height}\"/>",
                i % 2,
                to - from
            );
        }
        for tick in &y.ticks {
            let y = height * (1.0 - y.at(*tick));
            let _ = write!(out, "<line class=\"grid\" x1=\"0\" x2=\"{width}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        }
        for s in &self.series {
            let points: Vec<(f64, f64)> =
                s.points.iter().copied().filter(|p| p.0.is_finite() && p.1.is_finite()).collect();
            let look = match s.look {
                Look::Line | Look::Marked => "",
                Look::Faint => " faint",
                Look::Dashed => " dashed",
            };
            let line: Vec<String> = thinned(&points).iter().map(at).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = write!(out, "<polyline class=\"c{}{look}\" points=\"{}\"/>", s.colour, line.join(" "));
            if s.look == Look::Marked || points.len() == 1 {
                // a line of no length with round ends is a dot that is not stretched
                for p in thinned(&points) {
                    let (cx, cy) = at(&p);
                    let _ = write!(
                        out,
                        "<path class=\"c{} dot\" d=\"M{cx:.1} {cy:.1}h0\"><title>{}: {} at {}</title></path>",
                        s.colour,
                        escape(&s.name),
                        number(p.1),
                        number(p.0)
                    );
                }
            }
        }
        *out += "</svg>";
    }
}

/// At most [`POINTS`] of `points`: the lowest and the highest of each share, in their order.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS {
        return points.to_vec();
    }
    let share = points.len().div_ceil(POINTS / 2);
    let mut kept = Vec::with_capacity(POINTS);
    for part in points.chunks(share) {
        let by = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let (Some(low), Some(high)) = (part.iter().min_by(by), part.iter().max_by(by)) else { continue };
        kept.push(if low.0 <= high.0 { *low } else { *high });
        if low.0 != high.0 {
            kept.push(if low.0 <= high.0 { *high } else { *low });
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: Vec<(f64, f64)>) -> Series {
        Series { name: "a<b".into(), colour: 0, points, look: Look::Marked }
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(Axis::new(0.0, 1.0, 4.0).ticks, [0.0, 0.5, 1.0]);
        assert_eq!(Axis::new(0.13, 0.52, 4.0).ticks, [0.2, 0.3, 0.4, 0.5]);
        assert_eq!(Axis::new(1.0, 250.0, 5.0).ticks, [50.0, 100.0, 150.0, 200.0, 250.0].map(|t: f64| t)[..].to_vec());
        let flat = Axis::new(3.0, 3.0, 4.0);
        assert!(flat.to > flat.from && flat.at(3.0) == 0.0);
    }

    #[test]
    fn many_points_keep_their_peaks_and_their_order() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|i| (f64::from(i), f64::from(i % 7))).collect();
        points[54_321].1 = 99.0;
        points[54_322].1 = -99.0;
        let kept = thinned(&points);
        assert!(kept.len() <= POINTS && kept.windows(2).all(|w| w[0].0 < w[1].0));
        assert!(kept.contains(&(54_321.0, 99.0)) && kept.contains(&(54_322.0, -99.0)));
        assert_eq!(thinned(&points[..9]), points[..9]);
    }

    #[test]
    fn what_is_not_finite_is_left_out_and_names_are_escaped() {
        let chart = |points| Chart { title: "<loss>".into(), series: vec![series(points)], ..Chart::default() }.html();
        assert_eq!(chart(vec![(1.0, f64::NAN)]), "");
        let html = chart(vec![(1.0, 2.0), (2.0, f64::INFINITY), (3.0, 1.0)]);
        assert!(html.contains("&lt;loss&gt;") && html.contains("a&lt;b: 2 at 1") && !html.contains("inf"), "{html}");
        assert_eq!(html.matches("class=\"c0 dot\"").count(), 2);
    }
}
