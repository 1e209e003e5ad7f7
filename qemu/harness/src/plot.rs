// SPDX-License-Identifier: GPL-2.0
//! The plot of a table of benchmarks: a bar for each ratio, on a logarithmic scale, with a mark where
//! it should end.

use crate::bench::{ratio, Line};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 330.0;
const RIGHT: f64 = 70.0;
const STEP: f64 = 20.0;
const TOP: f64 = 48.0;
const LEAST: f64 = 0.001;
const MOST: f64 = 2.0;

fn escaped(s: &str) -> String {
    s.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Where a ratio is on the horizontal axis.
fn x(ratio: f64) -> f64 {
    let part = (ratio.clamp(LEAST, MOST) / LEAST).log10() / (MOST / LEAST).log10();
    LEFT + part * (WIDTH - LEFT - RIGHT)
}

pub fn svg(lines: &[Line]) -> String {
    let bottom = TOP + STEP * lines.len() as f64;
    let mut s = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <!-- SPDX-License-Identifier: GPL-2.0 -->\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"16\">guest instructions, rpmem / the kernel's driver \
         (logarithmic; red mark: the bar)</text>\n",
        bottom + 16.0
    );
    for tick in [0.001, 0.01, 0.1, 0.5, 1.0, 2.0] {
        s += &format!(
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1}\" y2=\"{bottom}\" stroke=\"{2}\"/>\n\
             <text x=\"{0:.1}\" y=\"{3}\" text-anchor=\"middle\">{tick}</text>\n",
            x(tick),
            TOP - 8.0,
            if tick == 1.0 { "#444" } else { "#ddd" },
            TOP - 12.0
        );
    }
    for (n, l) in lines.iter().enumerate() {
        let y = TOP + STEP * n as f64;
        let end = x(l.ratio());
        let fill = match l.bar {
            Some(bar) if l.ratio() > bar => "#d08030",
            Some(_) => "#4080b0",
            None => "#a0b8c8",
        };
        s += &format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{fill}\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
            LEFT - 6.0,
            y + 14.0,
            escaped(&l.label),
            y + 3.0,
            end - LEFT,
            STEP - 6.0,
            end + 6.0,
            y + 14.0,
            ratio(l.ratio())
        );
        if let Some(bar) = l.bar {
            s += &format!(
                "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\" \
                 stroke=\"#c02020\" stroke-width=\"2\"/>\n",
                x(bar),
                y + 1.0,
                y + STEP - 1.0
            );
        }
    }
    s + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot() {
        let line = |label: &str, ours| Line {
            label: label.into(),
            against: String::new(),
            ours,
            theirs: 100.0,
            bar: Some(0.5),
            wall: None,
            cycles: None,
            short: false,
        };
        let s = svg(&[line("a < b", 40.0), line("c", 60.0)]);
        assert!(s.contains("a &lt; b") && s.contains(">0.400<"), "{s}");
        // One of them is above the bar.
        assert_eq!(s.matches("#d08030").count(), 1);
        assert_eq!(s.matches("<rect").count(), 3);
        assert!(x(0.0) == LEFT && x(99.0) == WIDTH - RIGHT);
    }
}
