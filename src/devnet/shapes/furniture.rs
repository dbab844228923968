//! Shapes as parts, each about one unit high and standing on y = 0.

use super::body::{Body, Part};
use crate::devnet::words::{Rgb, Shape};

const GLASS: Rgb = [0.62, 0.74, 0.82];
const DARK: Rgb = [0.10, 0.10, 0.11];

fn part(body: Body, centre: [f32; 3], colour: Rgb) -> Part {
    Part { body, centre, tilt: 0.0, colour }
}

fn tilted(body: Body, centre: [f32; 3], tilt: f32, colour: Rgb) -> Part {
    Part { body, centre, tilt, colour }
}

fn rod(radius: f32, half: f32) -> Body {
    Body::Frustum { lower: radius, upper: radius, half }
}

/// The parts of a shape in the given colours; the second is used where the shape has two sorts of parts.
pub(super) fn parts(shape: Shape, colours: &[Rgb]) -> Vec<Part> {
    let main = colours.first().copied().unwrap_or([0.5; 3]);
    // One named colour paints everything: a red house has a red roof, a little darker.
    let second = colours.get(1).copied().unwrap_or_else(|| main.map(|v| v * 0.86));
    match shape {
        Shape::Cube => halves(main, colours.get(1).copied()),
        Shape::Sphere => vec![part(Body::Ellipsoid([0.5; 3]), [0.0, 0.5, 0.0], main)],
        Shape::Torus => vec![part(Body::Torus { ring: 0.38, tube: 0.15 }, [0.0, 0.15, 0.0], main)],
        Shape::Cone => {
            vec![part(Body::Frustum { lower: 0.42, upper: 0.0, half: 0.5 }, [0.0, 0.5, 0.0], main)]
        }
        Shape::Cylinder => vec![part(rod(0.32, 0.5), [0.0, 0.5, 0.0], main)],
        Shape::Disc => vec![part(rod(0.42, 0.06), [0.0, 0.06, 0.0], main)],
        Shape::Pyramid => vec![part(Body::Pyramid { base: 0.5, half: 0.4 }, [0.0, 0.4, 0.0], main)],
        Shape::Table => on_legs(vec![part(Body::Cuboid([0.7, 0.04, 0.5]), [0.0, 0.62, 0.0], main)], second),
        Shape::Chair => vec![
            part(Body::Cuboid([0.28, 0.03, 0.28]), [0.0, 0.45, 0.0], main),
            part(Body::Cuboid([0.28, 0.28, 0.03]), [0.0, 0.74, -0.25], main),
            part(rod(0.03, 0.21), [0.24, 0.21, 0.24], second),
            part(rod(0.03, 0.21), [-0.24, 0.21, 0.24], second),
            part(rod(0.03, 0.21), [0.24, 0.21, -0.24], second),
            part(rod(0.03, 0.21), [-0.24, 0.21, -0.24], second),
        ],
        Shape::House => vec![
            part(Body::Cuboid([0.45, 0.28, 0.38]), [0.0, 0.28, 0.0], main),
            part(Body::Pyramid { base: 0.52, half: 0.2 }, [0.0, 0.76, 0.0], second),
            part(Body::Cuboid([0.09, 0.16, 0.01]), [0.0, 0.16, 0.385], main.map(|v| v * 0.6)),
            part(Body::Cuboid([0.08, 0.08, 0.01]), [0.27, 0.34, 0.385], GLASS),
            part(Body::Cuboid([0.08, 0.08, 0.01]), [-0.27, 0.34, 0.385], GLASS),
        ],
        Shape::Tree => vec![
            part(rod(0.08, 0.2), [0.0, 0.2, 0.0], second),
            part(Body::Frustum { lower: 0.36, upper: 0.1, half: 0.18 }, [0.0, 0.52, 0.0], main),
            part(Body::Frustum { lower: 0.28, upper: 0.0, half: 0.2 }, [0.0, 0.84, 0.0], main),
        ],
        Shape::Star => vec![part(Body::Star { radius: 0.55, half: 0.1 }, [0.0, 0.55, 0.0], main)],
        Shape::Car => car(main, colours.get(1).copied().unwrap_or(DARK)),
        Shape::Boat => vec![
            part(Body::Ellipsoid([0.6, 0.16, 0.24]), [0.0, 0.16, 0.0], main),
            part(rod(0.02, 0.35), [0.0, 0.62, 0.0], second),
            part(Body::Pyramid { base: 0.22, half: 0.25 }, [0.0, 0.68, 0.0], main),
        ],
        Shape::Lamp => vec![
            part(rod(0.22, 0.03), [0.0, 0.03, 0.0], second),
            part(rod(0.03, 0.3), [0.0, 0.36, 0.0], second),
            part(Body::Shell { lower: 0.34, upper: 0.18, half: 0.18 }, [0.0, 0.82, 0.0], main),
        ],
        Shape::Cup => vec![
            part(Body::Shell { lower: 0.26, upper: 0.34, half: 0.4 }, [0.0, 0.4, 0.0], main),
            part(Body::Cuboid([0.03, 0.2, 0.04]), [0.5, 0.42, 0.0], main),
            part(Body::Cuboid([0.09, 0.03, 0.04]), [0.4, 0.6, 0.0], main),
            part(Body::Cuboid([0.1, 0.03, 0.04]), [0.39, 0.24, 0.0], main),
        ],
        Shape::Mushroom => vec![
            part(Body::Frustum { lower: 0.16, upper: 0.12, half: 0.3 }, [0.0, 0.3, 0.0], second),
            part(Body::Ellipsoid([0.45, 0.22, 0.45]), [0.0, 0.68, 0.0], main),
        ],
        Shape::Snowman => snowman(main, colours.get(1).copied().unwrap_or([0.90, 0.48, 0.12])),
        Shape::Rocket => vec![
            part(rod(0.18, 0.35), [0.0, 0.45, 0.0], main),
            part(Body::Frustum { lower: 0.18, upper: 0.0, half: 0.15 }, [0.0, 0.95, 0.0], second),
            part(Body::Cuboid([0.34, 0.1, 0.02]), [0.0, 0.16, 0.0], second),
            part(Body::Cuboid([0.02, 0.1, 0.34]), [0.0, 0.16, 0.0], second),
            part(Body::Shell { lower: 0.16, upper: 0.08, half: 0.05 }, [0.0, 0.05, 0.0], second),
        ],
        Shape::Sword => vec![
            part(Body::Cuboid([0.06, 0.38, 0.02]), [0.0, 0.66, 0.0], main),
            part(Body::Cuboid([0.2, 0.03, 0.05]), [0.0, 0.27, 0.0], main.map(|v| v * 0.9)),
            part(rod(0.035, 0.12), [0.0, 0.13, 0.0], second),
        ],
        Shape::Tower => vec![
            part(Body::Frustum { lower: 0.3, upper: 0.24, half: 0.36 }, [0.0, 0.36, 0.0], main),
            part(rod(0.32, 0.06), [0.0, 0.78, 0.0], main),
            part(Body::Frustum { lower: 0.3, upper: 0.0, half: 0.16 }, [0.0, 1.0, 0.0], second),
        ],
    }
}

fn halves(main: Rgb, other: Option<Rgb>) -> Vec<Part> {
    let Some(other) = other else {
        return vec![part(Body::Cuboid([0.42; 3]), [0.0, 0.42, 0.0], main)];
    };
    vec![
        part(Body::Cuboid([0.42, 0.21, 0.42]), [0.0, 0.63, 0.0], main),
        part(Body::Cuboid([0.42, 0.21, 0.42]), [0.0, 0.21, 0.0], other),
    ]
}

fn on_legs(mut parts: Vec<Part>, colour: Rgb) -> Vec<Part> {
    for (x, z) in [(0.62, 0.42), (-0.62, 0.42), (0.62, -0.42), (-0.62, -0.42)] {
        parts.push(part(Body::Cuboid([0.04, 0.29, 0.04]), [x, 0.29, z], colour));
    }
    parts
}

fn car(main: Rgb, tyres: Rgb) -> Vec<Part> {
    let mut parts = vec![
        part(Body::Cuboid([0.6, 0.14, 0.27]), [0.0, 0.28, 0.0], main),
        part(Body::Cuboid([0.3, 0.12, 0.24]), [-0.05, 0.54, 0.0], main),
        part(Body::Cuboid([0.31, 0.07, 0.2]), [-0.05, 0.55, 0.0], GLASS),
    ];
    for (x, z) in [(0.36, 0.27), (-0.36, 0.27), (0.36, -0.27), (-0.36, -0.27)] {
        parts.push(part(Body::Ellipsoid([0.14, 0.14, 0.05]), [x, 0.14, z], tyres));
    }
    parts
}

fn snowman(main: Rgb, nose: Rgb) -> Vec<Part> {
    vec![
        part(Body::Ellipsoid([0.3; 3]), [0.0, 0.3, 0.0], main),
        part(Body::Ellipsoid([0.22; 3]), [0.0, 0.72, 0.0], main),
        part(Body::Ellipsoid([0.15; 3]), [0.0, 1.03, 0.0], main),
        tilted(Body::Frustum { lower: 0.03, upper: 0.0, half: 0.09 }, [0.2, 1.03, 0.0], -1.57, nose),
        part(Body::Ellipsoid([0.025; 3]), [0.1, 1.1, 0.1], DARK),
        part(Body::Ellipsoid([0.025; 3]), [0.1, 1.1, -0.1], DARK),
    ]
}
