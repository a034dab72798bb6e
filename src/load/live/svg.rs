//! Plots as SVG, written out: lines over a numeric axis, with ticks and a legend. Never here: what is plotted.

use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 46.0;
/// Told apart without colour vision too.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#555555"];

/// A named line, or dots.
pub struct Series<'a> {
    pub name: &'a str,
    pub points: Vec<(f64, f64)>,
    pub dots: bool,
}

/// A plot.
pub struct Plot<'a> {
    pub x_label: &'a str,
    pub y_label: &'a str,
    pub series: Vec<Series<'a>>,
    /// Marks on the x axis; even ones are made where there are none.
    pub x_ticks: Vec<(f64, String)>,
    /// Vertical lines with a name, where something begins.
    pub sections: Vec<(f64, String)>,
}

impl Plot<'_> {
    pub fn svg(&self) -> String {
        let all = || self.series.iter().flat_map(|series| series.points.iter().copied());
        let x_most = all().map(|(x, _)| x).chain(self.x_ticks.iter().map(|(x, _)| *x)).fold(0.0, f64::max).max(1e-9);
        let y_most = nice(all().map(|(_, y)| y).fold(0.0, f64::max).max(1e-9));
        let at_x = |x: f64| LEFT + x / x_most * (WIDTH - LEFT - RIGHT);
        let at_y = |y: f64| HEIGHT - BOTTOM - y / y_most * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">"#);
        let mut put = |args: std::fmt::Arguments<'_>| {
            // writing to a String does not fail
            let _ = svg.write_fmt(args);
        };
        for step in 0..=4 {
            let value = y_most * f64::from(step) / 4.0;
            let y = at_y(value);
            put(format_args!(r##"<line x1="{LEFT}" x2="{}" y1="{y:.1}" y2="{y:.1}" stroke="#ddd"/>"##, WIDTH - RIGHT));
            put(format_args!(r#"<text x="{}" y="{:.1}" text-anchor="end">{}</text>"#, LEFT - 6.0, y + 4.0, figure(value)));
        }
        let even: Vec<(f64, String)> = (0..=5).map(|step| x_most * f64::from(step) / 5.0).map(|x| (x, figure(x))).collect();
        for (x, text) in if self.x_ticks.is_empty() { &even } else { &self.x_ticks } {
            put(format_args!(r#"<text x="{:.1}" y="{}" text-anchor="middle">{}</text>"#, at_x(*x), HEIGHT - BOTTOM + 16.0, escaped(text)));
        }
        for (x, name) in &self.sections {
            let x = at_x(*x);
            put(format_args!(
                r##"<line x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{}" stroke="#bbb" stroke-dasharray="3 3"/>"##,
                HEIGHT - BOTTOM
            ));
            put(format_args!(r#"<text x="{:.1}" y="{}" class="small">{}</text>"#, x + 3.0, TOP - 6.0, escaped(name)));
        }
        for (number, series) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            if series.dots {
                for (x, y) in &series.points {
                    put(format_args!(r#"<circle cx="{:.1}" cy="{:.1}" r="1.8" fill="{colour}"/>"#, at_x(*x), at_y(*y)));
                }
            } else {
                let points: Vec<String> = series.points.iter().map(|(x, y)| format!("{:.1},{:.1}", at_x(*x), at_y(*y))).collect();
                put(format_args!(r#"<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{}"/>"#, points.join(" ")));
            }
            let x = LEFT + 180.0 * number as f64;
            put(format_args!(r#"<rect x="{x}" y="{}" width="10" height="10" fill="{colour}"/>"#, HEIGHT - 14.0));
            put(format_args!(r#"<text x="{}" y="{}">{}</text>"#, x + 14.0, HEIGHT - 5.0, escaped(series.name)));
        }
        let middle = (HEIGHT - BOTTOM) / 2.0;
        put(format_args!(
            r#"<text x="12" y="{middle}" transform="rotate(-90 12 {middle})" text-anchor="middle">{}</text>"#,
            escaped(self.y_label)
        ));
        put(format_args!(r#"<text x="{}" y="{}" text-anchor="end">{}</text>"#, WIDTH - RIGHT, HEIGHT - 5.0, escaped(self.x_label)));
        svg.push_str("</svg>");
        svg
    }
}

/// The next of 1, 2, 2.5, 5, 10 and so on.
fn nice(value: f64) -> f64 {
    let magnitude = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].iter().map(|step| step * magnitude).find(|step| *step >= value).unwrap_or(value)
}

/// With as many digits as it needs.
pub fn figure(value: f64) -> String {
    match value {
        value if value >= 100.0 || value == 0.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// As the text of an element.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_lies_within_the_frame_and_texts_are_escaped() {
        let series = vec![Series { name: "a<b", points: vec![(0.0, 0.0), (5.0, 97.0)], dots: false }];
        let svg = Plot { x_label: "s", y_label: "\"", series, x_ticks: Vec::new(), sections: Vec::new() }.svg();
        assert!(svg.contains(r#"points="70.0,234.0 840.0,"#), "{svg}");
        assert!(svg.contains("a&lt;b") && !svg.contains("a<b") && svg.ends_with("</svg>"));
        assert_eq!([nice(97.0), nice(0.3), nice(1.0)], [100.0, 0.5, 1.0]);
    }
}
