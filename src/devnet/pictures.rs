//! Small pictures: what an image task shows.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{ExtendedColorType, ImageEncoder};

use super::shapes::{self, SH_C0};
use crate::splat::Splat;

/// Pixels along each side.
const SIDE: usize = 128;

/// Base64 of a PNG that shows the scene of a text.
pub fn prompt_image(text: &str, seed: u32) -> String {
    STANDARD.encode(png(text, seed))
}

/// A PNG of 128 x 128 pixels that shows the scene of a text before a plain ground.
pub fn png(text: &str, seed: u32) -> Vec<u8> {
    let pixels = front_view(&shapes::generate(text, seed, shapes::MIN_GAUSSIANS));
    let mut png = Vec::new();
    image::codecs::png::PngEncoder::new(&mut png)
        .write_image(&pixels, SIDE as u32, SIDE as u32, ExtendedColorType::Rgb8)
        .expect("an RGB buffer of the stated size always encodes into memory");
    png
}

/// The points seen from the front, a little from above, without perspective: nearest point wins.
fn front_view(splat: &Splat) -> Vec<u8> {
    const GROUND: [u8; 3] = [236, 236, 232];
    let (sin, cos) = 0.35_f32.sin_cos();
    let mut pixels = GROUND.repeat(SIDE * SIDE);
    let mut depth = vec![f32::MIN; SIDE * SIDE];
    let pixel = |v: f32| ((v * 0.82 + 0.5) * SIDE as f32) as usize;
    for g in splat.gaussians() {
        let [x, y, z] = g.position;
        let (x, y, z) = (x, cos * y - sin * z, sin * y + cos * z);
        let colour = g.f_dc.map(|v| ((0.5 + SH_C0 * v).clamp(0.0, 1.0) * 255.0) as u8);
        let (column, row) = (pixel(x), pixel(-y));
        for (row, column) in [(row, column), (row + 1, column), (row, column + 1), (row + 1, column + 1)] {
            if row < SIDE && column < SIDE && depth[row * SIDE + column] < z {
                depth[row * SIDE + column] = z;
                pixels[(row * SIDE + column) * 3..][..3].copy_from_slice(&colour);
            }
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_a_small_png_with_something_on_it() {
        let bytes = png("a red cube", 1);
        assert!(bytes.len() < 64 << 10);
        let picture = image::load_from_memory(&bytes).unwrap().to_rgb8();
        assert_eq!(picture.dimensions(), (128, 128));
        let red = picture.pixels().filter(|p| p[0] > p[1].saturating_add(60)).count();
        assert!(red > 2_000, "{red} red pixels");
    }

    #[test]
    fn a_seed_is_repeatable_and_another_one_differs() {
        assert_eq!(prompt_image("a red cube", 1), prompt_image("a red cube", 1));
        assert_ne!(prompt_image("a red cube", 1), prompt_image("a red cube", 2));
        assert!(prompt_image("a cup", 1).starts_with("iVBOR"));
    }
}
