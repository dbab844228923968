//! A picture as a relief: the pixels are the points, the bright ones stand out.

use std::io::Cursor;

use image::{DynamicImage, ImageReader, Limits, RgbaImage};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::shapes::{self, SH_C0};
use crate::splat::{Gaussian, Splat};

/// Longest side accepted, in pixels.
const MAX_SIDE: u32 = 8_192;
/// Memory a decoder may take, in bytes: a picture of the largest size at four bytes a pixel.
const MAX_ALLOC: u64 = 256 << 20;

/// Some bytes are no picture a relief can be made of.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    #[error("not a PNG, JPEG or WebP picture")]
    UnknownFormat,
    #[error("the picture cannot be read: {0}")]
    Unreadable(#[from] image::ImageError),
    #[error("the picture has no pixels")]
    Empty,
}

/// Makes a relief of a PNG, JPEG or WebP picture. `points` below 20,000 counts as that many; there
/// are up to a few hundred more.
///
/// # Errors
/// When the bytes are no picture, or one with a side over 8,192 pixels.
pub fn generate(picture: &[u8], seed: u32, points: usize) -> Result<Splat, PictureError> {
    let image = decode(picture)?;
    let points = points.max(shapes::MIN_GAUSSIANS);
    let mut rng = StdRng::seed_from_u64(super::mix(seed.into(), picture));
    Ok(raise(&resized(&image, points)?, &mut rng))
}

/// Whether bytes are a picture a relief could be made of.
///
/// # Errors
/// As [`generate`].
pub fn check(picture: &[u8]) -> Result<(), PictureError> {
    decode(picture).map(drop)
}

fn decode(bytes: &[u8]) -> Result<DynamicImage, PictureError> {
    let format = image::guess_format(bytes).map_err(|_| PictureError::UnknownFormat)?;
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_ALLOC);
    reader.limits(limits);
    Ok(reader.decode()?)
}

/// The picture on a grid of at least `points` pixels of about its proportions.
fn resized(image: &DynamicImage, points: usize) -> Result<RgbaImage, PictureError> {
    let (width, height) = (image.width(), image.height());
    if width == 0 || height == 0 {
        return Err(PictureError::Empty);
    }
    // A strip of pixels is still shown as something to look at.
    let aspect = (f64::from(width) / f64::from(height)).clamp(0.25, 4.0);
    let columns = (points as f64 * aspect).sqrt().ceil();
    let rows = (points as f64 / columns).ceil();
    let grid = image.resize_exact(columns as u32, rows as u32, image::imageops::FilterType::Triangle);
    Ok(grid.to_rgba8())
}

/// Transparent pixels are laid on white, as the validator's scorer does (workers.md 2.2).
fn on_white(pixel: &image::Rgba<u8>) -> [f32; 3] {
    let [r, g, b, a] = pixel.0.map(|v| f32::from(v) / 255.0);
    [r, g, b].map(|v| v * a + 1.0 - a)
}

fn raise(grid: &RgbaImage, rng: &mut StdRng) -> Splat {
    let (columns, rows) = grid.dimensions();
    let cell = 1.0 / columns.max(rows) as f32;
    let gain = rng.random_range(0.16..0.24);
    let yaw: f32 = rng.random_range(-0.25..0.25);
    let (sin, cos) = yaw.sin_cos();
    let place = |[x, y, z]: [f32; 3]| [cos * x + sin * z, y, cos * z - sin * x];
    let height = |column: u32, row: u32| {
        let pixel = grid.get_pixel(column.min(columns - 1), row.min(rows - 1));
        let [r, g, b] = on_white(pixel);
        gain * (0.299 * r + 0.587 * g + 0.114 * b)
    };
    let mut cloud = Vec::with_capacity(columns as usize * rows as usize);
    for (column, row, pixel) in grid.enumerate_pixels() {
        let here = height(column, row);
        let slope = [here - height(column + 1, row), height(column, row + 1) - here].map(|v| v / cell);
        let jitter: [f32; 2] = std::array::from_fn(|_| rng.random_range(-0.3..0.3));
        let colour = on_white(pixel).map(|v| (v + rng.random_range(-0.015..0.015)).clamp(0.0, 1.0));
        let x = (column as f32 + jitter[0] - columns as f32 / 2.0) * cell;
        let y = (rows as f32 / 2.0 - row as f32 - jitter[1]) * cell;
        // A steep step is covered by a longer disc.
        let steepness = slope[0].hypot(slope[1]).min(3.0);
        let width = cell * rng.random_range(0.55..0.75);
        cloud.push(Gaussian {
            position: place([x, y, here]),
            log_scale: [width * (1.0 + 0.3 * steepness), width, cell * 0.15],
            rotation: shapes::facing(place([slope[0], slope[1], 1.0]), rng.random_range(-0.2..0.2)),
            logit_opacity: rng.random_range(3.0..4.5),
            f_dc: colour.map(|v| (v - 0.5) / SH_C0),
        });
    }
    shapes::fit(cloud, 0.95)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devnet::judge::{data_rules, judge};
    use crate::devnet::pictures;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        let image = image::RgbaImage::from_fn(width, height, |x, y| image::Rgba([x as u8, y as u8, 90, 200]));
        image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn a_picture_becomes_a_valid_relief() {
        let splat = generate(&pictures::png("a red cube", 1), 5, 24_000).unwrap();
        assert!((24_000..24_500).contains(&splat.len()), "{}", splat.len());
        data_rules(&splat).unwrap();
        let score = judge(None, &splat).unwrap().score;
        assert!((0.65..=0.95).contains(&score), "{score}");
        assert!(splat.gaussians().iter().all(|g| g.position.iter().all(|v| v.abs() <= 0.5)));
    }

    #[test]
    fn every_size_and_proportion_has_enough_points() {
        for (width, height) in [(1, 1), (2, 1_000), (1_000, 2), (64, 64), (500, 300)] {
            let splat = generate(&png(width, height), 1, 0).unwrap();
            assert!(splat.len() >= shapes::MIN_GAUSSIANS, "{width} x {height}: {}", splat.len());
            data_rules(&splat).unwrap();
        }
    }

    #[test]
    fn a_seed_is_repeatable_and_another_one_differs() {
        let picture = png(64, 64);
        assert_eq!(generate(&picture, 1, 0).unwrap(), generate(&picture, 1, 0).unwrap());
        assert_ne!(generate(&picture, 1, 0).unwrap(), generate(&picture, 2, 0).unwrap());
    }

    #[test]
    fn bytes_that_are_no_picture_are_refused() {
        assert!(matches!(generate(b"", 1, 0), Err(PictureError::UnknownFormat)));
        assert!(matches!(generate(b"GIF89a", 1, 0), Err(PictureError::Unreadable(_))));
        let cut = &png(64, 64)[..60];
        assert!(matches!(generate(cut, 1, 0), Err(PictureError::Unreadable(_))));
    }

    #[test]
    fn a_picture_that_claims_to_be_huge_is_refused_from_its_header() {
        let mut huge = png(4, 4);
        huge[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
        assert!(generate(&huge, 1, 0).is_err());
        assert!(matches!(generate(&png(8_193, 1), 1, 0), Err(PictureError::Unreadable(_))));
    }
}
