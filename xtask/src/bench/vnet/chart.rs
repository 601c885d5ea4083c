//! The picture: one TCP stream through each tunnel.

use std::fmt::Write as _;

use super::{Samples, measure::Metric, table_number, ways::Way};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 190.0;
const ROW: f64 = 44.0;
const BAR: f64 = 16.0;

/// Two bars for each way: with the underlay's offloads, and without.
pub(super) fn bars(samples: &Samples) -> String {
    let value = |way, metric| samples.get(&(way, metric)).map(|sample| sample.median());
    let ways: Vec<Way> = Way::ALL.into_iter().filter(|way| value(*way, Metric::Tcp).is_some()).collect();
    let most = ways.iter().filter_map(|way| value(*way, Metric::Tcp)).fold(1.0, f64::max);
    let scale = (WIDTH - LEFT - 80.0) / most;
    let height = 50.0 + ROW * f64::from(u32::try_from(ways.len()).unwrap_or_default());
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"8\" y=\"20\">One TCP stream, Mbit/s: with the underlay's offloads (dark), and on a wire without \
         (light)</text>\n"
    );
    let mut y = 36.0;
    for way in ways {
        let weight = if way == Way::Viaduct { " font-weight=\"bold\"" } else { "" };
        let _ = writeln!(svg, "<text x=\"8\" y=\"{}\"{weight}>{}</text>", y + BAR, way.name());
        for (metric, colour, offset) in [(Metric::Tcp, "#1f5f99", 0.0), (Metric::TcpWire, "#8fbbe0", BAR)] {
            let Some(value) = value(way, metric) else { continue };
            let (top, width) = (y + offset, value * scale);
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{}\" font-size=\"11\">{}</text>",
                BAR - 2.0,
                LEFT + width + 4.0,
                top + 12.0,
                table_number(value)
            );
        }
        y += ROW;
    }
    svg += "</svg>\n";
    svg
}
