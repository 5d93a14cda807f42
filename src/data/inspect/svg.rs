//! The permutation mask as a picture with labels.

use std::fmt::Write;

use super::View;
use crate::data::permutation::TokenClass;

const SIDE: f64 = 960.0; // pixels of the mask, about
const LABEL: f64 = 11.0; // largest size of a token's label
const CHAR: f64 = 0.62; // width of a character over its size, in a monospaced font
const MOST: usize = 14; // characters of a label

const CONTEXT: &str = "#7fa8d1";
const TARGET: &str = "#e07b39";
const FUNCTIONAL: &str = "#9a9a9a";
const SEGMENTS: [(&str, &str); 3] = [("#d9ead3", "segment 0"), ("#fff2cc", "segment 1"), ("#ead1dc", "segment 2")];

fn color(class: TokenClass) -> &'static str {
    match class {
        TokenClass::Plain => CONTEXT,
        TokenClass::Target => TARGET,
        TokenClass::Functional => FUNCTIONAL,
    }
}

fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if (c as u32) < 32 => out.push('\u{fffd}'), // XML has no control characters
            c => out.push(c),
        }
    }
    out
}

/// Where things lie, in pixels.
struct Layout {
    cell: f64,
    label: f64,
    left: f64,
    top: f64,
    side: f64,
}

impl View {
    /// The mask as a picture: rows are queries, columns keys, coloured where the query sees the key; tokens label both
    /// axes.
    pub fn to_svg(&self) -> String {
        let len = self.len();
        let classes = self.classes();
        let facts = self.facts(&classes);
        let cell = (SIDE / len.max(1) as f64).clamp(1.5, 24.0);
        let label = (cell * 0.92).min(LABEL);
        let labels = label * CHAR * (MOST + 5) as f64;
        let heading = 30.0 + 17.0 * facts.len() as f64;
        let layout = Layout { cell, label, left: labels + 34.0, top: heading + labels + 30.0, side: cell * len as f64 };
        let (width, height) = (layout.left + layout.side + 30.0, layout.top + layout.side + 70.0);
        let width = width.max(860.0);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} \
             {height:.0}\" font-family=\"DejaVu Sans, Noto Sans CJK SC, sans-serif\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        // Writing to a string cannot fail.
        for (i, (name, fact)) in facts.iter().enumerate() {
            let y = 26.0 + 17.0 * i as f64;
            let _ = writeln!(
                svg,
                "<text x=\"16\" y=\"{y}\" font-size=\"12\"><tspan font-weight=\"bold\">{name}</tspan> {}</text>",
                escape(fact)
            );
        }
        self.axes(&mut svg, &layout, &classes);
        self.cells(&mut svg, &layout, &classes);
        self.parts_and_legend(&mut svg, &layout);
        svg.push_str("</svg>\n");
        svg
    }

    /// Tokens along both sides, with a strip in the colour of their segment.
    fn axes(&self, svg: &mut String, at: &Layout, classes: &[TokenClass]) {
        let Layout { cell, label, left, top, .. } = *at;
        for (i, piece) in self.pieces.iter().enumerate() {
            let middle = (i as f64 + 0.5) * cell;
            let segment = SEGMENTS[usize::from(self.record.segment_ids[i]).min(SEGMENTS.len() - 1)].0;
            let corner = i as f64 * cell;
            let _ = writeln!(
                svg,
                "<rect x=\"{:.2}\" y=\"{:.2}\" width=\"8\" height=\"{cell:.2}\" fill=\"{segment}\"/>\
                 <rect x=\"{:.2}\" y=\"{:.2}\" width=\"{cell:.2}\" height=\"8\" fill=\"{segment}\"/>",
                left - 10.0,
                top + corner,
                left + corner,
                top - 10.0,
            );
            let short: String = piece.chars().take(MOST).collect();
            let text = escape(&if short.len() < piece.len() { format!("{short}…") } else { short });
            let (fill, weight) = match classes[i] {
                TokenClass::Plain => ("#333333", "normal"),
                class => (color(class), "bold"),
            };
            let style = format!("font-size=\"{label:.2}\" fill=\"{fill}\" font-weight=\"{weight}\"");
            let (x, y) = (left - 14.0, top + middle + label * 0.35);
            let _ = writeln!(svg, "<text x=\"{x:.2}\" y=\"{y:.2}\" text-anchor=\"end\" {style}>{i} {text}</text>");
            let (x, y) = (left + middle + label * 0.35, top - 14.0);
            let _ = writeln!(
                svg,
                "<text x=\"{x:.2}\" y=\"{y:.2}\" transform=\"rotate(-90 {x:.2} {y:.2})\" {style}>{text} {i}</text>"
            );
        }
    }

    /// Runs of keys of one class that a query sees, as rectangles.
    fn cells(&self, svg: &mut String, at: &Layout, classes: &[TokenClass]) {
        let Layout { cell, left, top, side, .. } = *at;
        let len = self.len();
        let look = |i: usize, j: usize| self.sees(i, j).then(|| color(classes[j]));
        for i in 0..len {
            let mut j = 0;
            while j < len {
                let seen = look(i, j);
                let end = (j + 1..len).find(|&k| look(i, k) != seen).unwrap_or(len);
                if let Some(fill) = seen {
                    let (x, y) = (left + j as f64 * cell, top + i as f64 * cell);
                    let (width, height) = ((end - j) as f64 * cell, cell);
                    let _ = writeln!(
                        svg,
                        "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" fill=\"{fill}\"/>"
                    );
                }
                j = end;
            }
            // What only the content stream sees: itself.
            if !self.sees(i, i) {
                let (x, y) = (left + (i as f64 + 0.25) * cell, top + (i as f64 + 0.25) * cell);
                let half = cell / 2.0;
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{half:.2}\" height=\"{half:.2}\" fill=\"none\" \
                     stroke=\"{TARGET}\" stroke-width=\"{:.2}\"/>",
                    cell / 10.0
                );
            }
        }
        if cell >= 6.0 {
            for line in 0..=len {
                let (x, y) = (left + line as f64 * cell, top + line as f64 * cell);
                let (right, bottom) = (left + side, top + side);
                let _ = writeln!(
                    svg,
                    "<path d=\"M{x:.2} {top:.2}V{bottom:.2}M{left:.2} {y:.2}H{right:.2}\" stroke=\"white\" \
                     stroke-width=\"0.5\"/>"
                );
            }
        }
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.2}\" y=\"{top:.2}\" width=\"{side:.2}\" height=\"{side:.2}\" fill=\"none\" stroke=\"#333333\"/>"
        );
    }

    fn parts_and_legend(&self, svg: &mut String, at: &Layout) {
        let Layout { cell, left, top, side, .. } = *at;
        for part in self.parts().iter().filter(|part| !part.range.is_empty()) {
            let (start, end) = (part.range.start as f64 * cell, part.range.end as f64 * cell);
            let _ = writeln!(
                svg,
                "<path d=\"M{:.2} {:.2}V{:.2}\" stroke=\"#333333\" stroke-width=\"2\"/>\
                 <text x=\"{:.2}\" y=\"{:.2}\" font-size=\"12\" text-anchor=\"middle\" \
                 transform=\"rotate(90 {:.2} {:.2})\">{}</text>",
                left + side + 5.0,
                top + start + 1.0,
                top + end - 1.0,
                left + side + 11.0,
                top + (start + end) / 2.0,
                left + side + 11.0,
                top + (start + end) / 2.0,
                part.name
            );
            let x = left + end;
            let _ = writeln!(
                svg,
                "<path d=\"M{x:.2} {top:.2}V{:.2}M{left:.2} {:.2}H{:.2}\" stroke=\"#333333\" stroke-dasharray=\"4 3\" \
                 stroke-width=\"0.7\"/>",
                top + side,
                top + end,
                left + side
            );
        }
        let y = top + side + 22.0;
        let entries =
            [(CONTEXT, "sees context"), (TARGET, "sees a predicted token"), (FUNCTIONAL, "sees <sep> or <cls>")];
        let mut x = 16.0;
        for (fill, text) in entries.into_iter().chain(SEGMENTS) {
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{}\" width=\"11\" height=\"11\" fill=\"{fill}\"/>\
                 <text x=\"{}\" y=\"{y}\" font-size=\"12\">{}</text>",
                y - 10.0,
                x + 16.0,
                escape(text)
            );
            x += 34.0 + 7.0 * text.len() as f64;
        }
        let _ = writeln!(
            svg,
            "<text x=\"16\" y=\"{}\" font-size=\"12\">Rows are queries, columns keys. Small squares: the content stream \
             sees itself there, the query stream does not. Everything sees the memory.</text>",
            y + 22.0
        );
    }
}
