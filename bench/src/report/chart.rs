//! Line charts as SVG, by hand: a few lines, their names at their ends, and a grid.

use std::fmt::Write;

use super::statistics::short;

pub(crate) struct Series {
    pub(crate) name: String,
    /// In order of `x`.
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 400.0;
/// Left, top, right, bottom.
const MARGINS: [f64; 4] = [70.0, 50.0, 170.0, 50.0];
const GRID: u32 = 5;
const COLOURS: [&str; 5] = ["#0b6e4f", "#c1440e", "#1d4e89", "#7b2d8b", "#8a6d00"];

/// Both axes begin at zero, or the eye would be deceived.
pub(crate) fn lines(title: &str, x_name: &str, y_name: &str, series: &[Series]) -> String {
    let all = || series.iter().flat_map(|series| &series.points);
    let most = |of: fn(&(f64, f64)) -> f64| all().map(of).fold(0.0, f64::max);
    let scale = Scale { x: round_up(most(|point| point.0)), y: round_up(most(|point| point.1)) };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"{}\" y=\"28\" font-size=\"16\" font-weight=\"bold\" fill=\"#222222\">{}</text>\n",
        MARGINS[0],
        escape(title)
    );
    grid(&mut svg, &scale, x_name, y_name);
    let mut taken = Vec::new();
    for (series, colour) in series.iter().zip(COLOURS.iter().cycle()) {
        line(&mut svg, &scale, series, colour, &mut taken);
    }
    svg.push_str("</svg>\n");
    svg
}

struct Scale {
    x: f64,
    y: f64,
}

impl Scale {
    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let [left, top, right, bottom] = MARGINS;
        let (width, height) = (WIDTH - left - right, HEIGHT - top - bottom);
        (left + x / self.x * width, HEIGHT - bottom - y / self.y * height)
    }
}

fn grid(svg: &mut String, scale: &Scale, x_name: &str, y_name: &str) {
    for step in 0..=GRID {
        let part = f64::from(step) / f64::from(GRID);
        let (value_x, value_y) = (scale.x * part, scale.y * part);
        let ((left, y), (right, _)) = (scale.at((0.0, value_y)), scale.at((scale.x, value_y)));
        let (x, floor) = scale.at((value_x, 0.0));
        let _ = write!(
            svg,
            "<line x1=\"{left:.1}\" y1=\"{y:.1}\" x2=\"{right:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555555\">{}</text>\n\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555555\">{}</text>\n",
            left - 8.0,
            y + 4.0,
            tick(value_y),
            floor + 20.0,
            tick(value_x)
        );
    }
    let ((middle, floor), (left, _)) = (scale.at((scale.x / 2.0, 0.0)), scale.at((0.0, 0.0)));
    let _ = write!(
        svg,
        "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#222222\">{}</text>\n\
         <text x=\"{left:.1}\" y=\"44\" fill=\"#555555\">{}</text>\n",
        floor + 40.0,
        escape(x_name),
        escape(y_name)
    );
}

fn line(svg: &mut String, scale: &Scale, series: &Series, colour: &str, taken: &mut Vec<f64>) {
    let places: Vec<(f64, f64)> = series.points.iter().map(|point| scale.at(*point)).collect();
    let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>",
        path.join(" ")
    );
    for (x, y) in &places {
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
    }
    let (Some((x, end)), Some((_, value))) = (places.last(), series.points.last()) else { return };
    // A name that would lie on another's goes above it.
    let mut y = *end;
    while let Some(other) = taken.iter().find(|other| (**other - y).abs() < 15.0) {
        y = other - 15.5;
    }
    taken.push(y);
    let name = escape(&format!("{}: {}", series.name, short(*value)));
    let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>", x + 8.0, y + 4.0);
}

fn tick(value: f64) -> String {
    format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// To 1, 2, 2.5 or 5 times a power of ten, so that ticks are round.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let round = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5].into_iter().map(|step| step * power);
    round.into_iter().find(|step| *step >= value * 0.999).unwrap_or(power * 10.0)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: points outside of the picture, names on top of each other, text that breaks the file.
    #[test]
    fn points_lie_inside_and_names_apart() {
        let series = ["a<b", "c"]
            .map(|name| Series { name: name.to_owned(), points: vec![(0.0, 1.0), (200.0, 1480.0)] });
        let svg = lines("T", "pods", "MiB", &series);
        assert!(svg.contains("a&lt;b: 1480") && svg.contains("c: 1480"), "{svg}");
        let names: Vec<&str> = svg.lines().filter(|line| line.contains(": 1480")).collect();
        assert_ne!(names[0].split("y=").nth(1), names[1].split("y=").nth(1));
        let corner = Scale { x: 200.0, y: 1500.0 }.at((200.0, 1500.0));
        assert_eq!(corner, (WIDTH - MARGINS[2], MARGINS[1]));
        assert_eq!((round_up(1480.0), round_up(200.0), round_up(0.0)), (1500.0, 200.0, 1.0));
    }
}
