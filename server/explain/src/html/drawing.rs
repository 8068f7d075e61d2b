//! Boxes and the lines between them, as SVG: one at the left, what belongs to it to the right.

use std::fmt::Write;

use super::escape;

/// Width of a box, its height without lines, what a line adds, and the room between boxes.
const WIDTH: f64 = 252.0;
const HEAD: f64 = 28.0;
const LINE: f64 = 15.0;
const GAP: (f64, f64) = (28.0, 16.0);

/// A box of a drawing.
pub(super) struct Shape {
    pub(super) title: String,
    pub(super) lines: Vec<String>,
    /// The colour of its title.
    pub(super) class: &'static str,
    /// How full its bar is, from 0 to 1.
    pub(super) bar: f64,
    pub(super) hover: String,
    /// Whether the line that leads to it is dashed.
    pub(super) dashed: bool,
}

struct Placed {
    x: f64,
    y: f64,
    shape: Shape,
}

/// Draws a tree: `shape` makes the box of an element, and `below` tells what belongs to it.
pub(super) fn draw<T: Copy>(out: &mut String, root: T, shape: &impl Fn(T) -> Shape, below: &impl Fn(T) -> Vec<T>) {
    let (mut placed, mut edges) = (Vec::new(), Vec::new());
    let lines = most_lines(root, shape, below);
    let height = HEAD + LINE * lines as f64;
    place(root, (0, &mut 0.0), height, (shape, below), &mut placed, &mut edges);
    svg(out, &placed, &edges, height);
}

fn most_lines<T: Copy>(at: T, shape: &impl Fn(T) -> Shape, below: &impl Fn(T) -> Vec<T>) -> usize {
    let others = below(at).into_iter().map(|other| most_lines(other, shape, below)).max();
    shape(at).lines.len().max(others.unwrap_or(0))
}

fn place<T: Copy>(
    at: T,
    (depth, bottom): (usize, &mut f64),
    height: f64,
    (shape, below): (&impl Fn(T) -> Shape, &impl Fn(T) -> Vec<T>),
    placed: &mut Vec<Placed>,
    edges: &mut Vec<(usize, usize)>,
) -> usize {
    let own = placed.len();
    placed.push(Placed { x: depth as f64 * (WIDTH + GAP.0), y: *bottom, shape: shape(at) });
    let others = below(at);
    if others.is_empty() {
        *bottom += height + GAP.1;
    }
    for other in others {
        let other = place(other, (depth + 1, bottom), height, (shape, below), placed, edges);
        edges.push((own, other));
    }
    own
}

fn svg(out: &mut String, placed: &[Placed], edges: &[(usize, usize)], high: f64) {
    let width = placed.iter().map(|placed| placed.x).fold(0.0, f64::max) + WIDTH + 2.0;
    let height = placed.iter().map(|placed| placed.y).fold(0.0, f64::max) + high + 4.0;
    let _ =
        write!(out, "<div class=scroll><svg width=\"{width}\" height=\"{height}\" viewBox=\"-1 -1 {width} {height}\">");
    for &(from, to) in edges {
        let (from, to) = (&placed[from], &placed[to]);
        let (x, y) = (from.x + WIDTH, from.y + high / 2.0);
        let (end, middle) = (to.x, x + GAP.0 / 2.0);
        let dashed = if to.shape.dashed { " stroke-dasharray=\"4 3\"" } else { "" };
        let _ = write!(out, "<path class=e{dashed} d=\"M{x} {y}H{middle}V{}H{end}\"/>", to.y + high / 2.0);
    }
    for Placed { x, y, shape } in placed {
        let class = if shape.class == "dim" { "" } else { shape.class };
        let _ = write!(
            out,
            "<g><title>{}</title><rect class=b x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{high}\" rx=\"8\"/>\
             <rect class=\"bar k\" x=\"{x}\" y=\"{}\" width=\"{:.1}\" height=\"3\" rx=\"1.5\"/>\
             <svg x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{high}\"><text class=\"t {class}\" x=\"10\" y=\"18\">{}</text>",
            escape(&shape.hover),
            y + high - 3.0,
            (shape.bar * WIDTH).max(2.0),
            WIDTH - 6.0,
            escape(&shape.title)
        );
        for (line, text) in shape.lines.iter().enumerate() {
            let warn = if text.contains('–') { " wf" } else { "" };
            let _ = write!(
                out,
                "<text class=\"s{warn}\" x=\"10\" y=\"{}\">{}</text>",
                34.0 + LINE * line as f64,
                escape(text)
            );
        }
        out.push_str("</svg></g>");
    }
    out.push_str("</svg></div>");
}
