//! Simple bodies and points on them.

use std::f32::consts::{PI, TAU};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::devnet::words::Rgb;

/// A body about its own centre, y up.
#[derive(Debug, Clone, Copy)]
pub(super) enum Body {
    /// Half the edge along each axis.
    Cuboid([f32; 3]),
    Ellipsoid([f32; 3]),
    /// Lower and upper radius, half the height; a radius of 0 makes a cone. With both ends closed.
    Frustum {
        lower: f32,
        upper: f32,
        half: f32,
    },
    /// A frustum without its upper end, open like a cup.
    Shell {
        lower: f32,
        upper: f32,
        half: f32,
    },
    /// Lying flat: radius of the ring and of the tube.
    Torus {
        ring: f32,
        tube: f32,
    },
    /// Half the base's edge, half the height.
    Pyramid {
        base: f32,
        half: f32,
    },
    /// Five points, standing; outer radius and half the thickness.
    Star {
        radius: f32,
        half: f32,
    },
}

/// A coloured body at its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub body: Body,
    pub centre: [f32; 3],
    /// Turn about z, radians.
    pub tilt: f32,
    pub colour: Rgb,
}

impl Part {
    pub fn surface(&self) -> Surface {
        let faces = self.body.faces();
        let areas: Vec<f32> = faces.iter().map(Face::area).collect();
        Surface { part: *self, area: areas.iter().sum(), faces, areas }
    }

    /// Corners of a box around the part.
    pub fn bounds(&self) -> ([f32; 3], [f32; 3]) {
        let [x, y, z] = self.body.half_extents();
        let (sin, cos) = self.tilt.sin_cos();
        let half = [x * cos.abs() + y * sin.abs(), x * sin.abs() + y * cos.abs(), z];
        (
            std::array::from_fn(|axis| self.centre[axis] - half[axis]),
            std::array::from_fn(|axis| self.centre[axis] + half[axis]),
        )
    }

    /// Scaled about the origin, then moved.
    pub fn placed(&self, scale: f32, by: [f32; 3]) -> Self {
        Self {
            body: self.body.scaled(scale),
            centre: std::array::from_fn(|axis| self.centre[axis] * scale + by[axis]),
            ..*self
        }
    }
}

/// The outside of a part.
pub(super) struct Surface {
    pub part: Part,
    pub area: f32,
    faces: Vec<Face>,
    areas: Vec<f32>,
}

impl Surface {
    /// A point, spread evenly, and the outward direction there.
    pub fn sample(&self, rng: &mut StdRng) -> ([f32; 3], [f32; 3]) {
        let mut at = rng.random::<f32>() * self.area;
        let mut chosen = 0;
        for (index, area) in self.areas.iter().enumerate() {
            chosen = index;
            at -= area;
            if at <= 0.0 {
                break;
            }
        }
        let (point, normal) = self.faces[chosen].sample(rng);
        let point = turned(point, self.part.tilt);
        let point = std::array::from_fn(|axis| point[axis] + self.part.centre[axis]);
        (point, turned(normal, self.part.tilt))
    }
}

fn turned([x, y, z]: [f32; 3], angle: f32) -> [f32; 3] {
    let (sin, cos) = angle.sin_cos();
    [cos * x - sin * y, sin * x + cos * y, z]
}

/// A piece of a surface that can be sampled evenly.
#[derive(Debug, Clone, Copy)]
enum Face {
    Parallelogram {
        corner: [f32; 3],
        u: [f32; 3],
        v: [f32; 3],
    },
    Triangle {
        corner: [f32; 3],
        u: [f32; 3],
        v: [f32; 3],
    },
    Disc {
        radius: f32,
        height: f32,
        up: f32,
    },
    /// Side of a frustum.
    Side {
        lower: f32,
        upper: f32,
        half: f32,
        outward: f32,
    },
    Ellipsoid([f32; 3]),
    Torus {
        ring: f32,
        tube: f32,
    },
}

fn cross(a: [f32; 3], b: [f32; 3]) -> [f32; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

fn length(a: [f32; 3]) -> f32 {
    a.iter().map(|v| v * v).sum::<f32>().sqrt()
}

fn unit(a: [f32; 3]) -> [f32; 3] {
    let length = length(a).max(1e-9);
    a.map(|v| v / length)
}

impl Face {
    fn area(&self) -> f32 {
        match *self {
            Self::Parallelogram { u, v, .. } => length(cross(u, v)),
            Self::Triangle { u, v, .. } => length(cross(u, v)) / 2.0,
            Self::Disc { radius, .. } => PI * radius * radius,
            Self::Side { lower, upper, half, .. } => PI * (lower + upper) * (2.0 * half).hypot(lower - upper),
            // Thomsen's approximation, within 1.1 %.
            Self::Ellipsoid([a, b, c]) => {
                let [a, b, c] = [a, b, c].map(|v| v.powf(1.6));
                4.0 * PI * ((a * b + a * c + b * c) / 3.0).powf(1.0 / 1.6)
            }
            Self::Torus { ring, tube } => TAU * TAU * ring * tube,
        }
    }

    fn sample(&self, rng: &mut StdRng) -> ([f32; 3], [f32; 3]) {
        match *self {
            Self::Parallelogram { corner, u, v } => {
                let (s, t) = (rng.random::<f32>(), rng.random::<f32>());
                (std::array::from_fn(|i| corner[i] + s * u[i] + t * v[i]), unit(cross(u, v)))
            }
            Self::Triangle { corner, u, v } => {
                let (mut s, mut t) = (rng.random::<f32>(), rng.random::<f32>());
                if s + t > 1.0 {
                    (s, t) = (1.0 - s, 1.0 - t);
                }
                (std::array::from_fn(|i| corner[i] + s * u[i] + t * v[i]), unit(cross(u, v)))
            }
            Self::Disc { radius, height, up } => {
                let (sin, cos) = rng.random_range(0.0..TAU).sin_cos();
                let r = radius * rng.random::<f32>().sqrt();
                ([r * cos, height, r * sin], [0.0, up, 0.0])
            }
            Self::Side { lower, upper, half, outward } => {
                let (sin, cos) = rng.random_range(0.0..TAU).sin_cos();
                // Inverse of the area below a height, which grows with the radius.
                let k = rng.random::<f32>();
                let r = (lower * lower + k * (upper * upper - lower * lower)).max(0.0).sqrt();
                let along = if (upper - lower).abs() < 1e-6 { k } else { (r - lower) / (upper - lower) };
                let slope = unit([2.0 * half, lower - upper, 0.0]);
                let normal = [slope[0] * cos, slope[1], slope[0] * sin].map(|v| v * outward);
                ([r * cos, half * (2.0 * along - 1.0), r * sin], normal)
            }
            Self::Ellipsoid(radii) => {
                let y = rng.random_range(-1.0..1.0_f32);
                let (sin, cos) = rng.random_range(0.0..TAU).sin_cos();
                let r = (1.0 - y * y).sqrt();
                let on_sphere = [r * cos, y, r * sin];
                (
                    std::array::from_fn(|i| on_sphere[i] * radii[i]),
                    unit(std::array::from_fn(|i| on_sphere[i] / radii[i])),
                )
            }
            Self::Torus { ring, tube } => {
                let (sin, cos) = rng.random_range(0.0..TAU).sin_cos();
                // The outer half has more area than the inner one.
                let around = loop {
                    let angle = rng.random_range(0.0..TAU);
                    if rng.random::<f32>() * (ring + tube) <= ring + tube * angle.cos() {
                        break angle;
                    }
                };
                let (up, out) = around.sin_cos();
                let r = ring + tube * out;
                ([r * cos, tube * up, r * sin], [out * cos, up, out * sin])
            }
        }
    }
}

impl Body {
    fn half_extents(&self) -> [f32; 3] {
        match *self {
            Self::Cuboid(half) | Self::Ellipsoid(half) => half,
            Self::Frustum { lower, upper, half } | Self::Shell { lower, upper, half } => {
                [lower.max(upper), half, lower.max(upper)]
            }
            Self::Torus { ring, tube } => [ring + tube, tube, ring + tube],
            Self::Pyramid { base, half } => [base, half, base],
            Self::Star { radius, half } => [radius, radius, half],
        }
    }

    fn scaled(&self, k: f32) -> Self {
        match *self {
            Self::Cuboid(half) => Self::Cuboid(half.map(|v| v * k)),
            Self::Ellipsoid(radii) => Self::Ellipsoid(radii.map(|v| v * k)),
            Self::Frustum { lower, upper, half } => {
                Self::Frustum { lower: lower * k, upper: upper * k, half: half * k }
            }
            Self::Shell { lower, upper, half } => {
                Self::Shell { lower: lower * k, upper: upper * k, half: half * k }
            }
            Self::Torus { ring, tube } => Self::Torus { ring: ring * k, tube: tube * k },
            Self::Pyramid { base, half } => Self::Pyramid { base: base * k, half: half * k },
            Self::Star { radius, half } => Self::Star { radius: radius * k, half: half * k },
        }
    }

    fn faces(&self) -> Vec<Face> {
        match *self {
            Self::Cuboid(half) => cuboid(half),
            Self::Ellipsoid(radii) => vec![Face::Ellipsoid(radii)],
            Self::Frustum { lower, upper, half } => vec![
                Face::Side { lower, upper, half, outward: 1.0 },
                Face::Disc { radius: lower, height: -half, up: -1.0 },
                Face::Disc { radius: upper, height: half, up: 1.0 },
            ],
            Self::Shell { lower, upper, half } => vec![
                Face::Side { lower, upper, half, outward: 1.0 },
                Face::Side { lower: lower * 0.93, upper: upper * 0.93, half, outward: -1.0 },
                Face::Disc { radius: lower, height: -half, up: -1.0 },
            ],
            Self::Torus { ring, tube } => vec![Face::Torus { ring, tube }],
            Self::Pyramid { base, half } => pyramid(base, half),
            Self::Star { radius, half } => star(radius, half),
        }
    }
}

fn cuboid([x, y, z]: [f32; 3]) -> Vec<Face> {
    let face = |corner, u, v| Face::Parallelogram { corner, u, v };
    let (dx, dy, dz) = ([2.0 * x, 0.0, 0.0], [0.0, 2.0 * y, 0.0], [0.0, 0.0, 2.0 * z]);
    vec![
        face([-x, -y, z], dx, dy),
        face([-x, -y, -z], dy, dx),
        face([x, -y, -z], dy, dz),
        face([-x, -y, -z], dz, dy),
        face([-x, y, -z], dz, dx),
        face([-x, -y, -z], dx, dz),
    ]
}

fn pyramid(base: f32, half: f32) -> Vec<Face> {
    let corners = [[-base, -half, base], [base, -half, base], [base, -half, -base], [-base, -half, -base]];
    let mut faces: Vec<Face> = (0..4)
        .map(|side| {
            let (corner, next) = (corners[side], corners[(side + 1) % 4]);
            let u = std::array::from_fn(|i| next[i] - corner[i]);
            let v = [-corner[0], half - corner[1], -corner[2]];
            Face::Triangle { corner, u, v }
        })
        .collect();
    faces.push(Face::Parallelogram {
        corner: [-base, -half, -base],
        u: [2.0 * base, 0.0, 0.0],
        v: [0.0, 0.0, 2.0 * base],
    });
    faces
}

fn star(radius: f32, half: f32) -> Vec<Face> {
    let tip = |k: usize| {
        let r = if k.is_multiple_of(2) { radius } else { radius * 0.42 };
        let (sin, cos) = (PI / 2.0 + k as f32 * PI / 5.0).sin_cos();
        [r * cos, r * sin]
    };
    let mut faces = Vec::with_capacity(30);
    for k in 0..10 {
        let ([ax, ay], [bx, by]) = (tip(k), tip((k + 1) % 10));
        faces.push(Face::Triangle { corner: [0.0, 0.0, half], u: [ax, ay, 0.0], v: [bx, by, 0.0] });
        faces.push(Face::Triangle { corner: [0.0, 0.0, -half], u: [bx, by, 0.0], v: [ax, ay, 0.0] });
        faces.push(Face::Parallelogram {
            corner: [ax, ay, half],
            u: [0.0, 0.0, -2.0 * half],
            v: [bx - ax, by - ay, 0.0],
        });
    }
    faces
}
